"""Cohorts with covariates on which R and this package fit the same regressions.

As a script, writes one CSV a case for R: ``python tests/golden/inference_cases.py FOLDER``.
Cohorts that no Python package holds (pbc, mgus2, rotterdam) come from R's survival: the script
``inference.R`` stores their columns in ``inference.json``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines.datasets import load_lung, load_stanford_heart_transplants
from sksurv.datasets import load_gbsg2, load_veterans_lung_cancer

from storm_clinic.cohort.outcome import CompetingRisks, Survival

_FIXED = ("time", "event", "cause", "entry", "weight", "stratum", "cluster")


@dataclass(frozen=True, eq=False)
class Case:
    """A cohort; times are taken for months whatever they were.

    Attributes
    ----------
    table : DataFrame
        Columns time, event, entry and cause (where there are such), weight, stratum, cluster; the
        rest are covariates. Columns of one categorical covariate are named ``name:level``.
    """

    table: pd.DataFrame

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.table.columns if name not in _FIXED]

    @property
    def terms(self) -> dict[str, list[int]]:
        terms: dict[str, list[int]] = {}
        for at, name in enumerate(self.names):
            terms.setdefault(name.split(":")[0], []).append(at)
        return terms

    @property
    def design(self) -> np.ndarray:
        return self.table[self.names].to_numpy(np.float64)

    @property
    def outcome(self) -> Survival:
        entry = self.table.get("entry")
        return Survival.from_arrays(
            self.table["time"], self.table["event"], None if entry is None else entry
        )

    @property
    def competing(self) -> CompetingRisks:
        time, cause = self.table["time"].to_numpy(np.float64), self.table["cause"]
        return CompetingRisks(time, cause.to_numpy(np.int64), ("of interest", "other"))

    def column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()


def _case(time: object, event: object, covariates: dict[str, object], **more: object) -> Case:
    table = pd.DataFrame({"time": np.asarray(time, dtype=np.float64)})
    table["event"] = np.asarray(event).astype(np.int64)
    for name, values in more.items():
        table[name] = np.asarray(values)
    row = np.arange(len(table))
    table["weight"], table["stratum"], table["cluster"] = 1 + row % 3, row % 2, row % 20
    for name, values in covariates.items():
        table[name] = np.asarray(values, dtype=np.float64)
    return Case(table)


def _lung(scale: float = 1.0) -> Case:
    data = load_lung().dropna(subset=["ph.ecog"]).reset_index(drop=True)
    died, third = data["status"].to_numpy() == 1, np.arange(len(data)) % 3 == 0
    return _case(
        data["time"] if scale == 1 else np.ceil(data["time"] / scale),
        died,
        {"age": data["age"], "sex": data["sex"], "ecog": data["ph.ecog"]},
        cause=np.where(died, np.where(third, 2, 1), 0),
    )


def lung() -> Case:
    """227 patients, hardly any ties: the anchors of the literature."""
    return _lung()


def lung_monthly() -> Case:
    """The same in whole months: ties everywhere; every third death of another cause."""
    return _lung(30.4375)


def veteran() -> Case:
    """A covariate of four levels, and proportional hazards that do not hold."""
    x, y = load_veterans_lung_cancer()
    levels = {f"cell:{level}": x["Celltype"] == level for level in ("smallcell", "adeno", "large")}
    return _case(
        y["Survival_in_days"],
        y["Status"],
        {"karnofsky": x["Karnofsky_score"], "age": x["Age_in_years"], **levels},
    )


def gbsg2() -> Case:
    """686 patients, 56% censored; every other event counted as of another cause."""
    x, y = load_gbsg2()
    grade = {f"grade:{level}": x["tgrade"] == level for level in ("II", "III")}
    return _case(
        y["time"],
        y["cens"],
        {"age": x["age"], "nodes": x["pnodes"], "hormone": x["horTh"] == "yes", **grade},
        cause=np.where(y["cens"], 1 + np.arange(len(y)) % 2, 0),
    )


def all_events() -> Case:
    """Nobody is censored."""
    x, y = load_veterans_lung_cancer()
    seen = y["Status"]
    return _case(
        y["Survival_in_days"][seen],
        np.ones(seen.sum()),
        {"karnofsky": x["Karnofsky_score"][seen], "age": x["Age_in_years"][seen]},
    )


def one_event() -> Case:
    """60 patients of whom one has an event."""
    data = load_lung().dropna(subset=["ph.ecog"]).reset_index(drop=True)[:60]
    event = np.arange(60) == np.argsort(data["time"].to_numpy(), kind="stable")[20]
    return _case(data["time"], event, {"age": data["age"]})


def heart() -> Case:
    """Left truncation: the Stanford heart transplants, one row a period at risk."""
    data = load_stanford_heart_transplants()
    covariates = {name: data[name] for name in ("age", "year", "surgery", "transplant")}
    return _case(data["stop"], data["event"], covariates, entry=data["start"])


_BUILT = {
    build.__name__: build
    for build in (lung, lung_monthly, veteran, gbsg2, all_events, one_event, heart)
}


def load_cases(values: dict[str, dict[str, object]]) -> dict[str, Case]:
    """All cases: those built here, and those whose columns R stored beside its values."""
    stored = {
        name: Case(pd.DataFrame(value["data"])) for name, value in values.items() if "data" in value
    }
    return {name: build() for name, build in _BUILT.items()} | stored


VALUES = Path(__file__).with_name("inference.json")

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in _BUILT.items():
        build().table.to_csv(folder / f"{name}.csv", index=False)
else:
    GOLDEN = json.loads(VALUES.read_text())
