"""Estimates from several imputed data sets as one: Rubin's rules.

Every function takes what complete-data analyses of the imputations gave; none sees a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import t as student

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.uncertainty import Interval, Statistic

Scale = Literal["identity", "log", "logit"]

# As R's mice: with (nearly) no variance between imputations the degrees of freedom stay finite.
_LEAST_SHARE = 1e-4


@dataclass(frozen=True, eq=False)
class Pooled:
    """Coefficients pooled over imputations.

    Attributes
    ----------
    estimate : float64 array, shape (n_terms,)
        Mean over the imputations.
    covariance : float64 array, shape (n_terms, n_terms)
        Within plus (1 + 1/m) between.
    within, between : float64 array, shape (n_terms, n_terms)
        Mean covariance of the analyses; covariance of their estimates.
    df : float64 array, shape (n_terms,)
        Degrees of freedom of each term's t distribution.
    fraction_missing : float64 array, shape (n_terms,)
        Share of the information about each term that was lost with the missing values.
    n_imputations : int
    """

    estimate: Floats
    covariance: Floats
    within: Floats
    between: Floats
    df: Floats
    fraction_missing: Floats
    n_imputations: int

    @property
    def se(self) -> Floats:
        """Standard error of each term."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def p(self) -> Floats:
        """Two-sided p value of each term being 0."""
        return np.asarray(2 * student.sf(np.abs(self.estimate / self.se), self.df))

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Lower and upper end of each term's interval.

        Raises
        ------
        StatisticsError
            If the level does not lie between 0 and 1.
        """
        if not 0 < level < 1:
            raise StatisticsError(f"level {level:g}", fix="Legal are values between 0 and 1.")
        reach = student.ppf(0.5 + level / 2, self.df) * self.se
        return self.estimate - reach, self.estimate + reach


def pool(
    estimates: ArrayLike | Sequence[ArrayLike],
    covariances: ArrayLike | Sequence[ArrayLike],
    *,
    df_complete: float | None = None,
) -> Pooled:
    """Pool coefficients of the same model fitted to each imputed data set, by Rubin's rules.

    Parameters
    ----------
    estimates : float array, shape (n_imputations, n_terms)
        On a scale on which they are nearly normal: log hazard ratios, not hazard ratios.
    covariances : float array, shape (n_imputations, n_terms, n_terms)
        Of those estimates.
    df_complete : float, optional
        Degrees of freedom without missing values, e.g. events less terms for a Cox model; at
        least 1. With it, degrees of freedom are Barnard and Rubin's; without, Rubin's for large
        samples.

    Returns
    -------
    Pooled
        As R's ``mice::pool``.

    Raises
    ------
    StatisticsError
        If there are fewer than two imputations, shapes do not fit, a number is not finite, a
        variance is not positive, or ``df_complete`` is below 1.

    References
    ----------
    Rubin, Multiple Imputation for Nonresponse in Surveys (1987), ch. 3. Barnard & Rubin,
    Biometrika 86 (1999) 948-955.
    """
    q, u = checked_fits(estimates, covariances)
    m = len(q)
    within, between = u.mean(axis=0), np.atleast_2d(np.cov(q, rowvar=False))
    total = within + (1 + 1 / m) * between
    share = (1 + 1 / m) * np.diag(between) / np.diag(total)
    df = barnard_rubin(share, m, df_complete)
    increase = share / (1 - share)
    fraction = (increase + 2 / (df + 3)) / (increase + 1)
    return Pooled(q.mean(axis=0), total, within, between, df, fraction, m)


def barnard_rubin(share: Floats, n_imputations: int, df_complete: float | None) -> Floats:
    """Degrees of freedom, given the share of the variance that is between imputations."""
    old = (n_imputations - 1) / np.maximum(share, _LEAST_SHARE) ** 2
    if df_complete is None:
        return np.asarray(old)
    if not df_complete >= 1:
        raise StatisticsError(
            f"{df_complete:g} degrees of freedom without missing values",
            fix="There must be more events (or patients) than terms.",
        )
    kept = 1 - np.maximum(share, _LEAST_SHARE)
    observed = (df_complete + 1) / (df_complete + 3) * df_complete * kept
    return np.asarray(old * observed / (old + observed))


def checked_fits(
    estimates: ArrayLike | Sequence[ArrayLike], covariances: ArrayLike | Sequence[ArrayLike]
) -> tuple[Floats, Floats]:
    """Estimates (m, p) and covariances (m, p, p) as finite arrays; see `pool`."""
    try:
        q = np.asarray(estimates, dtype=np.float64)
        u = np.asarray(covariances, dtype=np.float64)
    except ValueError as error:
        raise StatisticsError(
            "the analyses of the imputations do not have the same terms",
            fix="Keep every level of a category in the design of every imputation.",
        ) from error
    if q.ndim != 2 or u.shape != (*q.shape, q.shape[-1]) or not q.size:
        raise StatisticsError(
            f"estimates of shape {q.shape} with covariances of shape {u.shape}",
            fix="Legal are (m, p) and (m, p, p): m imputations, p terms.",
        )
    if len(q) < 2:
        raise StatisticsError("one imputation", fix="Pooling needs at least two.")
    if not (np.isfinite(q).all() and np.isfinite(u).all()):
        raise StatisticsError("an analysis of an imputation gave an estimate that is not finite")
    if (np.diagonal(u, axis1=1, axis2=2) <= 0).any():
        raise StatisticsError("an analysis of an imputation gave a variance that is not positive")
    return q, u


@dataclass(frozen=True)
class PooledNumber:
    """One number pooled over imputations, back on its own scale.

    Attributes
    ----------
    value, lower, upper : float
    se, df : float
        On the scale on which it was pooled.
    fraction_missing : float
    n_imputations : int
    method : str
    """

    value: float
    lower: float
    upper: float
    se: float
    df: float
    fraction_missing: float
    n_imputations: int
    method: str


def pool_numbers(
    values: ArrayLike,
    ses: ArrayLike,
    *,
    scale: Scale = "identity",
    df_complete: float | None = None,
    level: float = 0.95,
) -> PooledNumber:
    """Pool one number over imputations on the scale on which it is nearest to normal.

    Parameters
    ----------
    values, ses : float array, shape (n_imputations,)
        The number and its standard error, both on the number's own scale.
    scale : {"identity", "log", "logit"}
        ``log`` for what is positive (observed/expected), ``logit`` for what lies between 0 and 1
        (C-index, AUC). Errors are carried over by the delta method.
    df_complete, level : float
        As `pool` and `Pooled.interval`.

    Raises
    ------
    StatisticsError
        As ``pool``, and if a value lies outside the scale's range.

    References
    ----------
    Marshall et al., BMC Med. Res. Methodol. 9 (2009) 57. Debray et al., Stat. Methods Med. Res.
    28 (2019) 2768-2786 (scales).
    """
    own, errors = np.asarray(values, dtype=np.float64), np.asarray(ses, dtype=np.float64)
    at, slope = _onto(own, scale)
    pooled = pool(at[:, None], ((slope * errors) ** 2)[:, None, None], df_complete=df_complete)
    lower, upper = pooled.interval(level)
    on = "" if scale == "identity" else f" on the {scale} scale"
    return PooledNumber(
        _back(float(pooled.estimate[0]), scale),
        _back(float(lower[0]), scale),
        _back(float(upper[0]), scale),
        float(pooled.se[0]),
        float(pooled.df[0]),
        float(pooled.fraction_missing[0]),
        len(own),
        f"pooled over {len(own)} imputations{on} (Rubin)",
    )


def pool_statistics(
    statistics: Sequence[Statistic], *, scale: Scale, level: float = 0.95
) -> Interval:
    """Pool one metric, computed on every imputed data set, with its infinitesimal-jackknife error.

    Raises
    ------
    StatisticsError
        As `pool_numbers`, and if a statistic has no formula for its error or they are not on the
        same patients.
    """
    ses = [statistic.se for statistic in statistics]
    if any(se is None for se in ses):
        raise StatisticsError(
            f"no formula for the standard error of {statistics[0].method}",
            fix="Pooling needs one on every imputation.",
        )
    counts = {(statistic.n_patients, statistic.n_events) for statistic in statistics}
    if len(counts) > 1:
        raise StatisticsError("statistics of different patients cannot be pooled")
    values = [statistic.value for statistic in statistics]
    number = pool_numbers(values, np.asarray(ses, dtype=np.float64), scale=scale, level=level)
    n_patients, n_events = counts.pop()
    method = f"{statistics[0].method}; {level:.0%} interval, {number.method}"
    # The error of a pooled value is known on the pooling scale only.
    se = number.se if scale == "identity" else None
    return Interval(number.value, se, number.lower, number.upper, n_patients, n_events, method)


def _onto(values: Floats, scale: Scale) -> tuple[Floats, Floats]:
    """The values on a scale, and its slope there."""
    if scale == "identity":
        return values, np.ones_like(values)
    top = np.inf if scale == "log" else 1.0
    if not ((values > 0) & (values < top)).all():
        raise StatisticsError(
            f"a value outside the range of the {scale} scale",
            fix=f"Legal are values above 0{' and below 1' if scale == 'logit' else ''}.",
        )
    if scale == "log":
        return np.log(values), 1 / values
    return np.log(values / (1 - values)), 1 / (values * (1 - values))


def _back(x: float, scale: Scale) -> float:
    if scale == "identity":
        return x
    return float(np.exp(x)) if scale == "log" else float(expit(x))
