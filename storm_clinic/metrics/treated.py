"""The patients whom a threshold would treat, and how many of them have the event by the horizon."""

from __future__ import annotations

import numpy as np

from storm_clinic.cohort.outcome import Classes, Floats, Ints, Outcome
from storm_clinic.metrics.incidence import Incidence
from storm_clinic.metrics.inputs import Timed, all_causes, binary_event


class Treated:
    """Patients at or above a threshold, and how probable the event is among them.

    Attributes
    ----------
    patients : int64 array, shape (n_above,)
        Their positions in the cohort.
    followed : bool
        Whether they are followed to the horizon, or an event ended the follow-up of all.
    """

    def __init__(self, outcome: Outcome, patients: Ints, horizon_months: float | None) -> None:
        self.patients = patients
        self._event: Floats | None = None
        self.followed = True
        if isinstance(outcome, Classes):
            self._event = binary_event(outcome)[patients]
        elif horizon_months is not None:
            among = outcome.take(patients)
            self._horizon, self._incidence = horizon_months, Incidence(among)
            self.followed = _reaches(among, horizon_months)

    def risk(self, weights: Floats) -> Floats:
        """Probability of the event among them, (n_resamples,)."""
        if self._event is None:
            return self._incidence.by(weights, self._horizon)
        total = weights.sum(axis=1)
        shares = np.divide(weights @ self._event, total, out=np.zeros_like(total), where=total > 0)
        return np.asarray(shares, dtype=np.float64)

    def moved(self) -> Floats:
        """How far each of them moves that probability, (n_above,)."""
        if self._event is None:
            ones = np.ones((1, len(self.patients)))
            return np.asarray(self._incidence.influence(ones, self._horizon)[0])
        return np.asarray((self._event - self._event.mean()) / len(self._event))


class _Nobody(Treated):
    """Nobody lies above the threshold: nothing is gained and nothing lost."""

    def __init__(self) -> None:
        self.patients, self.followed = np.zeros(0, dtype=np.int64), True

    def risk(self, weights: Floats) -> Floats:
        return np.zeros(len(weights))


def treated_patients(outcome: Outcome, patients: Ints, horizon_months: float | None) -> Treated:
    """``patients`` are their positions in the cohort; the horizon is unused for classes."""
    return Treated(outcome, patients, horizon_months) if len(patients) else _Nobody()


def _reaches(outcome: Timed, horizon_months: float) -> bool:
    """Whether somebody is followed to the horizon, or an event ended everybody's follow-up."""
    end = outcome.time_months.max()
    ended = all_causes(outcome)
    return bool(end >= horizon_months or ended.event[ended.time_months == end].all())
