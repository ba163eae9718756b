"""Tests of several coefficients at once, pooled over imputations: D1, D2 and D3.

Take D1 where the coefficients' covariance is known, D3 where the likelihood can be evaluated at
given coefficients; D2 needs the test statistics only and is the weakest of the three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2
from scipy.stats import f as fisher

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.rubin import checked_fits


@dataclass(frozen=True)
class PooledTest:
    """A pooled F test.

    Attributes
    ----------
    statistic : float
    df : int
        Coefficients tested.
    df_denominator : float or None
        None where imputations agree so that there is no end to it: chi-square divided by ``df``.
    p : float
    relative_increase : float
        Mean relative increase of the variance by missing values.
    method : str
    """

    statistic: float
    df: int
    df_denominator: float | None
    p: float
    relative_increase: float
    method: str


def wald_test(
    estimates: ArrayLike | Sequence[ArrayLike],
    covariances: ArrayLike | Sequence[ArrayLike],
    *,
    df_complete: float | None = None,
) -> PooledTest:
    """Test that all these coefficients are 0, from estimates and covariances (D1).

    Parameters
    ----------
    estimates, covariances, df_complete
        As `storm_clinic.inference.rubin.pool`, of the tested coefficients only.

    Returns
    -------
    PooledTest
        As R's ``mice::D1``; with ``df_complete`` the denominator is Reiter's, which needs
        n_terms (n_imputations - 1) above 4 and is else Li's.

    Raises
    ------
    StatisticsError
        As ``pool``, and if coefficients depend on each other.

    References
    ----------
    Li, Raghunathan & Rubin, JASA 86 (1991) 1065-1073. Reiter, Biometrika 94 (2007) 502-508.
    """
    q, u = checked_fits(estimates, covariances)
    m, k = q.shape
    mean, within = q.mean(axis=0), u.mean(axis=0)
    between = np.atleast_2d(np.cov(q, rowvar=False))
    if np.linalg.cond(within) > 1e14:
        raise StatisticsError("the tested coefficients depend on each other")
    increase = (1 + 1 / m) * float(np.trace(np.linalg.solve(within, between))) / k
    statistic = float(mean @ np.linalg.solve(within, mean)) / k / (1 + increase)
    freedom, by = _li(k * (m - 1), increase, 1 + 1 / k), ""
    if df_complete is not None and k * (m - 1) > 4 and increase > 0:
        freedom, by = _reiter(k * (m - 1), increase, df_complete), ", Reiter's degrees of freedom"
    return _f_test(statistic, k, freedom, increase, f"pooled Wald test (D1), {m} imputations{by}")


def chi_square_test(statistics: ArrayLike, df: int) -> PooledTest:
    """Pool the chi-square statistics of one test on every imputation (D2).

    Parameters
    ----------
    statistics : float array, shape (n_imputations,)
        Not negative, e.g. likelihood ratio or Wald statistics.
    df : int
        Their degrees of freedom, at least 1.

    Returns
    -------
    PooledTest
        As R's ``mice::D2``. The statistic can be negative, with p = 1.

    Raises
    ------
    StatisticsError
        If there are fewer than two statistics, or one is negative or not finite.

    References
    ----------
    Li, Meng, Raghunathan & Rubin, Statistica Sinica 1 (1991) 65-92.
    """
    d = _per_imputation(statistics, df)
    if (d < 0).any():
        raise StatisticsError("a chi-square statistic is negative")
    m = len(d)
    increase = (1 + 1 / m) * float(np.var(np.sqrt(d), ddof=1))
    statistic = (d.mean() / df - (m + 1) / (m - 1) * increase) / (1 + increase)
    freedom = df ** (-3 / m) * (m - 1) * (1 + 1 / increase) ** 2 if increase > 0 else None
    method = f"pooled chi-square test (D2), {m} imputations"
    return _f_test(float(statistic), df, freedom, increase, method)


def likelihood_ratio_test(own: ArrayLike, at_pooled: ArrayLike, df: int) -> PooledTest:
    """Pool likelihood ratio tests of nested models (D3).

    Parameters
    ----------
    own : float array, shape (n_imputations,)
        Twice the difference of the two models' log-likelihoods on each imputation, each model at
        its own maximum there.
    at_pooled : float array, shape (n_imputations,)
        The same with each model at its coefficients pooled over the imputations.
    df : int
        Coefficients that the larger model has more, at least 1.

    Returns
    -------
    PooledTest
        As R's ``mice::D3``; but a relative increase below 0, which chance can give, counts as 0.

    Raises
    ------
    StatisticsError
        If there are fewer than two imputations, lengths differ or a number is not finite.

    References
    ----------
    Meng & Rubin, Biometrika 79 (1992) 103-111.
    """
    at_own, at_mean = _per_imputation(own, df), _per_imputation(at_pooled, df)
    if at_own.shape != at_mean.shape:
        raise StatisticsError(f"{len(at_own)} likelihood ratios and {len(at_mean)} at the pooled")
    m = len(at_own)
    lost = float(at_own.mean() - at_mean.mean())
    increase = max((m + 1) / (df * (m - 1)) * lost, 0.0)
    statistic = float(at_mean.mean()) / (df * (1 + increase))
    freedom = _li(df * (m - 1), increase, 1 + 1 / df)
    method = f"pooled likelihood ratio test (D3), {m} imputations"
    return _f_test(statistic, df, freedom, increase, method)


def _per_imputation(values: ArrayLike, df: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise StatisticsError(
            f"statistics of shape {array.shape}, or one that is not finite",
            fix="Pooling needs one finite number from each of at least two imputations.",
        )
    if df < 1:
        raise StatisticsError(f"{df} degrees of freedom", fix="Legal are whole numbers from 1.")
    return array


def _li(t: float, increase: float, factor: float) -> float | None:
    if increase <= 0:
        return None
    if t > 4:
        return 4 + (t - 4) * (1 + (1 - 2 / t) / increase) ** 2
    return t * factor * (1 + 1 / increase) ** 2 / 2


def _reiter(t: float, increase: float, df_complete: float) -> float:
    a = increase * t / (t - 2)
    complete = (df_complete + 1) / (df_complete + 3) * df_complete
    c0, c1, c2 = 1 / (t - 4), complete - 2 * (1 + a), complete - 4 * (1 + a)
    if c2 <= 0:
        raise StatisticsError(
            f"{df_complete:g} degrees of freedom are too few for a pooled test of several terms",
            fix="Test fewer terms, or in more patients.",
        )
    z = 1 / c2 + c0 * (
        a**2 * c1 / ((1 + a) ** 2 * c2)
        + 8 * a**2 * c1 / ((1 + a) * c2**2)
        + 4 * a**2 / ((1 + a) * c2)
        + 4 * a**2 / (c2 * c1)
        + 16 * a**2 * c1 / c2**3
        + 8 * a**2 / c2**2
    )
    return 4 + 1 / z


def _f_test(
    statistic: float, df: int, freedom: float | None, increase: float, method: str
) -> PooledTest:
    p = chi2.sf(statistic * df, df) if freedom is None else fisher.sf(statistic, df, freedom)
    return PooledTest(statistic, df, freedom, float(p), increase, method)
