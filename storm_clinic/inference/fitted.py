"""What every regression of this room gives back, and what each asks of its design matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError

_DEPENDENT = 1e-9  # share of a column's spread that the others must leave unexplained
_Z = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class ChiSquare:
    """A test statistic with a chi-squared distribution under the hypothesis."""

    statistic: float
    df: int

    @property
    def p(self) -> float:
        return float(stats.chi2.sf(self.statistic, self.df))


@dataclass(frozen=True, eq=False)
class FittedModel:
    """Coefficients that maximise a (partial) likelihood, with their covariance.

    Attributes
    ----------
    names : tuple of str, length p
    coefficients : float64 array, shape (p,)
        Log hazard, subdistribution hazard or odds ratios per unit of each column.
    covariance : float64 array, shape (p, p)
        Of the coefficients; robust where that was asked for.
    log_likelihood, null_log_likelihood : float
        At the maximum, and with all coefficients 0.
    score_test : ChiSquare
        Rao's test that all coefficients are 0.
    n_patients, n_events : int
        Patients and events of positive weight that were used.
    """

    names: tuple[str, ...]
    coefficients: Floats
    covariance: Floats
    log_likelihood: float
    null_log_likelihood: float
    score_test: ChiSquare
    n_patients: int
    n_events: int

    @property
    def se(self) -> Floats:
        """Standard errors, shape (p,)."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def p_values(self) -> Floats:
        """Two-sided Wald p of each coefficient, shape (p,)."""
        return np.asarray(2 * stats.norm.sf(np.abs(self.coefficients / self.se)))

    @property
    def ratios(self) -> Floats:
        """Exponential of each coefficient with its 95% Wald interval, shape (p, 3)."""
        ends = [self.coefficients, *(self.coefficients + sign * _Z * self.se for sign in (-1, 1))]
        with np.errstate(over="ignore"):
            return np.exp(np.stack(ends, axis=1))

    @property
    def likelihood_ratio_test(self) -> ChiSquare:
        """Test that all coefficients are 0."""
        gain = 2 * (self.log_likelihood - self.null_log_likelihood)
        return ChiSquare(max(gain, 0.0), len(self.coefficients))

    @property
    def wald_test(self) -> ChiSquare:
        """Test that all coefficients are 0."""
        return self.wald(self.names)

    def wald(self, names: Sequence[str]) -> ChiSquare:
        """Test that the coefficients of these names are all 0."""
        at = [self.names.index(name) for name in names]
        part, covariance = self.coefficients[at], self.covariance[np.ix_(at, at)]
        return ChiSquare(float(part @ np.linalg.solve(covariance, part)), len(at))


def checked_design(design: Floats, n_patients: int, names: Sequence[str]) -> Floats:
    """The design as float64, shape (n_patients, p), if a regression can use it.

    Raises
    ------
    StatisticsError
        If shapes or names do not fit, a value is missing or infinite, a column is constant, or one
        follows from others.
    """
    matrix = np.asarray(design, dtype=np.float64)
    if matrix.shape != (n_patients, len(names)) or not len(names):
        raise StatisticsError(
            f"a design of shape {matrix.shape} for {n_patients} patients and {len(names)} names",
            fix="One row a patient, one name a column, and at least one column.",
        )
    if len(set(names)) != len(names):
        raise StatisticsError("two columns of the design have one name")
    bad = ~np.isfinite(matrix).all(axis=0)
    if bad.any():
        raise StatisticsError(
            f"values are missing or infinite in {_listed(names, bad)}",
            fix="Leave out those patients, or impute.",
        )
    check_columns(matrix, names)
    return matrix


def check_columns(matrix: Floats, names: Sequence[str]) -> None:
    """Refuse columns that are constant or follow linearly from those before them.

    Raises
    ------
    StatisticsError
        Naming them.
    """
    centred = matrix - matrix.mean(axis=0)
    largest = np.abs(matrix).max(axis=0)
    constant = np.abs(centred).max(axis=0) <= 1e-12 * np.maximum(largest, 1e-300)
    if constant.any():
        raise StatisticsError(
            f"every patient has the same value of {_listed(names, constant)}",
            fix="Leave that covariate out: it cannot tell patients apart.",
        )
    scaled = centred / np.linalg.norm(centred, axis=0)
    left = np.abs(np.diag(np.linalg.qr(scaled, mode="r")))
    left = np.pad(left, (0, scaled.shape[1] - len(left)))
    if (left < _DEPENDENT).any():
        raise StatisticsError(
            f"{_listed(names, left < _DEPENDENT)} follows from the other covariates "
            f"({len(matrix)} patients, {len(names)} columns)",
            fix="Leave out covariates that say the same.",
        )


def _listed(names: Sequence[str], mask: Floats | np.ndarray) -> str:
    return ", ".join(name for name, named in zip(names, mask, strict=True) if named)
