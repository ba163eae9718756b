"""What a regression gives back: coefficients, their covariance, and the tests of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import chi2, norm

from storm_clinic.cohort.outcome import Floats

Kind = Literal["cox", "fine-gray", "logistic"]


class ChiSquared(NamedTuple):
    """A test whose statistic has a chi-squared distribution under the hypothesis."""

    statistic: float
    df: int

    @property
    def p(self) -> float:
        return float(chi2.sf(self.statistic, self.df))


class WaldInterval(NamedTuple):
    """A coefficient with its Wald interval and p."""

    coefficient: float
    se: float
    lower: float
    upper: float
    p: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted:
    """A regression fitted by maximum (partial) likelihood.

    Attributes
    ----------
    kind : {"cox", "fine-gray", "logistic"}
    names : tuple of str
        One a coefficient.
    coefficients : float64 array, shape (p,)
        Log hazard ratios, log subdistribution hazard ratios or log odds ratios.
    covariance : float64 array, shape (p, p)
        Inverse information, or the sandwich where ``method`` says robust.
    log_likelihood, null_log_likelihood : float
        At the maximum, and with every coefficient 0.
    score_test : ChiSquared
        Of all coefficients, at 0.
    n_patients, n_events : int
    method : str
        What was fitted and where the errors come from.
    note : str
        A caution, e.g. fewer events than coefficients; empty where there is none.
    """

    kind: Kind
    names: tuple[str, ...]
    coefficients: Floats
    covariance: Floats
    log_likelihood: float
    null_log_likelihood: float
    score_test: ChiSquared
    n_patients: int
    n_events: int
    method: str
    note: str = ""

    @property
    def se(self) -> Floats:
        """Standard errors, shape (p,)."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def likelihood_ratio(self) -> ChiSquared:
        """Test of all coefficients by twice the gain in log likelihood."""
        gain = 2 * (self.log_likelihood - self.null_log_likelihood)
        return ChiSquared(max(gain, 0.0), len(self.names))

    @property
    def wald(self) -> ChiSquared:
        """Test of all coefficients by their covariance."""
        return self.wald_of(range(len(self.names)))

    def wald_of(self, columns: Sequence[int]) -> ChiSquared:
        """Test that the coefficients at these positions are all 0."""
        at = list(columns)
        b = self.coefficients[at]
        statistic = float(b @ np.linalg.solve(self.covariance[np.ix_(at, at)], b))
        return ChiSquared(max(statistic, 0.0), len(at))

    def interval(self, column: int, *, level: float = 0.95) -> WaldInterval:
        """Coefficient at a position, with its Wald interval on the log scale and two-sided p."""
        b, se = float(self.coefficients[column]), float(self.se[column])
        reach = float(norm.ppf(0.5 + level / 2)) * se
        return WaldInterval(b, se, b - reach, b + reach, float(2 * norm.sf(abs(b / se))))


@dataclass(frozen=True, eq=False, kw_only=True)
class CoxFit(Fitted):
    """A Cox model.

    Attributes
    ----------
    naive_covariance : float64 array, shape (p, p)
        Inverse information, also where ``covariance`` is the sandwich.
    """

    naive_covariance: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class LogisticFit(Fitted):
    """A logistic regression; the intercept stands apart from the coefficients."""

    intercept: float
    intercept_se: float
