"""Small simulated cohorts for the models' tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Outcome, Survival
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Sample

MakeSample = Callable[..., Sample]


def _clinical(rng: np.random.Generator, severity: np.ndarray) -> pd.DataFrame:
    n = len(severity)
    age = 60 + 8 * rng.normal(size=n)
    age[rng.random(n) < 0.15] = np.nan
    stage = np.clip(np.digitize(severity + rng.normal(size=n), [-1, 0, 1]), 0, 3)
    stage[rng.random(n) < 0.1] = -1
    levels = ["I", "II", "III", "IV"]
    return pd.DataFrame(
        {
            "age": age,
            "stage": pd.Categorical.from_codes(stage, levels, ordered=True),
            "sex": pd.Categorical.from_codes(rng.integers(0, 2, n), ["female", "male"]),
        }
    )


def _simulated(
    seed: int = 0,
    *,
    n_patients: int = 40,
    width: int = 6,
    outcome: str = "survival",
    effect: float = 1.5,
    event: np.ndarray | None = None,
    entry: bool = False,
    n_levels: int = 2,
) -> Sample:
    """Patients whose mean tile moves with a severity on which the outcome depends; monthly ties.

    ``rna`` holds 6 genes that follow the severity, for all but every fifth patient. Of competing
    causes the first follows the severity, the second does not.
    """
    rng = np.random.default_rng(seed)
    severity = rng.normal(size=n_patients)
    direction = np.ones(width) / np.sqrt(width)
    bags = [
        (rng.normal(size=(rng.integers(3, 12), width)) + s * direction).astype(np.float32)
        for s in severity
    ]
    places = [
        np.random.default_rng(len(b)).normal(size=(len(b), 2)).astype(np.float32) for b in bags
    ]
    genes = severity[:, None] + np.random.default_rng(seed + 99).normal(size=(n_patients, 6))
    genes[::5] = np.nan
    data = PatientData(
        tuple(f"p{i:03d}" for i in range(n_patients)),
        Bags.from_arrays(bags, [1000 * where for where in places]),
        _clinical(rng, severity),
        tables={"rna": pd.DataFrame(genes, columns=[f"gene{i}" for i in range(6)])},
    )
    known: Outcome
    if outcome == "classes":
        noisy = effect * severity + rng.logistic(size=n_patients)
        cuts = np.quantile(noisy, np.linspace(0, 1, n_levels + 1)[1:-1])
        levels = tuple(f"grade {i}" for i in range(n_levels))
        known = Classes(np.digitize(noisy, cuts).astype(np.int64), levels)
    elif outcome == "competing":
        to_first = rng.exponential(24 * np.exp(-effect * severity))
        to_second = rng.exponential(40, n_patients)
        to_censoring = rng.uniform(6, 60, n_patients)
        times = np.stack([to_censoring, to_first, to_second])
        start = np.floor(rng.uniform(0, 1, n_patients) * np.ceil(times.min(axis=0))) / 2
        known = CompetingRisks(
            np.ceil(times.min(axis=0)),
            times.argmin(axis=0).astype(np.int64),
            ("relapse", "death"),
            start if entry else None,
        )
    else:
        to_event = rng.exponential(24 * np.exp(-effect * severity))
        to_censoring = rng.uniform(6, 60, n_patients)
        time = np.ceil(np.minimum(to_event, to_censoring))
        happened = to_event <= to_censoring if event is None else event
        start = np.floor(rng.uniform(0, 1, n_patients) * time) / 2 if entry else None
        known = Survival.from_arrays(time, happened, start)
    return Sample(data, known)


@pytest.fixture
def simulated() -> MakeSample:
    """Makes simulated patients with their outcome."""
    return _simulated
