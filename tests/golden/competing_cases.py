"""Cohorts with competing risks on which R and this package compute the same numbers.

As a script, writes one CSV a case for R: ``python tests/golden/competing_cases.py FOLDER``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines.datasets import load_lung, load_stanford_heart_transplants
from sksurv.datasets import load_bmt, load_cgvhd, load_gbsg2

from storm_clinic.cohort.outcome import CompetingRisks


@dataclass(frozen=True, eq=False)
class Case:
    """A cohort with a prediction; times are taken for months whatever they were.

    Attributes
    ----------
    table : DataFrame
        Columns time, cause (0 = censored), entry (where there are entry times), risk, probability
        (of cause 1 by the horizon), weight (whole numbers), fold.
    horizon, tau : float
    """

    table: pd.DataFrame
    horizon: float
    tau: float

    @property
    def outcome(self) -> CompetingRisks:
        cause = self.table["cause"].to_numpy(np.int64)
        entry = self.table.get("entry")
        return CompetingRisks(
            self.table["time"].to_numpy(np.float64),
            cause,
            tuple(f"cause {k}" for k in range(1, int(cause.max()) + 1)),
            None if entry is None else entry.to_numpy(np.float64),
        )


def _case(
    time: object,
    cause: object,
    risk: object,
    *,
    horizon: float,
    tau: float,
    entry: object = None,
) -> Case:
    risk = np.round(np.asarray(risk, dtype=np.float64), 6)
    standard = np.clip((risk - risk.mean()) / risk.std(), -4, 4)
    row = np.arange(len(risk))
    table = pd.DataFrame(
        {
            "time": np.asarray(time, dtype=np.float64),
            "cause": np.asarray(cause).astype(np.int64),
            "risk": risk,
            "probability": np.round(1 / (1 + np.exp(0.8 - 0.7 * standard)), 4),
            "weight": 1 + row % 3,
            "fold": row % 4,
        }
    )
    if entry is not None:
        table["entry"] = np.asarray(entry, dtype=np.float64)
    return Case(table, horizon, tau)


def bmt() -> Case:
    """35 transplanted for leukaemia, two causes, a third censored; 1 is added to times of 0."""
    x, y = load_bmt()
    row = np.arange(len(y))
    risk = (x["dis"].astype(int) == 2) + np.sin(row) / 2
    return _case(y["ftime"] + 1, y["status"], risk, horizon=30, tau=60.5)


def cgvhd() -> Case:
    """100 transplanted: three causes, four censored, ties."""
    x, y = load_cgvhd()
    risk = x["age"].astype(float) / 50 + (x["tx"] == "PB") * 0.3
    return _case(y["ftime"], y["status"], risk, horizon=0.4, tau=5.0)


def lung_monthly() -> Case:
    """Whole months, every third death counted as of another cause: ties everywhere."""
    data = load_lung().dropna(subset=["ph.ecog"]).reset_index(drop=True)
    died, third = data["status"].to_numpy() == 1, np.arange(len(data)) % 3 == 0
    risk = 0.011 * data["age"] - 0.55 * data["sex"] + 0.46 * data["ph.ecog"]
    cause = np.where(died, np.where(third, 2, 1), 0)
    return _case(np.ceil(data["time"] / 30.4375), cause, risk, horizon=12, tau=24.5)


def gbsg2() -> Case:
    """686 patients, more than half censored, every other event counted as of another cause."""
    x, y = load_gbsg2()
    grade = x["tgrade"].map({"I": 1, "II": 2, "III": 3}).astype(float)
    risk = 0.05 * x["pnodes"] + 0.3 * grade - 0.002 * x["progrec"]
    cause = np.where(y["cens"], 1 + np.arange(len(y)) % 2, 0)
    return _case(y["time"], cause, risk, horizon=1500, tau=1825.5)


def one_cause() -> Case:
    """The lung cohort with no event of the other cause."""
    case = lung_monthly()
    table = case.table.assign(cause=(case.table["cause"] > 0).astype(np.int64))
    table.loc[table.index[table["cause"] == 0][0], "cause"] = 2  # one, so that there are two
    return Case(table, case.horizon, case.tau)


def heart() -> Case:
    """Left truncation: the Stanford heart transplants, one row a period at risk."""
    data = load_stanford_heart_transplants()
    risk = 0.03 * data["age"] - 0.15 * data["year"] - 0.6 * data["surgery"]
    cause = np.where(data["event"] == 1, 1 + np.arange(len(data)) % 2, 0)
    return _case(data["stop"], cause, risk, horizon=365, tau=500.5, entry=data["start"])


CASES = {build.__name__: build for build in (bmt, cgvhd, lung_monthly, gbsg2, one_cause, heart)}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in CASES.items():
        case = build()
        table = case.table.assign(horizon=case.horizon, tau=case.tau)
        table.to_csv(folder / f"{name}.csv", index=False)
