"""Real cohorts on which R and this package compute the same numbers.

As a script, writes one CSV a case for R: ``python tests/golden/cases.py FOLDER``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines.datasets import load_lung, load_rossi, load_stanford_heart_transplants
from sksurv.datasets import load_gbsg2, load_veterans_lung_cancer

from storm_clinic.cohort.outcome import MONTHS_PER, Survival


@dataclass(frozen=True, eq=False)
class Case:
    """A cohort with a prediction.

    Attributes
    ----------
    table : DataFrame
        Columns time, event, entry (where there are entry times), risk, probability (of the event
        by the horizon), weight (whole numbers), fold, group.
    unit_months : float
        Length of the table's unit of time in months.
    horizon, tau : float
        In the table's unit; no time lies at tau.
    """

    table: pd.DataFrame
    unit_months: float
    horizon: float
    tau: float

    @property
    def outcome(self) -> Survival:
        entry = self.table.get("entry")
        return Survival.from_arrays(
            self.months(self.table["time"]),
            self.table["event"],
            None if entry is None else self.months(entry),
        )

    @property
    def horizon_months(self) -> float:
        return float(self.months(self.horizon))

    @property
    def tau_months(self) -> float:
        return float(self.months(self.tau))

    def months(self, times: object) -> np.ndarray:
        return np.asarray(times, dtype=np.float64) * self.unit_months

    def column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()


def _case(
    time: object,
    event: object,
    risk: object,
    group: object,
    *,
    unit: str,
    horizon: float,
    tau: float,
    entry: object = None,
    digits: int = 6,
) -> Case:
    risk = np.round(np.asarray(risk, dtype=np.float64), digits)
    standard = np.clip((risk - risk.mean()) / risk.std(), -4, 4)
    row = np.arange(len(risk))
    table = pd.DataFrame(
        {
            "time": np.asarray(time, dtype=np.float64),
            "event": np.asarray(event).astype(np.int64),
            "risk": risk,
            "probability": np.round(1 / (1 + np.exp(0.4 - 0.9 * standard)), 4),
            "weight": 1 + row % 3,
            "fold": row % 5,
            "group": np.asarray(group),
        }
    )
    if entry is not None:
        table["entry"] = np.asarray(entry, dtype=np.float64)
    months = 7 / (1 / MONTHS_PER["days"]) if unit == "weeks" else MONTHS_PER[unit]
    return Case(table, months, horizon, tau)


def _lung() -> pd.DataFrame:
    return load_lung().dropna(subset=["ph.ecog"]).reset_index(drop=True)


def _lung_risk(lung: pd.DataFrame) -> pd.Series:
    return 0.0110668 * lung["age"] - 0.5526124 * lung["sex"] + 0.4637285 * lung["ph.ecog"]


def lung() -> Case:
    """228 less one patients, 28% censored, hardly any ties: the anchors of the literature."""
    data = _lung()
    return _case(
        data["time"], data["status"], _lung_risk(data), data["sex"],
        unit="days", horizon=365, tau=730, digits=12,
    )  # fmt: skip


def lung_monthly() -> Case:
    """The same in whole months: events tie with events and with censorings everywhere."""
    data = _lung()
    months = np.ceil(data["time"] * MONTHS_PER["days"])
    return _case(
        months, data["status"], _lung_risk(data), data["sex"], unit="months", horizon=12, tau=24.5
    )


def veteran() -> Case:
    """Few distinct risks: the Karnofsky score in steps of ten."""
    x, y = load_veterans_lung_cancer()
    return _case(
        y["Survival_in_days"], y["Status"], -x["Karnofsky_score"] / 20, x["Celltype"],
        unit="days", horizon=90, tau=300.5,
    )  # fmt: skip


def gbsg2() -> Case:
    """686 patients, 56% censored."""
    x, y = load_gbsg2()
    grade = x["tgrade"].map({"I": 1, "II": 2, "III": 3}).astype(float)
    risk = 0.05 * x["pnodes"] + 0.3 * grade - 0.002 * x["progrec"]
    return _case(y["time"], y["cens"], risk, x["tgrade"], unit="days", horizon=1500, tau=1825.5)


def rossi() -> Case:
    """432 people followed 52 weeks, in whole weeks; 74% censored, all on the last one."""
    data = load_rossi()
    risk = 0.1 * data["prio"] - 0.05 * data["age"]
    return _case(
        data["week"], data["arrest"], risk, data["fin"], unit="weeks", horizon=40, tau=45.5
    )


def one_event() -> Case:
    """40 patients of whom one has an event."""
    x, y = load_veterans_lung_cancer()
    time, kept = y["Survival_in_days"][:40], np.arange(40)
    event = kept == np.argsort(time, kind="stable")[15]
    risk = -x["Karnofsky_score"].to_numpy()[:40] / 20 + kept / 100
    return _case(time, event, risk, kept % 2, unit="days", horizon=time[event][0] + 1, tau=900)


def all_events() -> Case:
    """Nobody is censored."""
    x, y = load_veterans_lung_cancer()
    seen = y["Status"]
    return _case(
        y["Survival_in_days"][seen], np.ones(seen.sum()),
        -x["Karnofsky_score"].to_numpy()[seen] / 20, x["Treatment"].to_numpy()[seen],
        unit="days", horizon=90, tau=300.5,
    )  # fmt: skip


def heart() -> Case:
    """Left truncation: the Stanford heart transplants, one row a period at risk."""
    data = load_stanford_heart_transplants()
    risk = 0.03 * data["age"] - 0.15 * data["year"] - 0.6 * data["surgery"]
    return _case(
        data["stop"], data["event"], risk, data["transplant"],
        unit="days", horizon=365, tau=500.5, entry=data["start"],
    )  # fmt: skip


CASES = {
    build.__name__: build
    for build in (lung, lung_monthly, veteran, gbsg2, rossi, one_event, all_events, heart)
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in CASES.items():
        case = build()
        table = case.table.assign(horizon=case.horizon, tau=case.tau)
        table.to_csv(folder / f"{name}.csv", index=False)
