"""Cox's partial likelihood with several covariates, strata, case weights and entry times.

`heads.survival` has the likelihood of training; what inference needs beside it is the distribution
of the covariates in every risk set, from which tests, residuals and robust errors follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Bools, Floats, Ints, Survival
from storm_clinic.errors import StatisticsError


@dataclass(frozen=True, eq=False)
class Moments:
    """Each death's risk set under a linear predictor; deaths in the order of ``deaths``.

    Attributes
    ----------
    total : float64 array, shape (n_deaths,)
        Efron's denominator, of hazards relative to the largest.
    mean : float64 array, shape (n_deaths, p)
    covariance : float64 array, shape (n_deaths, p, p)
    """

    total: Floats
    mean: Floats
    covariance: Floats


class PartialLikelihood:
    """Who is at risk when somebody dies; Efron's ties, as R's ``coxph``.

    With d deaths at one time the k-th (k = 0..d-1) has a risk set from which k/d of the deaths'
    hazard is taken, and counts with the mean weight of the d. At risk at t: ``entry < t <= time``
    in the same stratum.

    Parameters
    ----------
    outcome : Survival
    weights : array, shape (n_patients,), optional
        Positive case weights.
    strata : array, shape (n_patients,), optional
        Labels; each stratum has a baseline hazard of its own.

    Attributes
    ----------
    deaths : int64 array, shape (n_deaths,)
        Rows of the patients who died, by stratum and time.
    death_times : float64 array, shape (n_deaths,)
    tie_weight : float64 array, shape (n_deaths,)
        Mean case weight of each death's tie.

    Raises
    ------
    StatisticsError
        If nobody had the event, or weights or strata do not fit.

    References
    ----------
    Efron, JASA 72 (1977) 557-565. Therneau and Grambsch, Modeling Survival Data (2000), ch. 3.
    """

    def __init__(
        self,
        outcome: Survival,
        *,
        weights: ArrayLike | None = None,
        strata: ArrayLike | None = None,
    ) -> None:
        n = outcome.n_patients
        self.weights = _checked_weights(weights, n)
        self.strata: Ints = _codes(strata, n)
        if outcome.n_events == 0:
            raise StatisticsError(
                f"no event among {n} patients", fix="A Cox regression needs events."
            )
        self.time, self.event, self.entry = (
            outcome.time_months,
            outcome.event,
            outcome.entry_months,
        )
        by_time = np.lexsort((self.time, self.strata))
        self.deaths: Ints = by_time[self.event[by_time]]
        self.death_times = self.time[self.deaths]
        stratum = self.strata[self.deaths]
        new = np.append(True, (np.diff(stratum) != 0) | (np.diff(self.death_times) != 0))
        self.tie_start: Ints = np.flatnonzero(new)
        self.tie: Ints = np.cumsum(new) - 1
        number = np.diff(np.append(self.tie_start, len(self.deaths)))
        rank = np.arange(len(self.deaths)) - self.tie_start[self.tie]
        self.share: Floats = rank / number[self.tie]
        total = np.add.reduceat(self.weights[self.deaths], self.tie_start)
        self.tie_weight: Floats = (total / number)[self.tie]

    @property
    def n_deaths(self) -> int:
        return len(self.deaths)

    def log_likelihood(self, linear: Floats) -> float:
        """Log partial likelihood of a linear predictor, shape (n_patients,)."""
        top = linear.max()
        total = self._risk_sums((self.weights * np.exp(linear - top))[:, None])[:, 0]
        own = self.weights[self.deaths] @ linear[self.deaths]
        return float(own - self.tie_weight @ (np.log(total) + top))

    def moments(self, design: Floats, linear: Floats) -> Moments:
        """Distribution of the columns of ``design`` in each death's risk set."""
        p = design.shape[1]
        hazard = self.weights * np.exp(linear - linear.max())
        upper = np.triu_indices(p)
        products = design[:, upper[0]] * design[:, upper[1]]
        columns = np.column_stack([np.ones(len(hazard)), design, products])
        sums = self._risk_sums(hazard[:, None] * columns)
        total = sums[:, 0]
        averages = sums[:, 1:] / total[:, None]
        mean = averages[:, :p]
        covariance = np.empty((self.n_deaths, p, p))
        covariance[:, upper[0], upper[1]] = averages[:, p:]
        covariance[:, upper[1], upper[0]] = averages[:, p:]
        return Moments(total, mean, covariance - mean[:, :, None] * mean[:, None, :])

    def score_and_information(self, design: Floats, linear: Floats) -> tuple[Floats, Floats]:
        """First and minus second derivative of the log-likelihood, (p,) and (p, p)."""
        moments = self.moments(design, linear)
        score = self.death_scores(design, moments).sum(axis=0)
        return score, np.einsum("k,kij->ij", self.tie_weight, moments.covariance)

    def death_scores(self, design: Floats, moments: Moments) -> Floats:
        """What each death adds to the score, shape (n_deaths, p): weighted Schoenfeld residuals.

        Within a tie every death is compared with the mean of the tie's risk sets.
        """
        number = np.bincount(self.tie)[:, None]
        mean = np.add.reduceat(moments.mean, self.tie_start, axis=0) / number
        own = self.weights[self.deaths][:, None]
        return np.asarray(own * (design[self.deaths] - mean[self.tie]))

    def score_residuals(self, design: Floats, linear: Floats) -> Floats:
        """Each patient's part in the score, times the case weight, shape (n_patients, p)."""
        moments = self.moments(design, linear)
        hazard = np.exp(linear - linear.max())
        rate = self.tie_weight / moments.total
        steps = np.column_stack([rate, rate[:, None] * moments.mean])
        gone = np.column_stack([self.share * rate, (self.share * rate)[:, None] * moments.mean])
        exposure = self._exposure(np.add.reduceat(steps, self.tie_start, axis=0))
        # Efron: those who die at a tie are at risk there only in part.
        exposure[self.deaths] -= np.add.reduceat(gone, self.tie_start, axis=0)[self.tie]
        residual = -hazard[:, None] * (design * exposure[:, :1] - exposure[:, 1:])
        residual *= self.weights[:, None]
        residual[self.deaths] += self.death_scores(design, moments)
        return np.asarray(residual)

    def _risk_sums(self, values: Floats) -> Floats:
        """Column sums over each death's risk set, less Efron's share of its tie, (n_deaths, c)."""
        sums = np.empty((len(self.tie_start), values.shape[1]))
        for rows, ties in self._by_stratum():
            at = self.death_times[self.tie_start[ties]]
            sums[ties] = _suffix(values[rows], self.time[rows], at)
            if self.entry is not None:
                sums[ties] -= _suffix(values[rows], self.entry[rows], at)
        dying = np.add.reduceat(values[self.deaths], self.tie_start, axis=0)
        return np.asarray(sums[self.tie] - self.share[:, None] * dying[self.tie])

    def _exposure(self, steps: Floats) -> Floats:
        """Sum of each tie's row over the ties at which a patient is at risk, (n_patients, c)."""
        exposure = np.zeros((len(self.time), steps.shape[1]))
        for rows, ties in self._by_stratum():
            at = self.death_times[self.tie_start[ties]]
            total = np.vstack([np.zeros(steps.shape[1]), np.cumsum(steps[ties], axis=0)])
            exposure[rows] = total[np.searchsorted(at, self.time[rows], side="right")]
            if self.entry is not None:
                exposure[rows] -= total[np.searchsorted(at, self.entry[rows], side="right")]
        return exposure

    def _by_stratum(self) -> Iterator[tuple[Ints, Ints]]:
        """Rows of the patients, and positions of the ties, of each stratum with deaths."""
        of_tie = self.strata[self.deaths[self.tie_start]]
        for stratum in np.unique(of_tie):
            yield np.flatnonzero(self.strata == stratum), np.flatnonzero(of_tie == stratum)


def _suffix(values: Floats, key: Floats, at: Floats) -> Floats:
    """Sum of the rows whose key is at least each of ``at``."""
    order = np.argsort(key, kind="stable")
    total = np.vstack([np.cumsum(values[order][::-1], axis=0)[::-1], np.zeros(values.shape[1])])
    return np.asarray(total[np.searchsorted(key[order], at, side="left")])


def _checked_weights(weights: ArrayLike | None, n: int) -> Floats:
    if weights is None:
        return np.ones(n)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n,) or not (np.isfinite(array) & (array > 0)).all():
        raise StatisticsError("case weights must be one positive number a patient")
    return array


def _codes(strata: ArrayLike | None, n: int) -> Ints:
    if strata is None:
        return np.zeros(n, dtype=np.int64)
    array = np.asarray(strata)
    if array.shape != (n,):
        raise StatisticsError(f"strata of shape {array.shape} for {n} patients")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)
