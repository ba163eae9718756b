"""Mean losses of predicted probabilities, given what happened by a horizon, under censoring."""

from __future__ import annotations

import numpy as np

from storm_clinic.cohort.outcome import Classes, Floats, Survival
from storm_clinic.metrics.censoring import GSlope, Uncensored
from storm_clinic.metrics.inputs import (
    Timed,
    all_causes,
    binary_event,
    of_interest,
    required_horizon,
)


class HorizonLosses:
    """Patients with and without the event by the horizon, each with the weight of the censored.

    An event at T counts 1/G(T-) times, of the cause of interest as the event and of another cause
    as none; whoever is followed beyond the horizon counts 1/G(horizon) times, and who was censored
    before it not at all. Of two classes everybody counts once.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes (two)
    horizon_months : float or None
        None for classes.
    censoring : Survival or None
        Patients from whom G is estimated; None: the evaluated ones.
    what : str
        The number, for messages.

    Attributes
    ----------
    label : str
        Where and how, for the name of a method.
    degrees : int
        Events by the horizon, or if fewer patients without one, less 1.
    happened, free : float64 arrays, shape (n_patients,)
        1 where a loss counts as that of an event or of no event, whatever its weight.
    """

    def __init__(
        self,
        outcome: Timed | Classes,
        horizon_months: float | None,
        censoring: Survival | None,
        what: str,
    ) -> None:
        self._uncensored: Uncensored | None = None
        self.label = ""
        if isinstance(outcome, Classes):
            self.happened = binary_event(outcome)
            self._beyond, self._other = 1 - self.happened, np.zeros(outcome.n_patients)
            self.free = self._beyond
            self.degrees = int(min(self.happened.sum(), self.free.sum())) - 1
            return
        horizon = required_horizon(outcome, horizon_months, what, followed_beyond=True)
        self.label = f" at {horizon:g} months" + (
            "" if censoring is None else ", censoring weights from other patients"
        )
        self._time, self._horizon = outcome.time_months, horizon
        seen = all_causes(outcome).event & (self._time <= horizon)
        self.happened = (of_interest(outcome) & seen).astype(np.float64)
        self._other = (seen & ~of_interest(outcome)).astype(np.float64)
        self._beyond = (self._time > horizon).astype(np.float64)
        self.free = self._beyond + self._other
        self.degrees = int(min(self.happened.sum(), self.free.sum())) - 1
        self._uncensored = Uncensored(all_causes(outcome), censoring)
        self._uncensored.require_positive(self._time[seen])
        self._uncensored.require_positive(self._time, at=horizon)

    def shares(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weights of those with and without the event, (n_resamples, n_patients), censored 0."""
        happened, other, beyond = self._parts(weights)
        return happened, beyond + other

    def mean(self, weights: Floats, if_event: Floats, if_none: Floats) -> Floats:
        """Mean loss, (n_resamples,), from the loss of each patient in either case."""
        happened, free = self.shares(weights)
        total = happened @ if_event + free @ if_none
        return np.asarray(total / weights.sum(axis=1), dtype=np.float64)

    def influence(self, if_event: Floats, if_none: Floats) -> Floats:
        """How far each patient moves that mean with every weight 1, (n_patients,)."""
        n = len(if_event)
        happened, other, beyond = (part[0] for part in self._parts(np.ones((1, n))))
        seen, followed = happened * if_event + other * if_none, beyond * if_none
        own = (seen + followed - (seen + followed).mean()) / n
        if self._uncensored is None:
            return np.asarray(own, dtype=np.float64)
        slope = GSlope(self._time, -seen / n, self._horizon, float(-followed.sum() / n))
        return np.asarray(own + self._uncensored.influence(slope), dtype=np.float64)

    def _parts(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Weights of those with the event, with another one, and followed beyond."""
        if self._uncensored is None:
            return weights * self.happened, weights * self._other, weights * self._beyond
        curve = self._uncensored.curve(weights)
        g = self._uncensored.just_before(curve, self._time)
        inverse = weights * np.divide(1.0, g, out=np.zeros_like(g), where=g > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            # A resample without anybody beyond the horizon gives 0/0: it cannot give the number.
            beyond = weights * self._beyond / self._uncensored.at(curve, self._horizon)
        return inverse * self.happened, inverse * self._other, beyond
