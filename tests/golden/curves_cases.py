"""Grouped cohorts, with and without competing risks, for the golden values of curves.R.

As a script, writes one CSV a case for R: ``python tests/golden/curves_cases.py FOLDER``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lifelines.datasets import load_lung, load_stanford_heart_transplants
from sksurv.datasets import load_bmt, load_cgvhd, load_gbsg2

from storm_clinic.cohort.outcome import CompetingRisks, Survival


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_SURVIVAL, _COMPETING = _module("cases"), _module("competing_cases")


def _survival(name: str) -> pd.DataFrame:
    """Times in the case's own unit; groups numbered in the order of their names; two strata."""
    case = _SURVIVAL.CASES[name]()
    table = case.table.assign(horizon=case.horizon, tau=case.tau)
    table["group"] = np.unique(table["group"], return_inverse=True)[1]
    return table.assign(stratum=table["fold"] % 2, cause=table["event"])


def _competing(name: str) -> pd.DataFrame:
    case = _COMPETING.CASES[name]()
    table = case.table.assign(horizon=case.horizon, tau=case.tau)
    groups = {
        "bmt": lambda: load_bmt()[0]["dis"],
        "cgvhd": lambda: load_cgvhd()[0]["tx"],
        "lung_monthly": lambda: load_lung().dropna(subset=["ph.ecog"])["sex"],
        "one_cause": lambda: load_lung().dropna(subset=["ph.ecog"])["ph.ecog"].clip(upper=2),
        "gbsg2": lambda: load_gbsg2()[0]["tgrade"],
        "heart": lambda: load_stanford_heart_transplants()["transplant"],
    }
    table["group"] = np.unique(np.asarray(groups[name]()), return_inverse=True)[1]
    return table.assign(stratum=table["fold"] % 2)


CASES = {f"survival_{name}": (_survival, name) for name in _SURVIVAL.CASES} | {
    f"competing_{name}": (_competing, name) for name in _COMPETING.CASES
}


def values() -> dict[str, Any]:
    """What R gave, by case."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("curves.json").read_text())
    return found


def table(name: str) -> pd.DataFrame:
    """Columns time, entry (where there are entry times), cause (0 = censored), group (0, 1, ...),
    stratum, probability, horizon, tau; of ``mgus2`` those that curves.R stored with its values."""
    if name == "mgus2":
        stored = values()[name]
        return pd.DataFrame(stored["table"]).assign(tau=stored["tau"])
    build, base = CASES[name]
    return build(base)


def survival(data: pd.DataFrame) -> Survival:
    """Cause 1 against all else; times are taken for months whatever they were."""
    return Survival.from_arrays(data["time"], data["cause"] == 1, data.get("entry"))


def competing(data: pd.DataFrame) -> CompetingRisks:
    entry, cause = data.get("entry"), data["cause"].to_numpy(np.int64)
    return CompetingRisks(
        data["time"].to_numpy(np.float64),
        cause,
        tuple(f"cause {k}" for k in range(1, max(2, int(cause.max())) + 1)),
        None if entry is None else entry.to_numpy(np.float64),
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        table(name).to_csv(folder / f"{name}.csv", index=False)
