"""Pairs of samples on which R and this package compute the same energy distance.

As a script, writes them for R: ``python tests/golden/energy_cases.py FOLDER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

# Rows of (n, m, columns, shift of the second sample, factor of its spread, decimals kept).
_MADE: dict[str, tuple[int, int, int, float, float, int]] = {
    "one_column": (20, 25, 1, 0.4, 1.0, 9),
    "alike": (30, 18, 4, 0.0, 1.0, 9),
    "shifted": (40, 15, 3, 0.5, 1.0, 9),
    "wider": (35, 35, 2, 0.0, 1.8, 9),
    "ties": (24, 30, 2, 0.3, 1.0, 0),
}


def samples(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Both samples of a case, from a formula: the same numbers with every version of NumPy."""
    n, m, columns, shift, factor, decimals = _MADE[case]
    at = np.arange(1, (n + m) * columns + 1, dtype=np.float64).reshape(n + m, columns)
    # Spread over (-2, 2) without order: fractional parts of multiples of an irrational number.
    values = 4 * ((at * np.sqrt(2) + at**2 * np.sqrt(3)) % 1.0) - 2
    values[n:] = values[n:] * factor + shift
    values = np.round(values, decimals)
    return values[:n], values[n:]


CASES = tuple(_MADE)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    made = {case: [part.tolist() for part in samples(case)] for case in CASES}
    (folder / "energy_cases.json").write_text(json.dumps(made))
