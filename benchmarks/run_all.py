"""Run the benchmarks one after the other and keep what they print in one file.

    python benchmarks/run_all.py [--only NAME ...]

Those that need real data are told where it is by STORM_CLINIC_DATA; without it they are named as
left out. With ``--only`` the other sections of the file stay as they are.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
DATA = "STORM_CLINIC_DATA"
H_AND_E = "her2st/images/C2.jpg"
# Name of the script, what it is given, whether it needs real data.
BENCHMARKS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("tile_reading", (), True),
    ("extraction_speed", (), True),
    ("encoder_speed", ("--tiles", H_AND_E), True),
    ("store_reading", (), False),
    ("mil_training", ("--bags", "14", "--repetitions", "3"), False),
    ("large_bag", (), False),
    ("cohort_inference", (), False),
    ("storm_speed", (), False),
    ("metric_speed", (), False),
    ("growth", ("--picture", "../docs/images/growth.png"), False),
)
HEAD = """# What was measured

Printed by `make bench` (`benchmarks/run_all.py`), one script a section; each names the machine it
ran on. A ratio is that of medians of rounds taken in turns in one run; behind it stand the least
and the greatest of a single round. Absolute times hold for that machine in that hour alone.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name, _, _ in BENCHMARKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    asked = parser.parse_args()
    data = os.environ.get(DATA)
    sections = kept()
    failed = []
    for name, arguments, needs_data in BENCHMARKS:
        if name not in asked.only:
            continue
        if needs_data and data is None:
            print(f"{name} was left out: set {DATA} to the folder with real data", file=sys.stderr)
            continue
        given = [str(Path(data or "") / one) if one == H_AND_E else one for one in arguments]
        done = subprocess.run(
            [sys.executable, f"{name}.py", *given], cwd=HERE, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            failed.append(name)
            continue
        sections[name] = as_section(name, arguments, done.stdout)
        print(sections[name], flush=True)
        write(sections)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def as_section(name: str, arguments: tuple[str, ...], printed: str) -> str:
    """What a script printed under a heading, with a mark by which it is found again."""
    found = re.search(r"^## .*", printed, flags=re.MULTILINE | re.DOTALL)
    text = found[0] if found else f"## {name}\n\n```\n{printed.strip()}\n```"
    command = " ".join(["python", f"benchmarks/{name}.py", *arguments])
    return f"<!-- {name} -->\n{text.strip()}\n\nReproduce: `{command}`\n"


def kept() -> dict[str, str]:
    """Sections of the file as it is, by name."""
    if not RESULTS.exists():
        return {}
    parts = re.split(r"^(?=<!-- \w+ -->$)", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part[5 : part.index(" -->")]: part.rstrip() + "\n" for part in parts[1:]}


def write(sections: dict[str, str]) -> None:
    order = [name for name, _, _ in BENCHMARKS if name in sections]
    RESULTS.write_text("\n".join([HEAD, *(sections[name] for name in order)]), encoding="utf-8")


if __name__ == "__main__":
    main()
