"""Patients: a hidden share of the planted morphology, covariates, and outcomes that follow both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import DAYS_PER_MONTH
from storm_clinic.simulate.hospitals import Hospital

Floats = NDArray[np.float64]

STAGES = ("I", "II", "III", "IV")
_STAGE_SHARES = (0.30, 0.30, 0.25, 0.15)

# Log hazard ratios: of one standard deviation of the hidden share, of ten years, of one stage.
MORPHOLOGY_EFFECT = 1.7
AGE_EFFECT = 0.40
STAGE_EFFECT = 0.55
RESPONSE_EFFECT = 2.0  # log odds ratio of one standard deviation
_SHAPE = 1.2  # Weibull: the hazard rises slowly
_MEDIAN_MONTHS = 26.0
_FOLLOW_UP_MONTHS = (8.0, 60.0)  # patients enter over years and are looked at on one day
_MISSING_AGE, _MISSING_STAGE = 0.06, 0.10


@dataclass(frozen=True, eq=False)
class Patients:
    """One hospital's patients.

    Attributes
    ----------
    table : DataFrame
        What the hospital would write down: ``patient, hospital_site, age, stage, sex`` and two
        columns an endpoint. All text.
    planted_share : float64 array, shape (n_patients,)
        Share of the tumour with the planted morphology; in no table.
    """

    table: pd.DataFrame
    planted_share: Floats


def simulate_patients(hospital: Hospital, rng: np.random.Generator) -> Patients:
    """Draw patients, covariates and outcomes.

    ``pfs`` follows the planted morphology strongly, age and stage weakly; ``response`` the
    morphology alone; ``control`` nothing at all, with censoring like that of ``pfs``.

    Parameters
    ----------
    hospital : Hospital
        How many, and how its tables are written.
    rng : Generator
        Source of randomness.
    """
    n = hospital.n_patients
    hidden = rng.standard_normal(n)
    age = np.clip(rng.normal(62, 10, n), 30, 88).round()
    stage = rng.choice(len(STAGES), n, p=_STAGE_SHARES)
    sex = rng.choice(["female", "male"], n)
    log_hazard = (
        MORPHOLOGY_EFFECT * hidden + AGE_EFFECT * (age - 62) / 10 + STAGE_EFFECT * (stage - 1.25)
    )
    follow_up = rng.uniform(*_FOLLOW_UP_MONTHS, n)
    follow_up_control = rng.uniform(*_FOLLOW_UP_MONTHS, n)
    pfs = _observe(_event_times(log_hazard, rng), follow_up)
    control = _observe(_event_times(np.zeros(n), rng), follow_up_control)
    responds = rng.random(n) < 1 / (1 + np.exp(RESPONSE_EFFECT * hidden))
    table = pd.DataFrame(
        {
            "patient": [f"{hospital.cohort[-1].upper()}{number + 1:03d}" for number in range(n)],
            "hospital_site": rng.choice(hospital.sites, n),
            "age": _with_gaps([f"{years:.0f}" for years in age], "", _MISSING_AGE, rng),
            "stage": _with_gaps([STAGES[k] for k in stage], "unknown", _MISSING_STAGE, rng),
            "sex": sex,
            **_written("pfs", pfs, hospital),
            **_written("control", control, hospital),
            "response": np.where(responds, "yes", "no"),
        },
        dtype=str,
    )
    return Patients(table, _share(hidden))


def _share(hidden: Floats) -> Floats:
    """From a standard normal to a share of the tumour between 3 and 97%."""
    return np.clip(1 / (1 + np.exp(-1.5 * hidden + 0.2)), 0.03, 0.97)


def _event_times(log_hazard: Floats, rng: np.random.Generator) -> Floats:
    """Weibull times under proportional hazards, months.

    References
    ----------
    Bender, Augustin and Blettner, Stat. Med. 24 (2005) 1713-1723.
    """
    scale = _MEDIAN_MONTHS / np.log(2) ** (1 / _SHAPE)
    exponential = rng.exponential(size=len(log_hazard))
    times: Floats = scale * (exponential * np.exp(-log_hazard)) ** (1 / _SHAPE)
    return times


def _observe(time: Floats, follow_up: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Whole months, at least one: visits are monthly, so that times are tied."""
    months = np.maximum(np.ceil(np.minimum(time, follow_up)), 1.0)
    return months, time <= follow_up


def _written(
    name: str, seen: tuple[Floats, NDArray[np.bool_]], hospital: Hospital
) -> dict[str, list[str]]:
    """Two columns, in the hospital's own unit and words."""
    months, event = seen
    if hospital.time_unit == "days":
        times = np.rint(months * DAYS_PER_MONTH)
        words = ["event" if happened else "alive" for happened in event]
    else:
        times = months
        words = [str(int(happened)) for happened in event]
    return {
        f"{name}_{hospital.time_unit}": [f"{time:.0f}" for time in times],
        f"{name}_status": words,
    }


def _with_gaps(values: list[str], marker: str, share: float, rng: np.random.Generator) -> list[str]:
    gaps = rng.random(len(values)) < share
    return [marker if gap else value for value, gap in zip(values, gaps, strict=True)]
