"""Real cohorts with missing covariates, on which R and this package impute and pool.

As a script, writes one CSV a case for R: ``python tests/golden/missing_cases.py FOLDER``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines.datasets import load_lung
from sksurv.datasets import load_gbsg2

from storm_clinic.cohort.outcome import MONTHS_PER, Survival


@dataclass(frozen=True, eq=False)
class MissingCase:
    """A cohort with holes: covariates (floats with NaN, categories), time in days, event."""

    covariates: pd.DataFrame
    time: np.ndarray
    event: np.ndarray

    @property
    def outcome(self) -> Survival:
        return Survival.from_arrays(self.time * MONTHS_PER["days"], self.event)


def lung() -> MissingCase:
    """228 patients; calories are missing in 47, other covariates in a few: as published."""
    data = load_lung()
    names = ["age", "sex", "ph.ecog", "ph.karno", "meal.cal", "wt.loss"]
    covariates = data[names].astype(np.float64).rename(columns=lambda name: name.replace(".", "_"))
    return MissingCase(
        covariates, data["time"].to_numpy(np.float64), data["status"].to_numpy(np.int64)
    )


def gbsg2() -> MissingCase:
    """686 patients, complete as published; holes are made that depend on age and on the event."""
    x, y = load_gbsg2()
    rng = np.random.default_rng(20261126)
    covariates = pd.DataFrame(
        {
            "age": x["age"].astype(np.float64),
            "menopause": pd.Categorical(x["menostat"], ["Pre", "Post"]),
            "grade": pd.Categorical(x["tgrade"], ["I", "II", "III"], ordered=True),
            "nodes": np.log(x["pnodes"].astype(np.float64)),
            "size": x["tsize"].astype(np.float64),
        }
    )
    tilt = (covariates["age"] - 53) / 20 + 0.5 * y["cens"]
    for name, share in (("menopause", 0.15), ("grade", 0.25), ("nodes", 0.2)):
        chance = share * np.exp(tilt) / np.exp(tilt).mean()
        covariates.loc[rng.random(len(x)) < chance, name] = np.nan
    return MissingCase(covariates, y["time"].astype(np.float64), y["cens"].astype(np.int64))


CASES = {build.__name__: build for build in (lung, gbsg2)}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in CASES.items():
        case = build()
        table = case.covariates.assign(time=case.time, event=case.event)
        table.to_csv(folder / f"{name}.csv", index=False)
