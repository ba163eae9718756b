"""Times of simulated events, and what monthly visits and one closing day see of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHAPE = 1.2  # Weibull, of every event: hazards rise slowly, and stay proportional to each other
_FOLLOW_UP_MONTHS = (8.0, 60.0)  # patients enter over years and are looked at on one day


def draw_event_times(log_hazard: Floats, median_months: float, rng: np.random.Generator) -> Floats:
    """Weibull times under proportional hazards, months.

    Parameters
    ----------
    log_hazard : float64 array, shape (n_patients,)
        Beyond that of a patient whose median time is ``median_months``.
    median_months : float
        Of such a patient.
    rng : Generator
        Source of randomness.

    References
    ----------
    Bender, Augustin and Blettner, Stat. Med. 24 (2005) 1713-1723.
    """
    scale = median_months / np.log(2) ** (1 / SHAPE)
    exponential = rng.exponential(size=len(log_hazard))
    times: Floats = scale * (exponential * np.exp(-log_hazard)) ** (1 / SHAPE)
    return times


def cumulative_hazard(log_hazard: Floats, median_months: float, months: Floats) -> Floats:
    """Cumulative hazard (n_patients, n_times) that `draw_event_times` draws from."""
    baseline = np.log(2) * (months / median_months) ** SHAPE
    hazard: Floats = np.exp(log_hazard)[:, None] * baseline
    return hazard


def draw_follow_up(n_patients: int, rng: np.random.Generator) -> Floats:
    """Months from entry to the closing day."""
    return rng.uniform(*_FOLLOW_UP_MONTHS, n_patients)


def whole_months(time: Floats) -> Floats:
    """Months as visits count them, at least one: times are tied."""
    return np.maximum(np.ceil(time), 1.0)


def observe(time: Floats, follow_up: Floats) -> tuple[Floats, Ints]:
    """Whole months until the event or the closing day, and 1 where the event was seen."""
    return whole_months(np.minimum(time, follow_up)), (time <= follow_up).astype(np.int64)
