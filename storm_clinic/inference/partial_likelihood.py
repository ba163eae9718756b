"""Cox's partial likelihood with Efron or Breslow ties, case weights, entry times and strata.

One stratum is sorted once; every call then works on running sums. Information comes from
expected events, so that no (patients x covariates x covariates) array is ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from storm_clinic.cohort.outcome import Bools, Floats, Ints
from storm_clinic.inference.maximum import Derivatives

Ties = Literal["efron", "breslow"]

_BLOCK_CELLS = 4_000_000  # patients x event times looked at together: 32 MB of float64


class AtDeaths(NamedTuple):
    """What a stratum's risk sets look like to each death, at some coefficients.

    Attributes
    ----------
    hazard : float64 array, shape (n,)
        Case weight times relative hazard of each patient, up to a common factor.
    rate : float64 array, shape (n_deaths,)
        Step of the cumulative baseline hazard that this death adds, by the same factor.
    mean : float64 array, shape (n_deaths, p)
        Mean covariates of the risk set, as seen by this death.
    value : float
        Log partial likelihood; ``-inf``, with rates and means NaN, where hazards lie so far apart
        that the sum of a risk set is beyond float64's range.
    """

    hazard: Floats
    rate: Floats
    mean: Floats
    value: float


class Stratum:
    """Patients who are at risk together; at ``entry < t <= time``.

    Parameters
    ----------
    time, event, weight : arrays, shape (n,)
    entry : float64 array, shape (n,), optional
    ties : "efron" or "breslow"
    """

    def __init__(
        self,
        time: Floats,
        event: Bools,
        weight: Floats,
        entry: Floats | None = None,
        ties: Ties = "efron",
    ) -> None:
        self.time, self.weight, self._entry = time, weight, entry
        self._by_time = np.argsort(time, kind="stable")
        self.deaths: Ints = self._by_time[event[self._by_time]]
        self.death_times, start, self.tie, number = np.unique(
            time[self.deaths], return_index=True, return_inverse=True, return_counts=True
        )
        self.tie_start: Ints = start
        self.share = (np.arange(len(self.deaths)) - start[self.tie]) / number[self.tie]
        if ties == "breslow":
            self.share = np.zeros(len(self.deaths))
        # Efron with case weights, as R: every death of a tie counts with their mean weight.
        own = weight[self.deaths]
        self.counted = own if ties == "breslow" else (self.per_time(own) / number)[self.tie]
        self._from = np.searchsorted(time[self._by_time], self.death_times, side="left")

    def per_time(self, per_death: Floats) -> Floats:
        """Sum of a value per death over the deaths at each time."""
        if not len(self.deaths):
            return per_death
        return np.asarray(np.add.reduceat(per_death, self.tie_start, axis=0))

    def risk_sums(self, values: Floats) -> Floats:
        """Sum of rows over those at risk at each death time, (n_times, q)."""
        if self._entry is None:
            total = np.cumsum(values[self._by_time][::-1], axis=0)[::-1]
            return np.asarray(total[self._from])
        # Subtracting those not yet entered would cancel digits; each risk set is summed afresh.
        sums = np.empty((len(self.death_times), values.shape[1]))
        step = max(1, _BLOCK_CELLS // len(self.time))
        for first in range(0, len(sums), step):
            t = self.death_times[first : first + step, None]
            sums[first : first + step] = ((self._entry < t) & (self.time >= t)) @ values
        return sums

    def exposure(self, per_time: Floats) -> Floats:
        """Sum of rows, one a death time, over the times at which each patient is at risk."""
        zero = np.zeros((1, *per_time.shape[1:]))
        total = np.concatenate([zero, np.cumsum(per_time, axis=0)])
        seen = total[np.searchsorted(self.death_times, self.time, side="right")]
        if self._entry is not None:
            seen = seen - total[np.searchsorted(self.death_times, self._entry, side="right")]
        return np.asarray(seen)

    def at_deaths(self, x: Floats, linear: Floats) -> AtDeaths:
        """Risk sets under a linear predictor."""
        highest = float(linear.max())
        hazard = self.weight * np.exp(linear - highest)
        values = np.column_stack([hazard, hazard[:, None] * x])
        dying = self.per_time(values[self.deaths])
        sums = self.risk_sums(values)[self.tie] - self.share[:, None] * dying[self.tie]
        total = sums[:, 0]
        # Rates are one over these; neither they, summed, nor times covariates may overflow.
        most = self.counted.sum() * float(np.abs(x).max(initial=1.0))
        if not (total > 4 * np.finfo(np.float64).tiny * max(1.0, most)).all():
            nowhere = np.full(len(total), np.nan)
            return AtDeaths(hazard, nowhere, np.full((len(total), x.shape[1]), np.nan), -np.inf)
        value = float(
            self.weight[self.deaths] @ (linear[self.deaths] - highest)
            - self.counted @ np.log(total)
        )
        return AtDeaths(hazard, self.counted / total, sums[:, 1:] / total[:, None], value)

    def information(self, x: Floats, at: AtDeaths, factor: Floats | None = None) -> Floats:
        """Observed information; with ``factor`` each death time counts that many times."""
        by = np.ones(len(self.death_times)) if factor is None else factor
        rate = at.rate * by[self.tie]
        expected = at.hazard * self.exposure(self.per_time(rate))
        # At its own time a death is at risk only with what Efron's denominators left of it.
        taken = self.per_time(self.share * rate)[self.tie]
        expected[self.deaths] -= at.hazard[self.deaths] * taken
        weighted = (self.counted * by[self.tie])[:, None] * at.mean
        return np.asarray((x * expected[:, None]).T @ x - weighted.T @ at.mean)

    def residuals(self, x: Floats, at: AtDeaths) -> Floats:
        """Score residuals, (n, p): each patient's part of the score by unit of case weight."""
        rate = self.exposure(self.per_time(at.rate))
        drift = self.exposure(self.per_time(at.rate[:, None] * at.mean))
        relative = at.hazard / self.weight
        residual = -relative[:, None] * (x * rate[:, None] - drift)
        part = self.per_time(self.share * at.rate)[self.tie]
        part_mean = self.per_time((self.share * at.rate)[:, None] * at.mean)[self.tie]
        dead = self.deaths
        back = relative[dead, None] * (x[dead] * part[:, None] - part_mean)
        residual[dead] += self.schoenfeld(x, at) + back
        return residual

    def schoenfeld(self, x: Floats, at: AtDeaths) -> Floats:
        """Covariates of each death less the mean of its risk set, (n_deaths, p)."""
        number = self.per_time(np.ones(len(self.deaths)))
        mean = self.per_time(at.mean) / number[:, None]
        return np.asarray(x[self.deaths] - mean[self.tie])

    def score(self, x: Floats, at: AtDeaths, factor: Floats | None = None) -> Floats:
        """Gradient of the log partial likelihood, (p,); ``factor`` as in `information`."""
        by = np.ones(len(self.deaths)) if factor is None else factor[self.tie]
        return np.asarray(
            (by * self.weight[self.deaths]) @ x[self.deaths] - (by * self.counted) @ at.mean
        )


