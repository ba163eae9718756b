"""How far two cohorts differ in one variable, in standard deviations; no test, no n."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.errors import StatisticsError


def continuous_difference(mean: float, sd: float, other_mean: float, other_sd: float) -> float:
    """Difference of means over the root of the mean variance; positive where ``mean`` is higher.

    Parameters
    ----------
    mean, sd, other_mean, other_sd : float
        Moments of two cohorts in the unit of the variable; finite, ``sd`` from 0.

    Raises
    ------
    StatisticsError
        If a moment is not legal, or the variable varies in neither cohort.

    References
    ----------
    Austin, Stat. Med. 28 (2009) 3083-3107.
    """
    if not np.isfinite((mean, sd, other_mean, other_sd)).all() or min(sd, other_sd) < 0:
        raise StatisticsError("moments must be finite, and standard deviations 0 or above")
    spread = np.sqrt((sd**2 + other_sd**2) / 2)
    if not spread > 0:
        raise StatisticsError("the variable varies in neither cohort")
    return float((mean - other_mean) / spread)


def categorical_difference(counts: ArrayLike, other_counts: ArrayLike) -> float:
    """Mahalanobis distance of the shares of the levels; never negative.

    Parameters
    ----------
    counts, other_counts : int arrays, shape (n_levels,)
        Patients of each level, in one order; 0 or above.

    Raises
    ------
    StatisticsError
        If a cohort has nobody, a count is negative, fewer than two levels occur, or the cohorts
        differ in what neither of them varies in (they share no level): infinitely far apart.

    References
    ----------
    Yang & Dalton, SAS Global Forum (2012), paper 335.
    """
    own, other = np.asarray(counts, np.float64), np.asarray(other_counts, np.float64)
    if own.shape != other.shape or not own.sum() > 0 or not other.sum() > 0:
        raise StatisticsError("levels of two cohorts with patients are needed, in one order")
    if not (np.isfinite(own).all() and np.isfinite(other).all() and min(*own, *other) >= 0):
        raise StatisticsError("counts must be 0 or above")
    occurs = (own + other) > 0
    if occurs.sum() < 2:
        raise StatisticsError("the variable varies in neither cohort")
    p, q = (part[occurs] / part.sum() for part in (own, other))
    # The last level follows from the rest.
    difference = (p - q)[:-1]
    covariance = np.zeros((len(difference), len(difference)))
    for share in (p[:-1], q[:-1]):
        covariance += (np.diag(share) - np.outer(share, share)) / 2
    solved = np.linalg.pinv(covariance, rcond=1e-10, hermitian=True) @ difference
    # A difference outside what varies would be lost in the generalised inverse, and look like 0.
    if not np.allclose(covariance @ solved, difference, rtol=0, atol=1e-8):
        raise StatisticsError("the cohorts share too few levels: they are infinitely far apart")
    return float(np.sqrt(max(difference @ solved, 0.0)))
