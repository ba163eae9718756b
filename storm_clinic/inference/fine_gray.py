"""Fine and Gray's regression of a cumulative incidence, with their robust covariance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Bools, CompetingRisks, Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.cox import few_events, require_events
from storm_clinic.inference.fitted import ChiSquared, Fitted
from storm_clinic.inference.maximum import as_design, maximise
from storm_clinic.inference.partial_likelihood import AtDeaths, PartialLikelihood, Stratum


def fit_fine_gray(design: ArrayLike, outcome: CompetingRisks, *, names: Sequence[str]) -> Fitted:
    """Regression of the subdistribution hazard of the first cause, as ``cmprsk::crr``.

    Patients with another event stay at risk with the chance of being still uncensored, which is
    estimated from all patients without covariates (Kaplan-Meier); ties count as Breslow's. The
    covariance is the sandwich that also carries the estimation of that chance.

    Parameters
    ----------
    design : float array, shape (n_patients, p)
        Covariates, finite, none constant and none that follows from others.
    outcome : CompetingRisks, length n_patients
        Without entry times.
    names : sequence of str, length p
        Of the covariates.

    Raises
    ------
    StatisticsError
        If there are entry times, no event of the first cause, a column is constant or follows
        from others, or a covariate separates patients with from those without events.

    References
    ----------
    Fine & Gray, J Am Stat Assoc 94 (1999) 496-509.
    """
    if outcome.entry_months is not None and (outcome.entry_months > 0).any():
        raise StatisticsError(
            "Fine and Gray's regression is not defined with entry times (left truncation)",
            fix="Fit a Cox model of the cause-specific hazard: it honours them.",
        )
    require_events(outcome.n_events, outcome.n_patients, "Fine and Gray's regression")
    matrix = as_design(design, outcome.n_patients, names)
    centre, scale = matrix.mean(axis=0), matrix.std(axis=0)
    x = (matrix - centre) / scale
    sets = _Lingering(outcome)
    likelihood = PartialLikelihood([sets], [np.arange(outcome.n_patients)])
    top = maximise(likelihood.evaluator(x), len(names), names, "Fine and Gray's regression")
    at = sets.at_deaths(x, x @ top.at)
    moved = sets.residuals(x, at) + sets.censoring_residuals(x, at)
    moved = moved @ np.linalg.inv(top.there.information)
    zero = top.at_zero
    score = float(zero.gradient @ np.linalg.solve(zero.information, zero.gradient))
    return Fitted(
        kind="fine-gray",
        names=tuple(names),
        coefficients=top.at / scale,
        covariance=moved.T @ moved / np.outer(scale, scale),
        log_likelihood=top.there.value,
        null_log_likelihood=zero.value,
        score_test=ChiSquared(score, len(names)),
        n_patients=outcome.n_patients,
        n_events=outcome.n_events,
        method="Fine and Gray's regression of the subdistribution hazard, robust errors",
        note=few_events(outcome.n_events, len(names)),
    )


class _Lingering(Stratum):
    """Risk sets in which patients with another event stay, less and less."""

    def __init__(self, outcome: CompetingRisks) -> None:
        time, cause = outcome.time_months, outcome.cause
        super().__init__(time, cause == 1, np.ones(len(time)), ties="breslow")
        self._censored: Bools = cause == 0
        # Each censoring time: who is at risk then counts those with an event at that time (crr).
        self._censor_times, number = np.unique(time[self._censored], return_counts=True)
        self._followed = len(time) - np.searchsorted(np.sort(time), self._censor_times, side="left")
        # Zero only behind the last time of all, where nothing is asked.
        curve = np.concatenate([[1.0], np.cumprod(1 - number / self._followed)])
        self._number = number
        self._at_deaths = curve[np.searchsorted(self._censor_times, self.death_times, side="left")]
        gone = np.flatnonzero(cause > 1)
        self._gone = gone[np.argsort(time[gone], kind="stable")]
        before = np.searchsorted(self._censor_times, time[self._gone], side="left")
        self._inverse = 1 / curve[before]

    def risk_sums(self, values: Floats) -> Floats:
        return super().risk_sums(values) + self._at_deaths[:, None] * self._left(
            values, self.death_times
        )

    def exposure(self, per_time: Floats) -> Floats:
        weight = self._at_deaths.reshape(-1, *[1] * (per_time.ndim - 1))
        later = _suffix(per_time * weight)
        seen = super().exposure(per_time)
        after = later[np.searchsorted(self.death_times, self.time[self._gone], side="right")]
        seen[self._gone] += after * self._inverse.reshape(-1, *[1] * (per_time.ndim - 1))
        return seen

    def censoring_residuals(self, x: Floats, at: AtDeaths) -> Floats:
        """What the estimated chance of being uncensored adds to each score residual (psi)."""
        values = np.column_stack([at.hazard, at.hazard[:, None] * x])
        left = self._left(values, self._censor_times)
        rate = self._at_deaths * self.per_time(at.rate)
        mean = self._at_deaths[:, None] * self.per_time(at.rate[:, None] * at.mean)
        from_ = np.searchsorted(self.death_times, self._censor_times, side="left")
        q = left[:, 1:] * _suffix(rate)[from_, None] - left[:, :1] * _suffix(mean)[from_]
        shared = np.cumsum(q * (self._number / self._followed**2)[:, None], axis=0)
        shared = np.concatenate([np.zeros((1, x.shape[1])), shared])
        until = np.searchsorted(self._censor_times, self.time, side="right")
        residual = -shared[until]
        own = np.searchsorted(self._censor_times, self.time[self._censored])
        residual[self._censored] += q[own] / self._followed[own, None]
        return np.asarray(residual)

    def _left(self, values: Floats, times: Floats) -> Floats:
        """Sum over those with another event before each time, by the inverse of their chance."""
        total = np.cumsum(values[self._gone] * self._inverse[:, None], axis=0)
        total = np.concatenate([np.zeros((1, values.shape[1])), total])
        return np.asarray(total[np.searchsorted(self.time[self._gone], times, side="left")])


def _suffix(values: Floats) -> Floats:
    """Sum from each row to the end, with a last row of 0."""
    total = np.cumsum(values[::-1], axis=0)[::-1]
    return np.concatenate([total, np.zeros((1, *values.shape[1:]))])
