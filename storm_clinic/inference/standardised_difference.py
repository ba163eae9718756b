"""How far two cohorts differ in one variable, in standard deviations; no test, no n."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.errors import StatisticsError


def continuous_difference(mean: float, sd: float, other_mean: float, other_sd: float) -> float:
    """Difference of means over the root of the mean variance; positive where ``mean`` is higher.

    Raises
    ------
    StatisticsError
        If the variable varies in neither cohort.

    References
    ----------
    Austin, Stat. Med. 28 (2009) 3083-3107.
    """
    spread = np.sqrt((sd**2 + other_sd**2) / 2)
    if not spread > 0:
        raise StatisticsError("the variable varies in neither cohort")
    return float((mean - other_mean) / spread)


def categorical_difference(counts: ArrayLike, other_counts: ArrayLike) -> float:
    """Mahalanobis distance of the shares of the levels; never negative.

    Parameters
    ----------
    counts, other_counts : int arrays, shape (n_levels,)
        Patients of each level, in one order.

    Raises
    ------
    StatisticsError
        If a cohort has nobody, or fewer than two levels occur.

    References
    ----------
    Yang & Dalton, SAS Global Forum (2012), paper 335.
    """
    own, other = np.asarray(counts, np.float64), np.asarray(other_counts, np.float64)
    if own.shape != other.shape or not own.sum() > 0 or not other.sum() > 0:
        raise StatisticsError("levels of two cohorts with patients are needed, in one order")
    occurs = (own + other) > 0
    if occurs.sum() < 2:
        raise StatisticsError("the variable varies in neither cohort")
    p, q = (part[occurs] / part.sum() for part in (own, other))
    # The last level follows from the rest.
    difference = (p - q)[:-1]
    covariance = np.zeros((len(difference), len(difference)))
    for share in (p[:-1], q[:-1]):
        covariance += (np.diag(share) - np.outer(share, share)) / 2
    return float(np.sqrt(max(difference @ np.linalg.pinv(covariance) @ difference, 0.0)))
