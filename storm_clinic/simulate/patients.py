"""Patients: a hidden share of the planted morphology, covariates, and outcomes that follow both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import (
    DAYS_PER_MONTH,
    Classes,
    CompetingRisks,
    Outcome,
    Survival,
)
from storm_clinic.simulate.competing import CAUSES, draw_first_events
from storm_clinic.simulate.event_times import draw_event_times, draw_follow_up, observe
from storm_clinic.simulate.expression import simulate_expression
from storm_clinic.simulate.grade import GRADES, draw_grade
from storm_clinic.simulate.hospitals import Hospital

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STAGES = ("I", "II", "III", "IV")
_STAGE_SHARES = (0.30, 0.30, 0.25, 0.15)

# Log hazard ratios: of one standard deviation of the hidden share, of ten years, of one stage.
MORPHOLOGY_EFFECT = 1.7
AGE_EFFECT = 0.40
STAGE_EFFECT = 0.55
RESPONSE_EFFECT = 2.0  # log odds ratio of one standard deviation
_MEDIAN_MONTHS = 26.0
_MISSING_AGE, _MISSING_STAGE = 0.06, 0.10


@dataclass(frozen=True, eq=False)
class Patients:
    """One hospital's patients.

    Attributes
    ----------
    table : DataFrame
        What the hospital would write down: ``patient, hospital_site, age, stage, sex`` and one or
        two columns an endpoint. All text.
    planted_share : float64 array, shape (n_patients,)
        Share of the tumour with the planted morphology; in no table.
    hidden : DataFrame
        What no table tells, float64: ``score``, ``age`` and ``stage`` (0 to 3) of everybody, and
        ``outcome_follow_up``, the months until the closing day of ``outcome``.
    outcomes : mapping of endpoint to Outcome
        What ``table`` says of each endpoint.
    rna : DataFrame
        What the laboratory would write down, as `simulate_expression` makes it.
    """

    table: pd.DataFrame
    planted_share: Floats
    hidden: pd.DataFrame
    outcomes: Mapping[str, Outcome]
    rna: pd.DataFrame


def pfs_log_hazard(score: Floats, age: Floats, stage: Floats) -> Floats:
    """True log hazard of ``pfs``, up to a constant; stage from 0 to 3."""
    log_hazard: Floats = (
        MORPHOLOGY_EFFECT * score + AGE_EFFECT * (age - 62) / 10 + STAGE_EFFECT * (stage - 1.25)
    )
    return log_hazard


def simulate_patients(hospital: Hospital, rng: np.random.Generator) -> Patients:
    """Draw patients, covariates and outcomes.

    ``pfs`` follows the planted morphology strongly, age and stage weakly; ``response`` and
    ``grade`` the morphology alone; ``control`` nothing at all, with censoring like that of
    ``pfs``; ``outcome`` is the first of relapse, which the morphology hastens, and death, which
    age does.

    Parameters
    ----------
    hospital : Hospital
        How many, and how its tables are written.
    rng : Generator
        Source of randomness. ``grade``, ``outcome`` and expression are drawn from streams of
        their own, spawned from it, so that they leave all else as it was before they came.
    """
    n = hospital.n_patients
    for_grade, for_outcome, for_rna = rng.spawn(3)
    score = rng.standard_normal(n)
    age = np.clip(rng.normal(62, 10, n), 30, 88).round()
    stage = rng.choice(len(STAGES), n, p=_STAGE_SHARES)
    sex = rng.choice(["female", "male"], n)
    log_hazard = pfs_log_hazard(score, age, stage.astype(np.float64))
    follow_up, follow_up_control = draw_follow_up(n, rng), draw_follow_up(n, rng)
    pfs = observe(draw_event_times(log_hazard, _MEDIAN_MONTHS, rng), follow_up)
    control = observe(draw_event_times(np.zeros(n), _MEDIAN_MONTHS, rng), follow_up_control)
    responds = rng.random(n) < 1 / (1 + np.exp(RESPONSE_EFFECT * score))
    grade = draw_grade(score, for_grade)
    first = draw_first_events(score, age, for_outcome)
    names = [f"{hospital.cohort[-1].upper()}{number + 1:03d}" for number in range(n)]
    words, unit = hospital.words, hospital.time_unit
    table = pd.DataFrame(
        {
            "patient": names,
            "hospital_site": rng.choice(hospital.sites, n),
            "age": _with_gaps([f"{years:.0f}" for years in age], "", _MISSING_AGE, rng),
            "stage": _with_gaps([STAGES[k] for k in stage], "unknown", _MISSING_STAGE, rng),
            "sex": sex,
            **_written("pfs", *pfs, unit, words.event),
            **_written("control", *control, unit, words.event),
            "response": np.where(responds, "yes", "no"),
            "grade": [words.grade[k] for k in grade],
            **_written("outcome", first.months, first.cause, unit, words.first_event),
        },
        dtype=str,
    )
    hidden = {
        "score": score,
        "age": age,
        "stage": stage,
        "outcome_follow_up": first.follow_up_months,
    }
    outcomes: dict[str, Outcome] = {
        "pfs": Survival.from_arrays(*pfs),
        "control": Survival.from_arrays(*control),
        "response": Classes(responds.astype(np.int64), ("no", "yes")),
        "grade": Classes(grade, GRADES),
        "outcome": CompetingRisks(first.months, first.cause, CAUSES),
    }
    return Patients(
        table=table,
        planted_share=_share(score),
        hidden=pd.DataFrame(hidden, dtype=np.float64),
        outcomes=outcomes,
        rna=simulate_expression(names, score, for_rna),
    )


def _share(score: Floats) -> Floats:
    """From a standard normal to a share of the tumour between 3 and 97%."""
    return np.clip(1 / (1 + np.exp(-1.5 * score + 0.2)), 0.03, 0.97)


def _written(
    name: str, months: Floats, code: Ints, unit: str, words: tuple[str, ...]
) -> dict[str, list[str]]:
    """Two columns, in the hospital's own unit and words."""
    times = np.rint(months * DAYS_PER_MONTH) if unit == "days" else months
    return {
        f"{name}_{unit}": [f"{time:.0f}" for time in times],
        f"{name}_status": [words[k] for k in code],
    }


def _with_gaps(values: list[str], marker: str, share: float, rng: np.random.Generator) -> list[str]:
    gaps = rng.random(len(values)) < share
    return [marker if gap else value for value, gap in zip(values, gaps, strict=True)]
