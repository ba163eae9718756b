"""Run the benchmarks one after the other and keep what they print in one file.

    python benchmarks/run_all.py [--only NAME ...]

Those that need real data are told where it is by STORM_CLINIC_DATA; without it they are named as
left out. With ``--only`` the other sections of the file stay as they are. What takes long (the last
ones of the list) is run only if it is named.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
DATA = "STORM_CLINIC_DATA"
H_AND_E = "her2st/images/C2.jpg"


@dataclass(frozen=True)
class Benchmark:
    """A section of the file: the script that prints it, and what that is given."""

    script: str
    arguments: tuple[str, ...] = ()
    needs_data: bool = False
    is_long: bool = False


BENCHMARKS = {
    "tile_reading": Benchmark("tile_reading", needs_data=True),
    "extraction_speed": Benchmark("extraction_speed", needs_data=True),
    "encoder_speed": Benchmark("encoder_speed", ("--tiles", H_AND_E), needs_data=True),
    "store_reading": Benchmark("store_reading"),
    "mil_training": Benchmark("mil_training", ("--bags", "14", "--repetitions", "3")),
    "large_bag": Benchmark("large_bag"),
    "cohort_inference": Benchmark("cohort_inference"),
    "storm_speed": Benchmark("storm_speed"),
    "metric_speed": Benchmark("metric_speed"),
    "growth": Benchmark("growth", ("--picture", "../docs/images/growth.png")),
    "mil_500_bags": Benchmark(
        "mil_training", ("--bags", "500", "--repetitions", "1", "--no-warm-up"), is_long=True
    ),
    "large_cohort": Benchmark("large_cohort", is_long=True),
}
HEAD = """# What was measured

Printed by `make bench` (`benchmarks/run_all.py`), one script a section, and the last two, which
take long, by `benchmarks/run_all.py --only mil_500_bags large_cohort`; each names the machine it
ran on. A ratio is that of medians of rounds taken in turns in one run; behind it stand the least
and the greatest of a single round. Absolute times hold for that machine in that hour alone.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = [name for name, benchmark in BENCHMARKS.items() if not benchmark.is_long]
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=usual)
    asked = parser.parse_args()
    data = os.environ.get(DATA)
    sections = kept()
    failed = []
    for name, benchmark in BENCHMARKS.items():
        if name not in asked.only:
            continue
        if benchmark.needs_data and data is None:
            print(f"{name} was left out: set {DATA} to the folder with real data", file=sys.stderr)
            continue
        folder = Path(data or "")
        given = [str(folder / one) if one == H_AND_E else one for one in benchmark.arguments]
        command = [sys.executable, f"{benchmark.script}.py", *given]
        done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(name)
            continue
        sections[name] = as_section(name, benchmark, done.stdout)
        print(sections[name], flush=True)
        write(sections)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def as_section(name: str, benchmark: Benchmark, printed: str) -> str:
    """What a script printed under a heading, with a mark by which it is found again."""
    found = re.search(r"^## .*", printed, flags=re.MULTILINE | re.DOTALL)
    text = found[0] if found else f"## {name}\n\n```\n{printed.strip()}\n```"
    command = " ".join(["python", f"benchmarks/{benchmark.script}.py", *benchmark.arguments])
    return f"<!-- {name} -->\n{text.strip()}\n\nReproduce: `{command}`\n"


def kept() -> dict[str, str]:
    """Sections of the file as it is, by name."""
    if not RESULTS.exists():
        return {}
    parts = re.split(r"^(?=<!-- \w+ -->$)", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part[5 : part.index(" -->")]: part.rstrip() + "\n" for part in parts[1:]}


def write(sections: dict[str, str]) -> None:
    order = [name for name in BENCHMARKS if name in sections]
    RESULTS.write_text("\n".join([HEAD, *(sections[name] for name in order)]), encoding="utf-8")


if __name__ == "__main__":
    main()
