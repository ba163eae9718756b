"""Regressions over imputed tables as one, so that patients with gaps count too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.pooled_tests import PooledTest, chi_square_test, wald_test
from storm_clinic.inference.rubin import Pooled, pool
from storm_clinic.validation.analyses import HypothesisTest, Term

_LARGEST = 700.0  # of a logarithm whose exponential is a float
_MANY = 10_000  # degrees of freedom beyond which their number says nothing


class FittedRegression(Protocol):
    """What is pooled of a regression that was fitted to one table."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the coefficients, p of them."""

    @property
    def coefficients(self) -> Floats:
        """Shape (p,); logarithms of ratios."""

    @property
    def covariance(self) -> Floats:
        """Shape (p, p)."""

    @property
    def log_likelihood(self) -> float:
        """At the maximum."""


Fit = Callable[[pd.DataFrame], FittedRegression]


@dataclass(frozen=True, eq=False)
class PooledRegression:
    """A regression pooled over imputed tables, in the parts of a `Regression`."""

    names: tuple[str, ...]
    pooled: Pooled
    terms: tuple[Term, ...]
    tests: tuple[HypothesisTest, ...]
    n_imputations: int
    method: str
    note: str


def pooled_regression(
    fit: Fit,
    tables: Sequence[pd.DataFrame],
    *,
    tested: Mapping[str, Sequence[str]] | None = None,
    df_complete: float | None = None,
) -> PooledRegression:
    """Fit a regression to every imputed table and pool it by Rubin's rules.

    Parameters
    ----------
    fit : callable
        Table to `FittedRegression`; the same names in the same order from every table.
    tables : sequence of DataFrame
        At least two.
    tested : mapping of hypothesis to names, optional
        Coefficients tested to be 0 together, e.g. those of one category (D1).
    df_complete : float, optional
        Degrees of freedom without missing values: events less terms for a Cox model, patients
        less terms for a logistic one.

    Raises
    ------
    StatisticsError
        If names differ between tables or a tested name is not there; as `fit`, and as
        `storm_clinic.inference.rubin.pool`.
    """
    fits = [fit(table) for table in tables]
    names = _common_names(fits)
    estimates = np.array([one.coefficients for one in fits], dtype=np.float64)
    covariances = np.array([one.covariance for one in fits], dtype=np.float64)
    pooled = pool(estimates, covariances, df_complete=df_complete)
    tests = []
    for about, members in (tested or {}).items():
        at = _positions(members, names)
        found = wald_test(estimates[:, at], covariances[:, at][:, :, at], df_complete=df_complete)
        tests.append(as_hypothesis("Wald", about, found))
    worst = float(pooled.fraction_missing.max())
    return PooledRegression(
        names,
        pooled,
        terms_of(names, pooled),
        tuple(tests),
        len(fits),
        f"multiple imputation by chained equations, {len(fits)} imputations; Rubin's rules, "
        f"{'Rubin' if df_complete is None else 'Barnard-Rubin'} degrees of freedom",
        f"Up to {worst:.0%} of the information about a coefficient was missing.",
    )


def pooled_added_value(
    larger: Fit, smaller: Fit, tables: Sequence[pd.DataFrame], *, about: str
) -> HypothesisTest:
    """Likelihood ratio of nested regressions on every imputed table, pooled (D2).

    Needs the maxima only. Where the covariance of the added terms is at hand, the Wald test of
    `pooled_regression` (D1) has more power.

    Parameters
    ----------
    larger, smaller : callable
        Table to `FittedRegression`; the smaller has some of the larger's terms.
    tables : sequence of DataFrame
        At least two.
    about : str
        What is added.

    Raises
    ------
    StatisticsError
        If the models are not nested in their names, or the larger fits worse.
    """
    both = [(larger(table), smaller(table)) for table in tables]
    names, fewer = _common_names([one[0] for one in both]), _common_names([one[1] for one in both])
    if not set(fewer) < set(names):
        raise StatisticsError("the smaller regression is not part of the larger one")
    ratios = np.array([2 * (with_it.log_likelihood - w.log_likelihood) for with_it, w in both])
    if ratios.min() < -1e-6:
        raise StatisticsError("the larger regression fits worse than the smaller one")
    found = chi_square_test(np.maximum(ratios, 0), len(names) - len(fewer))
    return as_hypothesis("likelihood ratio", about, found)


def as_hypothesis(name: str, about: str, found: PooledTest) -> HypothesisTest:
    """A pooled test as a result; the F statistic's denominator stands in the method."""
    below = "infinitely many"
    if found.df_denominator is not None:
        many = found.df_denominator > _MANY
        below = f"over {_MANY:,}" if many else f"{found.df_denominator:.1f}"
    return HypothesisTest(
        name=name,
        about=about,
        statistic=found.statistic,
        df=found.df,
        p=found.p,
        method=f"{found.method}; F with {found.df} and {below} degrees of freedom",
    )


def terms_of(names: Sequence[str], pooled: Pooled) -> tuple[Term, ...]:
    """Pooled coefficients as terms; intervals are t intervals on the log scale.

    Raises
    ------
    StatisticsError
        If an end of a ratio's interval is too large to be written as a number.
    """
    lower, upper = pooled.interval()
    wide = [n for n, a, b in zip(names, lower, upper, strict=True) if max(-a, b) > _LARGEST]
    if wide:
        raise StatisticsError(f"the effect of {wide[0]} is too uncertain to have an interval")
    columns = zip(names, pooled.estimate, pooled.se, lower, upper, pooled.p, strict=True)
    return tuple(
        Term(
            term=name,
            coefficient=float(b),
            se=float(se),
            ratio=float(np.exp(b)),
            lower=float(np.exp(low)),
            upper=float(np.exp(high)),
            p=float(p),
        )
        for name, b, se, low, high, p in columns
    )


def _common_names(fits: Sequence[FittedRegression]) -> tuple[str, ...]:
    names = {tuple(one.names) for one in fits}
    if len(names) != 1:
        raise StatisticsError(
            f"{len(names)} different sets of terms from {len(fits)} imputed tables",
            fix="Keep every level of a category in the design of every table.",
        )
    return names.pop()


def _positions(members: Sequence[str], names: Sequence[str]) -> list[int]:
    unknown = [name for name in members if name not in names]
    if unknown or not members:
        raise StatisticsError(
            f"no term {unknown[0]!r} to test" if unknown else "no term to test",
            fix=f"There are {', '.join(names)}.",
        )
    return [list(names).index(name) for name in members]
