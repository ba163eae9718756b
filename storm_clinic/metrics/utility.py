"""Is acting on the prediction better than treating everybody or nobody? Net benefit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from storm_clinic.cohort.outcome import Classes, Floats, Ints, Outcome
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.incidence import Incidence
from storm_clinic.metrics.inputs import (
    Timed,
    all_causes,
    as_probability,
    binary_event,
    required_horizon,
)
from storm_clinic.metrics.uncertainty import Statistic


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit over thresholds; treating nobody has net benefit 0.

    Attributes
    ----------
    thresholds, net_benefit, treat_all : float64 arrays, shape (n_thresholds,)
    influence : float64 array, shape (n_thresholds, n_patients)
        How far each patient moves the net benefit (infinitesimal jackknife).
    n_above : int64 array, shape (n_thresholds,)
        Patients at or above each threshold.
    followed : bool array, shape (n_thresholds,)
        Whether any of them is followed to the horizon; where none is, the benefit is understated.
    method : str
    """

    thresholds: Floats
    net_benefit: Floats
    treat_all: Floats
    influence: Floats
    n_above: Ints
    followed: NDArray[np.bool_]
    method: str

    def band(self, *, level: float = 0.95) -> tuple[Floats, Floats]:
        """Pointwise Wald interval of the net benefit."""
        return _band(self.net_benefit, self.influence, level)

    def gain(self, other: DecisionCurve, *, level: float = 0.95) -> tuple[Floats, Floats, Floats]:
        """Difference from another model on the same patients: value, lower, upper; paired."""
        difference = self.net_benefit - other.net_benefit
        return difference, *_band(difference, self.influence - other.influence, level)


def net_benefit(
    outcome: Outcome,
    probability: ArrayLike,
    thresholds: ArrayLike,
    *,
    horizon_months: float | None = None,
) -> Statistic:
    """Net benefit of treating those at or above a threshold, averaged over some thresholds.

    At threshold t: P(above) [P(event | above) - P(no event | above) t / (1 - t)]; in survival data
    P(event | above) is 1 - Kaplan-Meier at the horizon among those above, with competing risks
    the Aalen-Johansen incidence of the cause of interest. Where their follow-up ends before the
    horizon the curve's last value is carried on, which understates the benefit; R's dcurves gives
    NA there.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes, length n_patients
        Without entry times; of two classes the second is the event.
    probability : float array, shape (n_patients,)
        Of the event (of interest, by the horizon).
    thresholds : float or float array, shape (n_thresholds,)
        Strictly between 0 and 1; their plain mean is taken.
    horizon_months : float
        Times only; from the first event to the last follow-up.

    Raises
    ------
    StatisticsError
        If a threshold or probability is out of range, the horizon outside the follow-up (with the
        legal range), or there are entry times.

    References
    ----------
    Vickers & Elkin, Med. Decis. Making 26 (2006) 565-574. Vickers et al., BMC Med. Inform. Decis.
    Mak. 8 (2008) 53.
    """
    benefit = _Benefit(outcome, as_probability(probability, outcome), thresholds, horizon_months)
    return benefit.mean("")


def net_benefit_treat_all(
    outcome: Outcome, thresholds: ArrayLike, *, horizon_months: float | None = None
) -> Statistic:
    """Net benefit of treating everybody; parameters and errors as `net_benefit`."""
    everybody = np.ones(outcome.n_patients)
    return _Benefit(outcome, everybody, thresholds, horizon_months).mean(", treat all")


def decision_curve(
    outcome: Outcome,
    probability: ArrayLike,
    thresholds: ArrayLike,
    *,
    horizon_months: float | None = None,
) -> DecisionCurve:
    """Net benefit at each threshold, beside treating everybody.

    Parameters and errors as `net_benefit`.
    """
    p = as_probability(probability, outcome)
    benefit = _Benefit(outcome, p, thresholds, horizon_months)
    everybody = _Benefit(outcome, np.ones(len(p)), thresholds, horizon_months)
    ones = np.ones((1, len(p)))
    return DecisionCurve(
        benefit.thresholds,
        benefit.curve(ones)[0],
        everybody.curve(ones)[0],
        benefit.influences,
        benefit.n_above,
        benefit.followed,
        f"{benefit.estimator}; 95% Wald intervals at each threshold, infinitesimal jackknife",
    )


def _band(value: Floats, influence: Floats, level: float) -> tuple[Floats, Floats]:
    reach = norm.ppf(0.5 + level / 2) * np.sqrt((influence**2).sum(axis=1))
    return value - reach, value + reach


