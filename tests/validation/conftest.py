"""Small cohorts and predictions with known relations between risk and outcome."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from storm_clinic.cohort.outcome import Survival
from storm_clinic.predictions import Predictions
from storm_clinic.validation.evidence import Estimate


@pytest.fixture(scope="session")
def keys() -> list[str]:
    return [f"key{i}" for i in range(150)]


@pytest.fixture(scope="session")
def hidden() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {"clinic": rng.normal(size=150), "tissue": rng.normal(size=150)}


@pytest.fixture(scope="session")
def outcome(hidden: dict[str, np.ndarray]) -> Survival:
    rng = np.random.default_rng(5)
    time = rng.exponential(40 / np.exp(hidden["clinic"] + 0.7 * hidden["tissue"]))
    end = rng.uniform(3, 80, 150)
    return Survival.from_arrays(np.ceil(np.minimum(time, end)), time <= end)


def prediction_rows(
    keys: list[str],
    risk: np.ndarray,
    model: str,
    *,
    cohort: str = "b",
    repeat: int = -1,
    fold: np.ndarray | int = -1,
    horizons: tuple[float, ...] = (12, 36),
) -> pd.DataFrame:
    """One model's rows whose risks at the horizons follow an exponential model."""
    rows = pd.DataFrame({"cohort": cohort, "patient_key": keys, "model": model})
    rows["repeat"], rows["fold"], rows["risk"] = repeat, fold, risk
    for horizon in horizons:
        rows[f"risk_at_{horizon:g}m"] = 1 - np.exp(-horizon / 40 * np.exp(risk))
    return rows


@pytest.fixture(scope="session")
def rows() -> Callable[..., pd.DataFrame]:
    return prediction_rows


@pytest.fixture(scope="session")
def external(keys: list[str], hidden: dict[str, np.ndarray]) -> Predictions:
    """Three models scored once: what the clinic knows, what tissue shows, and both."""
    clinic, tissue = hidden["clinic"], hidden["tissue"]
    risks = {"clinical": clinic, "image": 0.7 * tissue, "fusion": clinic + 0.7 * tissue}
    return Predictions(
        pd.concat([prediction_rows(keys, r, m) for m, r in risks.items()], ignore_index=True)
    )


def made_estimate(metric: str = "c_index", **changes: object) -> Estimate:
    """A plausible estimate with parts replaced."""
    parts: dict[str, object] = {
        "metric": metric,
        "value": 0.7,
        "lower": 0.65,
        "upper": 0.75,
        "n_patients": 200,
        "n_events": 80,
        "method": "made up for a test",
        "cohort": "b",
        "model": "fusion",
    }
    return Estimate.model_validate(parts | changes)


@pytest.fixture(scope="session")
def estimate() -> Callable[..., Estimate]:
    return made_estimate
