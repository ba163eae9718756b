"""Overall error of predicted probabilities: Brier score, its scaled form, log score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Classes, Floats, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.horizon_losses import HorizonLosses
from storm_clinic.metrics.incidence import Incidence
from storm_clinic.metrics.inputs import Timed, as_probability
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
    p = as_probability(probability, outcome)
    losses = HorizonLosses(outcome, horizon_months, censoring, "a Brier score")
    if_event, if_none = (1 - p) ** 2, p**2
    return Statistic.of(
        outcome,
        lambda weights: losses.mean(weights, if_event, if_none),
        f"Brier score{losses.label}",
        influence=losses.influence(if_event, if_none),
        scale="log",
        degrees=losses.degrees,
    )


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
    p = as_probability(probability, outcome)
    losses = HorizonLosses(outcome, horizon_months, censoring, "a Brier score")
    average = _Average(outcome, losses, horizon_months)
    if_event, if_none = (1 - p) ** 2, p**2

    def under(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = 1 - losses.mean(weights, if_event, if_none) / average.brier(weights)
        return np.where(np.isfinite(scaled), scaled, np.nan)

    found = Statistic.of(outcome, under, f"scaled Brier score{losses.label}")
    by_average = (1 - found.value) * average.influence()
    influence = (by_average - losses.influence(if_event, if_none)) / average.value
    return replace(found, influence=influence, scale="complement", degrees=losses.degrees)


def log_score(
    outcome: Timed | Classes,
    probability: ArrayLike,
    *,
    horizon_months: float | None = None,
    censoring: Survival | None = None,
) -> Statistic:
    """Mean of -log of the probability given to what happened by the horizon; lower is better.

    Weighted as `brier`, natural logarithm; the negative binomial log-likelihood. Parameters and
    errors as `brier`; of more than two classes see `storm_clinic.metrics.classes.log_score`.

    Raises
    ------
    StatisticsError
        If what happened was given probability 0: the score is infinite.

    References
    ----------
    Graf et al., Stat. Med. 18 (1999) 2529-2545. Good, J. R. Stat. Soc. B 14 (1952) 107-114.
    """
    p = as_probability(probability, outcome)
    losses = HorizonLosses(outcome, horizon_months, censoring, "a log score")
    impossible = ((losses.happened > 0) & (p == 0)) | ((losses.free > 0) & (p == 1))
    if impossible.any():
        raise StatisticsError(
            f"what happened to {int(impossible.sum())} patients was given probability 0: "
            "the log score is infinite",
            fix="A prediction of exactly 0 or 1 claims certainty; no log score can be given.",
        )
    if_event = -np.log(np.where(p > 0, p, 1.0))
    if_none = -np.log1p(-np.where(p < 1, p, 0.0))
    return Statistic.of(
        outcome,
        lambda weights: losses.mean(weights, if_event, if_none),
        f"log score{losses.label}",
        influence=losses.influence(if_event, if_none),
        scale="log",
        degrees=losses.degrees,
    )


class _Average:
    """Brier score of one risk for everybody: the share with the event by the horizon."""

    def __init__(
        self, outcome: Timed | Classes, losses: HorizonLosses, horizon_months: float | None
    ) -> None:
        self._losses, self._n = losses, outcome.n_patients
        self._incidence = None if isinstance(outcome, Classes) else Incidence(outcome)
        self._horizon = 0.0 if horizon_months is None else horizon_months
        self._ones = np.ones((1, self._n))
        self.value = float(self.brier(self._ones)[0])

    def brier(self, weights: Floats) -> Floats:
        happened, free = (share.sum(axis=1) for share in self._losses.shares(weights))
        risk = self._risk(weights)
        total = happened * (1 - risk) ** 2 + free * risk**2
        return np.asarray(total / weights.sum(axis=1), dtype=np.float64)

    def influence(self) -> Floats:
        """How far each patient moves that score, with every weight 1."""
        risk = float(self._risk(self._ones)[0])
        each = np.ones(self._n)
        own = self._losses.influence(each * (1 - risk) ** 2, each * risk**2)
        happened, free = (float(share.sum()) for share in self._losses.shares(self._ones))
        by_risk = (2 * risk * free - 2 * (1 - risk) * happened) / self._n
        return own + by_risk * self._risk_influence(risk)

    def _risk(self, weights: Floats) -> Floats:
        if self._incidence is None:
            return np.asarray(weights @ self._losses.happened / weights.sum(axis=1))
        return self._incidence.by(weights, self._horizon)

    def _risk_influence(self, risk: float) -> Floats:
        if self._incidence is None:
            return (self._losses.happened - risk) / self._n
        return np.asarray(self._incidence.influence(self._ones, self._horizon)[0])