class _Benefit:
    def __init__(
        self,
        outcome: Outcome,
        probability: Floats,
        thresholds: ArrayLike,
        horizon_months: float | None,
    ) -> None:
        self.thresholds = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
        if not len(self.thresholds) or not ((self.thresholds > 0) & (self.thresholds < 1)).all():
            raise StatisticsError(
                f"thresholds {np.round(self.thresholds, 4).tolist()}",
                fix="Legal are probabilities strictly between 0 and 1.",
            )
        self._outcome, self._n = outcome, outcome.n_patients
        self._horizon, at = _horizon(outcome, horizon_months)
        self._odds = self.thresholds / (1 - self.thresholds)
        # Patients above a threshold are nested, so that as many are the same ones.
        self._groups: dict[int, _Treated] = {}
        self.n_above = np.array([int((probability >= cut).sum()) for cut in self.thresholds])
        for cut, n in zip(self.thresholds, self.n_above, strict=True):
            if n and n not in self._groups:
                above = np.flatnonzero(probability >= cut)
                self._groups[n] = _Treated(outcome, above, self._horizon)
        self.estimator = f"net benefit{at}"
        self.label = f"{self.estimator}, " + (
            f"threshold {self.thresholds[0]:g}"
            if len(self.thresholds) == 1
            else f"mean over {len(self.thresholds)} thresholds from {self.thresholds.min():g} to "
            f"{self.thresholds.max():g}"
        )

    def mean(self, whom: str) -> Statistic:
        """The mean over the thresholds."""
        return Statistic.of(
            self._outcome,
            lambda weights: self.curve(weights).mean(axis=1),
            f"{self.label}{whom}",
            influence=self.influences.mean(axis=0),
        )

    def curve(self, weights: Floats) -> Floats:
        """Net benefit at each threshold, (n_resamples, n_thresholds)."""
        total = weights.sum(axis=1)
        found = np.zeros((len(weights), len(self.thresholds)))
        shares = {n: group.shares(weights, total) for n, group in self._groups.items()}
        for k, (odds, n) in enumerate(zip(self._odds, self.n_above, strict=True)):
            if n:
                treated, risk = shares[n]
                found[:, k] = treated * (risk - (1 - risk) * odds)
        return found

    @property
    def influences(self) -> Floats:
        """How far each patient moves it, (n_thresholds, n_patients)."""
        value = self.curve(np.ones((1, self._n)))[0]
        found = np.zeros((len(self.thresholds), self._n))
        for k, (odds, n) in enumerate(zip(self._odds, self.n_above, strict=True)):
            if n:
                group = self._groups[n]
                own = group.risk - (1 - group.risk) * odds
                found[k, group.above] = own / self._n
                found[k, group.above] += n / self._n * (1 + odds) * group.risk_influence
                found[k] -= value[k] / self._n
        return found

    @property
    def followed(self) -> NDArray[np.bool_]:
        """Whether somebody at or above each threshold is followed to the horizon."""
        return np.array([n == 0 or self._groups[n].followed for n in self.n_above])


class _Treated:
    """Patients at or above a threshold: how many, and how many of them have the event."""

    def __init__(self, outcome: Outcome, above: Ints, horizon: float) -> None:
        self.above, self._horizon = above, horizon
        self._event = binary_event(outcome)[above] if isinstance(outcome, Classes) else None
        self._incidence: Incidence | None = None
        self.followed = True
        if not isinstance(outcome, Classes):
            among: Timed = outcome.take(above)
            self._incidence = Incidence(among)
            last = among.time_months == among.time_months.max()
            # Where nobody is event-free any more, the incidence is known without follow-up.
            ended = bool(all_causes(among).event[last].all())
            self.followed = ended or bool((among.time_months >= horizon).any())

    def shares(self, weights: Floats, total: Floats) -> tuple[Floats, Floats]:
        """Share that is treated, and risk of the event among them, (n_resamples,) each."""
        own = weights[:, self.above]
        n_treated = own.sum(axis=1)
        return n_treated / total, self._risks(own, n_treated)

    def _risks(self, weights: Floats, n_treated: Floats) -> Floats:
        if self._incidence is not None:
            return self._incidence.by(weights, self._horizon)
        assert self._event is not None
        happened = weights @ self._event
        shares = np.divide(happened, n_treated, out=np.zeros_like(happened), where=n_treated > 0)
        return np.asarray(shares, dtype=np.float64)

    @cached_property
    def risk(self) -> float:
        """Risk of the event among them."""
        ones = np.ones((1, len(self.above)))
        return float(self._risks(ones, ones.sum(axis=1))[0])

    @cached_property
    def risk_influence(self) -> Floats:
        """How far each of them moves that risk, (n_above,)."""
        if self._incidence is not None:
            ones = np.ones((1, len(self.above)))
            return np.asarray(self._incidence.influence(ones, self._horizon)[0])
        assert self._event is not None
        return np.asarray((self._event - self.risk) / len(self.above), dtype=np.float64)


def _horizon(outcome: Outcome, horizon_months: float | None) -> tuple[float, str]:
    """The horizon, checked, and how it is named; 0 for classes, which have none."""
    if isinstance(outcome, Classes):
        binary_event(outcome)
        return 0.0, ""
    horizon = required_horizon(outcome, horizon_months, "net benefit", followed_beyond=False)
    return horizon, f" at {horizon:g} months"
