"""What pmvalsampsize 0.2.1 (Python) says of sample sizes for external validation, into a JSON.

Needs that package with tabulate, scikit-learn and matplotlib on the path:
``python tests/golden/design_cases.py tests/golden/design_validation.json``. Its criterion of the
slope is simulated; 2,000,000 draws keep its own error small. (It fails where sensitivity and
specificity are given by hand, so that here it simulates them.)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pmvalsampsize.pmvalsampsize import pmvalsampsize

CASES = [
    {"prevalence": 0.018, "cstatistic": 0.8, "lpnormal": (-5, 2.5), "oeciwidth": 1},
    {"prevalence": 0.018, "cstatistic": 0.8, "lpbeta": (0.5, 0.5), "oeciwidth": 1},
    {"prevalence": 0.3, "cstatistic": 0.7, "lpnormal": (-1, 0.8), "threshold": 0.3},
    {"prevalence": 0.5, "cstatistic": 0.85, "lpnormal": (0, 1.5), "csciwidth": 0.4},
    {"prevalence": 0.1, "cstatistic": 0.75, "lpnormal": (-2.6, 1), "threshold": 0.1},
]


def main(path: str) -> None:
    written = []
    for case in CASES:
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in case.items()}
        out = pmvalsampsize("b", simobs=2_000_000, noprint=True, **case)
        rows = {row[0]: int(row[1]) for row in out["results_table"] if isinstance(row, list)}
        seen = {k: float(out[k]) for k in ("sensitivity", "specificity") if k in out}
        written.append({"given": given, "sizes": rows, "n": int(out["sample_size"]), **seen})
    Path(path).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
