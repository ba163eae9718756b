"""Overall error of predicted probabilities: Brier score and its scaled form."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Classes, Floats, Survival
from storm_clinic.metrics.censoring import Uncensored
from storm_clinic.metrics.incidence import Incidence
from storm_clinic.metrics.inputs import (
    Timed,
    all_causes,
    as_probability,
    binary_event,
    of_interest,
    required_horizon,
)
from storm_clinic.metrics.uncertainty import Statistic


def brier(
    outcome: Timed | Classes,
    probability: ArrayLike,
    *,
    horizon_months: float | None = None,
    censoring: Survival | None = None,
) -> Statistic:
    """Mean squared distance between predicted probability and what happened by the horizon.

    Survival: censored patients are replaced by weighting the others, events by 1/G(T-) and those
    followed beyond the horizon by 1/G(horizon), as in R's pec and riskRegression. With competing
    risks the event is that of the cause of interest, and whoever had another one by the horizon,
    weighted by 1/G(T-) too, did not have it. Two classes: the plain mean.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes, length n_patients
        Times without entry times, or two classes of which the second is the event.
    probability : float array, shape (n_patients,)
        Of the event (by the horizon).
    horizon_months : float
        Not for classes; from the first event to before the last follow-up.
    censoring : Survival, optional
        Patients from whom G is estimated; by default the evaluated ones, anew in each resample.

    Raises
    ------
    StatisticsError
        If a probability lies outside [0, 1], or the horizon outside the follow-up (with the legal
        range), or there are entry times.

    References
    ----------
    Graf et al., Stat. Med. 18 (1999) 2529-2545. Gerds & Schumacher, Biom. J. 48 (2006) 1029-1040.
    """
    error = _SquaredError(outcome, probability, horizon_months, censoring)
    return Statistic.of(outcome, error.brier, f"Brier score{error.label}")


def brier_scaled(
    outcome: Timed | Classes,
    probability: ArrayLike,
    *,
    horizon_months: float | None = None,
    censoring: Survival | None = None,
) -> Statistic:
    """Scaled Brier score: 1 less the Brier score over that of one risk for everybody.

    Also called index of prediction accuracy. The one risk is the Kaplan-Meier estimate
    (with competing risks Aalen-Johansen, of classes the share with the event) of the evaluated
    patients, so 0 means no better than knowing the average, and a model can fall below it.
    Parameters and errors as `brier`.

    References
    ----------
    Kattan & Gerds, Diagn. Progn. Res. 2 (2018) 7.
    """
    error = _SquaredError(outcome, probability, horizon_months, censoring)

    def under(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = 1 - error.brier(weights) / error.of_average(weights)
        return np.where(np.isfinite(scaled), scaled, np.nan)

    return Statistic.of(outcome, under, f"scaled Brier score{error.label}")


class _SquaredError:
    def __init__(
        self,
        outcome: Timed | Classes,
        probability: ArrayLike,
        horizon_months: float | None,
        censoring: Survival | None,
    ) -> None:
        self._p = as_probability(probability, outcome)
        self._uncensored: Uncensored | None = None
        if isinstance(outcome, Classes):
            self.label = ""
            self._happened = binary_event(outcome)
            self._free = 1 - self._happened
            return
        horizon = required_horizon(outcome, horizon_months, "a Brier score", followed_beyond=True)
        self.label = f" at {horizon:g} months" + (
            "" if censoring is None else ", censoring weights from other patients"
        )
        self._time, self._horizon = outcome.time_months, horizon
        seen = all_causes(outcome).event & (self._time <= horizon)
        self._happened = (of_interest(outcome) & seen).astype(np.float64)
        self._other = (seen & ~of_interest(outcome)).astype(np.float64)
        self._free = (self._time > horizon).astype(np.float64)
        self._incidence = Incidence(outcome)
        self._uncensored = Uncensored(all_causes(outcome), censoring)
        self._uncensored.require_positive(self._time[seen])
        self._uncensored.require_positive(self._time, at=horizon)

    def brier(self, weights: Floats) -> Floats:
        happened, free = self._shares(weights)
        total = happened @ (1 - self._p) ** 2 + free @ self._p**2
        return np.asarray(total / weights.sum(axis=1), dtype=np.float64)

    def of_average(self, weights: Floats) -> Floats:
        """Brier score of the average risk, given to everybody."""
        happened, free = self._shares(weights)
        if self._uncensored is None:
            average = happened.sum(axis=1) / weights.sum(axis=1)
        else:
            average = self._incidence.by(weights, self._horizon)
        total = happened.sum(axis=1) * (1 - average) ** 2 + free.sum(axis=1) * average**2
        return np.asarray(total / weights.sum(axis=1), dtype=np.float64)

    def _shares(self, weights: Floats) -> tuple[Floats, Floats]:
        """Case weights of those with and without the event by the horizon, censored ones 0."""
        happened, free = weights * self._happened, weights * self._free
        if self._uncensored is None:
            return happened, free
        curve = self._uncensored.curve(weights)
        g = self._uncensored.just_before(curve, self._time)
        g_horizon = self._uncensored.at(curve, self._horizon)
        inverse = np.divide(1.0, g, out=np.zeros_like(g), where=g > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            # A resample without anybody beyond the horizon gives 0/0: it cannot give the number.
            return happened * inverse, free / g_horizon + weights * self._other * inverse
