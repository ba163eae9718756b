"""Relapse or death, whichever comes first: two simulated events that different things drive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.simulate.event_times import (
    cumulative_hazard,
    draw_event_times,
    draw_follow_up,
    whole_months,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CAUSES = ("relapse", "death")
# Cause-specific log hazard ratios: of one unit of the hidden score, and of ten years of age.
RELAPSE_SCORE_EFFECT = 1.6
DEATH_SCORE_EFFECT = -0.5  # the other way: who ranks by any event mistakes one for the other
DEATH_AGE_EFFECT = 0.9
_MEDIAN_MONTHS = (32.0, 50.0)


@dataclass(frozen=True, eq=False)
class FirstEvents:
    """What was seen of each patient.

    Attributes
    ----------
    months : float64 array, shape (n_patients,)
        Whole months until the first event or the closing day.
    cause : int64 array, shape (n_patients,)
        0 = neither by the closing day, k = ``CAUSES[k - 1]``.
    follow_up_months : float64 array, shape (n_patients,)
        Whole months until the closing day, also of those with an event; in no table.
    """

    months: Floats
    cause: Ints
    follow_up_months: Floats


def log_hazards(score: Floats, age: Floats) -> tuple[Floats, Floats]:
    """True cause-specific log hazards of relapse and death, each (n_patients,), up to a constant.

    Parameters
    ----------
    score : float64 array, shape (n_patients,)
        The hidden score.
    age : float64 array, shape (n_patients,)
        Years.
    """
    death = DEATH_SCORE_EFFECT * score + DEATH_AGE_EFFECT * (age - 62) / 10
    return RELAPSE_SCORE_EFFECT * score, death


def draw_first_events(score: Floats, age: Floats, rng: np.random.Generator) -> FirstEvents:
    """Draw both times and the closing day; the first of them is what is seen."""
    times = np.stack(
        [
            draw_event_times(log_hazard, median, rng)
            for log_hazard, median in zip(log_hazards(score, age), _MEDIAN_MONTHS, strict=True)
        ]
    )
    follow_up = draw_follow_up(len(score), rng)
    first = times.min(axis=0)
    cause = np.where(first <= follow_up, times.argmin(axis=0) + 1, 0)
    return FirstEvents(whole_months(np.minimum(first, follow_up)), cause, whole_months(follow_up))


def true_incidence(score: Floats, age: Floats, months: Floats) -> Floats:
    """True cumulative incidence (2, n_patients, n_times) of relapse and of death.

    Both hazards have one shape, so that a cause keeps its share of all hazard, whenever:
    F_k(t) = H_k(t) / H(t) · (1 - exp(-H(t))), with H the sum of the cumulative hazards H_k.
    """
    parts = np.stack(
        [
            cumulative_hazard(log_hazard, median, months)
            for log_hazard, median in zip(log_hazards(score, age), _MEDIAN_MONTHS, strict=True)
        ]
    )
    total = parts.sum(axis=0)
    incidence: Floats = parts / total * -np.expm1(-total)
    return incidence
