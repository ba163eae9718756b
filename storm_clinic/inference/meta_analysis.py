"""Random-effects meta-analysis: what sites have in common, and where a new one may lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import chi2, t

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError


@dataclass(frozen=True)
class RandomEffects:
    """A pooled estimate; all numbers on the scale of the estimates that went in.

    Attributes
    ----------
    value, se, lower, upper : float
        Pooled mean, its Hartung-Knapp-Sidik-Jonkman error, never below that of the usual weights,
        and the 95% interval (Student, one degree of freedom less than there are studies).
    prediction_lower, prediction_upper : float or None
        Where 95% of the true values of new studies are expected (Student, two degrees of freedom
        less than there are studies); None with two studies.
    tau2 : float
        Variance between studies (restricted maximum likelihood).
    i2 : float
        Share of the variation that is between studies, from 0 to 1.
    q, q_df, q_p : float
        Cochran's test of equal true values.
    n_studies : int
    """

    value: float
    se: float
    lower: float
    upper: float
    prediction_lower: float | None
    prediction_upper: float | None
    tau2: float
    i2: float
    q: float
    q_df: int
    q_p: float
    n_studies: int


def random_effects(
    estimates: ArrayLike, errors: ArrayLike, *, level: float = 0.95
) -> RandomEffects:
    """Pool estimates of several studies, as R's ``metafor::rma(yi, sei, test = "adhoc")``.

    The prediction interval is that of ``predict(fit, pi.type = "riley")``: Student with two degrees
    of freedom less than there are studies, around that error. Studies that agree better than
    chance would let them would make Hartung and Knapp's error absurdly small; its factor is
    therefore at least 1.

    Parameters
    ----------
    estimates, errors : float arrays, shape (n_studies,)
        Estimates and their standard errors on one scale, errors above 0; two studies or more.
    level : float
        Of the intervals.

    Raises
    ------
    StatisticsError
        If there are fewer than two studies, or an error is not above 0.

    References
    ----------
    Viechtbauer, J. Educ. Behav. Stat. 30 (2005) 261-293. Hartung & Knapp, Stat. Med. 20 (2001)
    3875-3889. Riley, Higgins & Deeks, BMJ 342 (2011) d549. Partlett & Riley, Stat. Med. 36 (2017)
    301-317. Roever, Knapp & Friede, BMC Med. Res. Methodol. 15 (2015) 99 (the factor).
    """
    y, variance = _checked(estimates, errors)
    tau2 = _restricted_likelihood(y, variance)
    weight = 1 / (variance + tau2)
    value = float((weight * y).sum() / weight.sum())
    df = len(y) - 1
    factor = max(float((weight * (y - value) ** 2).sum()) / df, 1.0)
    se = float(np.sqrt(factor / weight.sum()))
    tail = 0.5 + level / 2
    quantile = float(t(df).ppf(tail))
    ahead = float(t(df - 1).ppf(tail) * np.hypot(se, np.sqrt(tau2))) if df > 1 else None
    q, _, p = heterogeneity(y, np.sqrt(variance))
    fixed = 1 / variance
    typical = df * fixed.sum() / (fixed.sum() ** 2 - (fixed**2).sum())
    return RandomEffects(
        value,
        se,
        value - quantile * se,
        value + quantile * se,
        None if ahead is None else value - ahead,
        None if ahead is None else value + ahead,
        tau2,
        float(tau2 / (tau2 + typical)),
        q,
        df,
        p,
        len(y),
    )


def heterogeneity(estimates: ArrayLike, errors: ArrayLike) -> tuple[float, int, float]:
    """Cochran's Q for equal true values of independent groups: chi-square, df, p.

    Parameters and errors as `random_effects`.

    References
    ----------
    Cochran, Biometrics 10 (1954) 101-129.
    """
    y, variance = _checked(estimates, errors)
    weight = 1 / variance
    value = (weight * y).sum() / weight.sum()
    q, df = float((weight * (y - value) ** 2).sum()), len(y) - 1
    return q, df, float(chi2.sf(q, df))


def _checked(estimates: ArrayLike, errors: ArrayLike) -> tuple[Floats, Floats]:
    y, se = np.asarray(estimates, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if y.ndim != 1 or y.shape != se.shape or len(y) < 2:
        raise StatisticsError(
            f"{y.size} estimates and {se.size} errors", fix="Needed are two studies or more."
        )
    if not np.isfinite(y).all() or not (np.isfinite(se) & (se > 0)).all():
        raise StatisticsError("estimates must be finite, and their errors above 0")
    return y, se**2


def _restricted_likelihood(y: Floats, variance: Floats) -> float:
    """Variance between studies at which the restricted likelihood is level; 0 where it falls."""

    def slope(tau2: float) -> float:
        w = 1 / (variance + tau2)
        value = (w * y).sum() / w.sum()
        away = (w**2 * (y - value) ** 2).sum()
        return float(away - w.sum() + (w**2).sum() / w.sum())

    top = float(np.var(y, ddof=1)) + float(variance.max())
    if slope(0.0) <= 0:
        return 0.0
    while slope(top) > 0:
        top *= 2
    return float(brentq(slope, 0.0, top, xtol=1e-14, rtol=1e-12))