class PartialLikelihood:
    """Sum over strata of log partial likelihoods.

    Parameters
    ----------
    strata : list of Stratum
    rows : list of int64 arrays
        Positions of each stratum's patients in the design.
    """

    def __init__(self, strata: list[Stratum], rows: list[Ints]) -> None:
        self.strata, self.rows = strata, rows

    def evaluator(self, design: Floats) -> Callable[[Floats], Derivatives]:
        """Coefficients to value, score and information."""
        parts = [design[rows] for rows in self.rows]
        p = design.shape[1]

        def evaluate(coefficients: Floats) -> Derivatives:
            value, score, information = 0.0, np.zeros(p), np.zeros((p, p))
            for stratum, x in zip(self.strata, parts, strict=True):
                if not len(stratum.deaths):
                    continue
                at = stratum.at_deaths(x, x @ coefficients)
                if at.value == -np.inf:
                    return Derivatives(-np.inf, score, information)
                value += at.value
                score += stratum.score(x, at)
                information += stratum.information(x, at)
            return Derivatives(value, score, information)

        return evaluate

    def residuals(self, design: Floats, coefficients: Floats) -> Floats:
        """Score residuals, (n_patients, p), by unit of case weight."""
        residual = np.zeros(design.shape)
        for stratum, rows in zip(self.strata, self.rows, strict=True):
            if len(stratum.deaths):
                x = design[rows]
                residual[rows] = stratum.residuals(x, stratum.at_deaths(x, x @ coefficients))
        return residual
