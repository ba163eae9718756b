"""The cohorts of `cases.py` and `competing_cases.py` with a second prediction, for paired gains.

As a script, writes one CSV a case for R: ``python tests/golden/accuracy_cases.py FOLDER``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SURVIVAL = ("lung", "lung_monthly", "veteran", "gbsg2", "rossi")
COMPETING = ("bmt", "cgvhd", "lung_monthly", "gbsg2")


def second(probability: Any) -> np.ndarray:
    """A worse prediction that goes with the first: a probability for each patient."""
    p = np.asarray(probability, dtype=np.float64)
    logit = np.log(p / (1 - p))
    return np.round(1 / (1 + np.exp(-0.6 * logit - np.sin(np.arange(len(p))))), 4)


def _cases(file: str) -> dict[str, Any]:
    path = Path(__file__).with_name(f"{file}.py")
    spec = importlib.util.spec_from_file_location(f"accuracy_{file}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.CASES


def tables() -> dict[str, pd.DataFrame]:
    """Each cohort with columns horizon, tau and other (the second prediction).

    ``untied`` and ``competing_untied`` are gbsg2 with every patient a little later than the one
    before: packages that order ties in ways of their own agree there.
    """
    found = {}
    for kind, file, names in (
        ("", "cases", SURVIVAL),
        ("competing_", "competing_cases", COMPETING),
    ):
        for name in names:
            case = _cases(file)[name]()
            table = case.table.assign(horizon=case.horizon, tau=case.tau)
            found[kind + name] = table.assign(other=second(table["probability"]))
        tied = found[f"{kind}gbsg2"]
        found[f"{kind}untied"] = tied.assign(time=tied["time"] + np.arange(len(tied)) / 1e4)
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables().items():
        table.to_csv(folder / f"{name}.csv", index=False)
