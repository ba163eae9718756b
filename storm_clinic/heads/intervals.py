"""Time cut into intervals, for models that state what happens in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import TrainingError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def causes_of(outcome: Survival | CompetingRisks) -> Ints:
    """0 = censored, k = the k-th cause happened; a survival endpoint has one cause."""
    return outcome.event.astype(np.int64) if isinstance(outcome, Survival) else outcome.cause


def n_causes_of(outcome: Survival | CompetingRisks) -> int:
    """How many causes compete; one for a survival endpoint."""
    return 1 if isinstance(outcome, Survival) else len(outcome.causes)


def require_events(outcome: Survival | CompetingRisks) -> None:
    """Refuse outcomes from which nothing can be learned.

    Raises
    ------
    TrainingError
        If no event (of the cause of interest) happened.
    """
    if outcome.n_events == 0:
        raise TrainingError(
            f"none of {outcome.n_patients} patients had the event",
            fix="A survival model needs events; check the endpoint, or use fewer folds.",
        )


@dataclass(frozen=True, eq=False)
class TimeGrid:
    """Intervals (0, c1], (c1, c2], ... up to the last event of training.

    Attributes
    ----------
    cuts : float64 array, shape (n_intervals,)
        Ends of the intervals in months, ascending.
    last_months : float
        Longest follow-up in training; nothing is known beyond it.
    """

    cuts: Floats
    last_months: float

    @classmethod
    def fit(cls, outcome: Survival | CompetingRisks, n_intervals: int) -> TimeGrid:
        """Cut at quantiles of the training patients' event times, so that each holds as many.

        Fewer intervals are made where event times coincide.

        Raises
        ------
        TrainingError
            If no event (of the cause of interest) happened.
        """
        require_events(outcome)
        times = outcome.time_months[causes_of(outcome) > 0]
        shares = np.arange(1, n_intervals + 1) / n_intervals
        # Observed times, not points between them: monthly data stay whole months.
        cuts = np.unique(np.quantile(times, shares, method="inverted_cdf"))
        return cls(cuts, float(outcome.time_months.max()))

    @property
    def n_intervals(self) -> int:
        return len(self.cuts)

    def place(self, outcome: Survival | CompetingRisks) -> IntervalOutcome:
        """Where each patient's follow-up lies in these intervals."""
        cause = causes_of(outcome)
        time = outcome.time_months
        # An event on a cut belongs to the interval that ends there; who is censored on a cut
        # has survived that interval, and one censored inside it has not.
        ends = np.searchsorted(self.cuts, time, side="left")
        survived = np.searchsorted(self.cuts, time, side="right")
        happened = (cause > 0) & (ends < self.n_intervals)
        interval = np.where(happened, ends, np.minimum(survived, self.n_intervals))
        first = np.zeros(len(time), dtype=np.int64)
        if outcome.entry_months is not None:
            first = np.searchsorted(self.cuts, outcome.entry_months, side="right")
        return IntervalOutcome(interval, np.where(happened, cause, 0), np.minimum(first, interval))


@dataclass(frozen=True, eq=False)
class IntervalOutcome:
    """Outcomes in intervals.

    Attributes
    ----------
    interval : int64 array, shape (n_patients,)
        Position of the interval with the event; of the censored: intervals survived whole. An
        event after the last interval counts as its survival.
    cause : int64 array, shape (n_patients,)
        0 = censored, else the cause from 1.
    first : int64 array, shape (n_patients,)
        Position of the interval in which the patient entered; at risk from there on.
    """

    interval: Ints
    cause: Ints
    first: Ints

    def at_risk(self, n_intervals: int) -> Bools:
        """Who was at risk in which interval, shape (n_patients, n_intervals)."""
        at = np.arange(n_intervals)[None, :]
        last = self.interval + (self.cause > 0)
        return np.asarray((at >= self.first[:, None]) & (at < last[:, None]))

    def events(self, n_causes: int, n_intervals: int) -> Floats:
        """1 where the event of a cause happened, shape (n_patients, n_causes, n_intervals)."""
        happened = np.zeros((len(self.cause), n_causes, n_intervals))
        rows = np.flatnonzero(self.cause)
        happened[rows, self.cause[rows] - 1, self.interval[rows]] = 1.0
        return happened
