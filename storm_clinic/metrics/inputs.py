"""What every metric checks before it computes: shapes, finite values, horizons inside follow-up."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Bools, Classes, CompetingRisks, Floats, Outcome, Survival
from storm_clinic.errors import StatisticsError

Timed = Survival | CompetingRisks


def as_risk(risk: ArrayLike, outcome: Outcome) -> Floats:
    """One finite number a patient, as float64.

    Raises
    ------
    StatisticsError
        If the length differs from the outcome's or a value is missing or infinite.
    """
    array = np.asarray(risk, dtype=np.float64)
    if array.shape != (outcome.n_patients,):
        raise StatisticsError(
            f"risks of shape {array.shape} for {outcome.n_patients} patients",
            fix="One risk a patient is needed, in the order of the outcome.",
        )
    bad = ~np.isfinite(array)
    if bad.any():
        raise StatisticsError(
            f"{int(bad.sum())} risks are missing or infinite, the first at row "
            f"{int(np.flatnonzero(bad)[0])}"
        )
    return array


def as_probability(probability: ArrayLike, outcome: Outcome) -> Floats:
    """One probability a patient, between 0 and 1, as float64."""
    array = as_risk(probability, outcome)
    bad = (array < 0) | (array > 1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise StatisticsError(
            f"{int(bad.sum())} predicted probabilities lie outside [0, 1], the first at row {row} "
            f"({array[row]:g})"
        )
    return array


def binary_event(outcome: Classes) -> Floats:
    """1.0 where the second of two classes happened.

    Raises
    ------
    StatisticsError
        If there are more than two classes, or only one of them occurs.
    """
    if len(outcome.levels) != 2:
        raise StatisticsError(
            f"{len(outcome.levels)} classes where two are needed",
            fix="Compare one class with the rest.",
        )
    if not 0 < outcome.n_events < outcome.n_patients:
        raise StatisticsError(
            f"{outcome.n_events} of {outcome.n_patients} patients are {outcome.levels[1]!r}",
            fix="Both classes must occur.",
        )
    return np.asarray(outcome.label == 1, dtype=np.float64)


def of_interest(outcome: Timed) -> Bools:
    """True where the event happened; with competing risks, that of the cause of interest."""
    return outcome.event if isinstance(outcome, Survival) else outcome.cause == 1


def all_causes(outcome: Timed) -> Survival:
    """The same patients with an event of any cause: the rest are censored."""
    if isinstance(outcome, Survival):
        return outcome
    return Survival(outcome.time_months, outcome.cause > 0, outcome.entry_months)


def require_whole_follow_up(outcome: Timed, what: str) -> None:
    """Refuse entry times where the definition assumes that everybody is seen from time 0."""
    if outcome.entry_months is not None and (outcome.entry_months > 0).any():
        raise StatisticsError(
            f"{what} is not defined with entry times (left truncation)",
            fix="Event-free and incidence curves, the log-rank test, Harrell's C and the Cox slope "
            "are.",
        )


def required_horizon(
    outcome: Timed, horizon_months: float | None, what: str, *, followed_beyond: bool
) -> float:
    """Refuse entry times, and a horizon by which nothing happened or to which nobody is followed.

    Parameters
    ----------
    outcome : Survival or CompetingRisks
        The evaluated patients; with competing risks, events of the cause of interest count.
    horizon_months : float or None
        As given by the caller; None is refused.
    what : str
        The number, for the message.
    followed_beyond : bool
        Whether somebody must be followed beyond the horizon (weighting by the chance of being
        uncensored), or just up to it (Kaplan-Meier, Aalen-Johansen).

    Raises
    ------
    StatisticsError
        With the range of legal horizons: from the first event to the last follow-up.
    """
    if horizon_months is None:
        raise StatisticsError(f"{what} of a survival outcome needs horizon_months")
    require_whole_follow_up(outcome, what)
    if not outcome.n_events:
        raise StatisticsError(
            f"no event among {outcome.n_patients} patients", fix="No horizon can be judged."
        )
    first, last = outcome.time_months[of_interest(outcome)].min(), outcome.time_months.max()
    inside = first <= horizon_months and (
        horizon_months < last if followed_beyond else horizon_months <= last
    )
    if not inside:
        end = ")" if followed_beyond else "]"
        raise StatisticsError(
            f"{what} at {horizon_months:g} months lies outside what these "
            f"{outcome.n_patients} patients show",
            fix=f"Legal are [{first:g}, {last:g}{end} months: first event to last follow-up.",
        )
    return float(horizon_months)
