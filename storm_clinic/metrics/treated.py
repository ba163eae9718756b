"""How many of the patients whom a threshold would treat have the event by the horizon."""

from __future__ import annotations

import numpy as np

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Floats, Ints, Outcome, Survival
from storm_clinic.metrics.incidence import Incidence
from storm_clinic.metrics.inputs import Timed, all_causes, binary_event


class Treated:
    """Probability of the event among some patients of a cohort.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes, length n_patients
        Two classes; times without entry times.
    horizon_months : float or None
        None for classes only.
    """

    def __init__(self, outcome: Outcome, horizon_months: float | None) -> None:
        self._outcome = outcome
        self._event: Floats | None = None
        if isinstance(outcome, Classes):
            self._event = binary_event(outcome)
        else:
            assert horizon_months is not None
            self._horizon, self._ended = horizon_months, _ended(outcome, horizon_months)
            self._incidence = Incidence(self._ended)

    def followed(self, patients: Ints) -> bool:
        """Whether somebody is followed to the horizon, or an event ended everybody's follow-up."""
        if isinstance(self._outcome, Classes) or not len(patients):
            return True
        ended = all_causes(self._outcome)
        time, event = ended.time_months[patients], ended.event[patients]
        return bool(time.max() >= self._horizon or event[time == time.max()].all())

    def risk(self, weights: Floats, patients: Ints) -> Floats:
        """Among those at some positions, under case weights of all, (n_resamples,)."""
        if not len(patients):
            return np.zeros(len(weights))
        own = weights[:, patients]
        if isinstance(self._outcome, Classes):
            assert self._event is not None
            return _share(own @ self._event[patients], own.sum(axis=1))
        return Incidence(self._ended.take(patients)).by(own, self._horizon)

    def risk_among(self, masks: Floats) -> Floats:
        """Among the patients marked 1 in each row, (n_rows,)."""
        if self._event is not None:
            return _share(masks @ self._event, masks.sum(axis=1))
        return self._incidence.by(masks, self._horizon)

    def influence_among(self, masks: Floats) -> Floats:
        """How far each patient moves `risk_among`, (n_rows, n_patients)."""
        if self._event is None:
            return masks * self._incidence.influence(masks, self._horizon)
        n = masks.sum(axis=1, keepdims=True)
        moved = self._event - self.risk_among(masks)[:, None]
        return masks * _share(moved, np.broadcast_to(n, moved.shape))


def _ended(outcome: Timed, horizon_months: float) -> Timed:
    """The same patients with follow-up ended at the horizon: nothing later matters, nor costs."""
    within = outcome.time_months <= horizon_months
    time = np.minimum(outcome.time_months, horizon_months)
    if isinstance(outcome, CompetingRisks):
        return CompetingRisks(time, np.where(within, outcome.cause, 0), outcome.causes)
    return Survival(time, outcome.event & within)


def _share(part: Floats, whole: Floats) -> Floats:
    """Quotients, 0 where nobody is."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
