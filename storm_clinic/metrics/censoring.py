"""Inverse-probability-of-censoring weights, from the evaluated patients or from given ones.

The weight of an event at T is 1/G(T-), the chance of being uncensored just before it, as in R's
survival, pec, timeROC and riskRegression; G(T) instead would give an event that ties with a
censoring too much weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storm_clinic.cohort.outcome import Floats, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.inputs import require_whole_follow_up
from storm_clinic.metrics.risk_sets import RiskSets, with_start


@dataclass(frozen=True, eq=False)
class GSlope:
    """Derivative of a number by the logarithm of G at some times.

    Attributes
    ----------
    before, by_before : float64 arrays, shape (n,)
        Months t, and the derivative by log G(t-).
    at, by_at : float
        One more time t, and the derivative by log G(t).
    """

    before: Floats
    by_before: Floats
    at: float | None = None
    by_at: float = 0.0


class Uncensored:
    """G, the chance of being under observation.

    Parameters
    ----------
    outcome : Survival
        The evaluated patients.
    censoring : Survival, optional
        The patients from whom G is estimated, once; by default the evaluated ones, anew in every
        resample.
    """

    def __init__(self, outcome: Survival, censoring: Survival | None) -> None:
        require_whole_follow_up(outcome, "a censoring-weighted number")
        self._n_patients = outcome.n_patients
        self._fixed: Floats | None = None
        self._sets = RiskSets(outcome if censoring is None else censoring)
        if censoring is not None:
            require_whole_follow_up(censoring, "a censoring distribution")
            ones = np.ones((1, censoring.n_patients))
            self._fixed = with_start(self._sets.uncensored(ones))

    def curve(self, weights: Floats) -> Floats:
        """G with the start in front, (n_resamples or 1, n_times + 1)."""
        if self._fixed is not None:
            return self._fixed
        return with_start(self._sets.uncensored(weights))

    def just_before(self, curve: Floats, months: Floats) -> Floats:
        """G(t-) at each of these months, (n_resamples or 1, n_months)."""
        return np.asarray(curve[:, self._sets.before(months)], dtype=np.float64)

    def at(self, curve: Floats, months: float) -> Floats:
        """G(t) at one time, (n_resamples or 1, 1)."""
        return np.asarray(curve[:, [int(self._sets.up_to(months))]], dtype=np.float64)

    def influence(self, slope: GSlope) -> Floats:
        """How far each evaluated patient moves a number through G, with every weight 1; (n,).

        Nobody does where G is that of other patients.
        """
        if self._fixed is not None:
            return np.zeros(self._n_patients)
        by_time: Floats = np.bincount(
            self._sets.before(slope.before),
            weights=slope.by_before,
            minlength=len(self._sets.times) + 1,
        ).astype(np.float64)
        if slope.at is not None:
            by_time[int(self._sets.up_to(slope.at))] += slope.by_at
        return self._sets.uncensored_influence(by_time)

    def require_positive(self, months: Floats, at: float | None = None) -> None:
        """Refuse times after which everybody was censored: their weight would be infinite.

        Raises
        ------
        StatisticsError
            Naming the last time that can be weighted.
        """
        curve = self._fixed if self._fixed is not None else self._own()
        values = self.just_before(curve, months) if at is None else self.at(curve, at)
        if (values <= 0).any():
            last = float(self._sets.times[-1])
            raise StatisticsError(
                "everybody is censored before the times that must be weighted",
                fix=f"Choose a horizon or tau_months below {last:g}.",
            )

    def _own(self) -> Floats:
        return with_start(self._sets.uncensored(np.ones((1, len(self._sets.slot)))))
