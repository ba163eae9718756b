"""Is acting on the prediction better than treating everybody or nobody? Net benefit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Classes, Floats, Ints, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.inputs import (
    as_probability,
    binary_event,
    required_horizon,
)
from storm_clinic.metrics.risk_sets import RiskSets, with_start
from storm_clinic.metrics.uncertainty import Statistic, bootstrap_band


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit over thresholds; treating nobody has net benefit 0.

    Attributes
    ----------
    thresholds, net_benefit, lower, upper, treat_all : float64 arrays, shape (n_thresholds,)
    method : str
    """

    thresholds: Floats
    net_benefit: Floats
    lower: Floats
    upper: Floats
    treat_all: Floats
    method: str


def net_benefit(
    outcome: Survival | Classes,
    probability: ArrayLike,
    thresholds: ArrayLike,
    *,
    horizon_months: float | None = None,
) -> Statistic:
    """Net benefit of treating those at or above a threshold, averaged over some thresholds.

    At threshold t: P(above) [P(event | above) - P(no event | above) t / (1 - t)]; in survival data
    P(event | above) is 1 - Kaplan-Meier at the horizon among those above. Where their follow-up
    ends before the horizon the curve's last value is carried on, which understates the benefit;
    R's dcurves gives NA there.

    Parameters
    ----------
    outcome : Survival or Classes, length n_patients
        Survival without entry times, or two classes of which the second is the event.
    probability : float array, shape (n_patients,)
        Of the event (by the horizon).
    thresholds : float or float array, shape (n_thresholds,)
        Strictly between 0 and 1; their plain mean is taken.
    horizon_months : float
        Survival only; from the first event to the last follow-up.

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
    return Statistic.of(outcome, lambda weights: benefit.curve(weights).mean(axis=1), benefit.label)


def net_benefit_treat_all(
    outcome: Survival | Classes, thresholds: ArrayLike, *, horizon_months: float | None = None
) -> Statistic:
    """Net benefit of treating everybody; parameters and errors as `net_benefit`."""
    everybody = np.ones(outcome.n_patients)
    benefit = _Benefit(outcome, everybody, thresholds, horizon_months)
    return Statistic.of(
        outcome, lambda weights: benefit.curve(weights).mean(axis=1), f"{benefit.label}, treat all"
    )


def decision_curve(
    outcome: Survival | Classes,
    probability: ArrayLike,
    thresholds: ArrayLike,
    *,
    horizon_months: float | None = None,
    n: int = 500,
    seed: int,
    level: float = 0.95,
) -> DecisionCurve:
    """Net benefit at each threshold with a bootstrap band, beside treating everybody.

    Parameters and errors as `net_benefit`; ``n`` resamples of patients with this ``seed``.
    """
    p = as_probability(probability, outcome)
    benefit = _Benefit(outcome, p, thresholds, horizon_months)
    everybody = _Benefit(outcome, np.ones(len(p)), thresholds, horizon_months)
    ones = np.ones((1, len(p)))
    lower, upper = bootstrap_band(benefit.curve, len(p), n=n, seed=seed, level=level)
    return DecisionCurve(
        benefit.thresholds,
        benefit.curve(ones)[0],
        lower,
        upper,
        everybody.curve(ones)[0],
        f"{benefit.label}; {level:.0%} percentile band, {n} bootstrap resamples",
    )


class _Benefit:
    def __init__(
        self,
        outcome: Survival | Classes,
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
        self._above = [np.flatnonzero(probability >= cut) for cut in self.thresholds]
        self._risk, at = _risk_among(outcome, horizon_months)
        self.label = f"net benefit{at}, " + (
            f"threshold {self.thresholds[0]:g}"
            if len(self.thresholds) == 1
            else f"mean over {len(self.thresholds)} thresholds from {self.thresholds.min():g} to "
            f"{self.thresholds.max():g}"
        )

    def curve(self, weights: Floats) -> Floats:
        """Net benefit at each threshold, (n_resamples, n_thresholds)."""
        total = weights.sum(axis=1)
        found = np.zeros((len(weights), len(self.thresholds)))
        # Patients above a threshold are nested: as many are the same ones.
        seen: dict[int, tuple[Floats, Floats]] = {0: (np.zeros_like(total), np.zeros_like(total))}
        for k, (cut, above) in enumerate(zip(self.thresholds, self._above, strict=True)):
            if len(above) not in seen:
                w = weights[:, above]
                seen[len(above)] = (w.sum(axis=1) / total, self._risk(w, above))
            treated, risk = seen[len(above)]
            found[:, k] = treated * (risk - (1 - risk) * cut / (1 - cut))
        return found


def _risk_among(
    outcome: Survival | Classes, horizon_months: float | None
) -> tuple[Callable[[Floats, Ints], Floats], str]:
    """Probability of the event among some patients, given their weights and positions."""
    if isinstance(outcome, Classes):
        event = binary_event(outcome)

        def share(weights: Floats, patients: Ints) -> Floats:
            total = weights.sum(axis=1)
            happened = weights @ event[patients]
            shares = np.divide(happened, total, out=np.zeros_like(total), where=total > 0)
            return np.asarray(shares, dtype=np.float64)

        return share, ""
    survival = outcome
    horizon = required_horizon(outcome, horizon_months, "net benefit", followed_beyond=False)

    def risk(weights: Floats, patients: Ints) -> Floats:
        sets = RiskSets(survival.take(patients))
        free = with_start(sets.event_free(weights))[:, int(sets.up_to(horizon))]
        return np.asarray(1 - free, dtype=np.float64)

    return risk, f" at {horizon:g} months"
