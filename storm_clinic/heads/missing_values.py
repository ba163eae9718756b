"""Missing covariates by their conditional mean under a multivariate normal distribution.

One locked set of numbers fills in any single patient, which multiple imputation cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import TrainingError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MAX_STEPS = 2000
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class NormalModel:
    """Mean and covariance of covariates.

    Attributes
    ----------
    mean : float64 array, shape (n_columns,)
    covariance : float64 array, shape (n_columns, n_columns)
    """

    mean: Floats
    covariance: Floats

    @classmethod
    def fit(cls, values: Floats, *, prior_patients: float = 1.0) -> NormalModel:
        """Maximum likelihood by EM from rows with gaps (NaN).

        Parameters
        ----------
        values : float64 array, shape (n_patients, n_columns)
            Every column observed somewhere.
        prior_patients : float
            Weight of a diagonal covariance of the observed variances, in patients; it keeps
            the estimate invertible where columns depend on each other.

        Raises
        ------
        TrainingError
            If the steps do not settle.

        References
        ----------
        Dempster, Laird and Rubin, J. R. Stat. Soc. B 39 (1977) 1-38; Little and Rubin,
        Statistical Analysis with Missing Data (2002), ch. 11.
        """
        variance = np.nanvar(values, axis=0)
        scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        model = cls(np.nanmean(values, axis=0), np.diag(variance))
        for _ in range(_MAX_STEPS):
            before = model
            model = before._step(values, variance, prior_patients)
            moved = np.abs(model.mean - before.mean) / scale
            spread = np.abs(model.covariance - before.covariance) / np.outer(scale, scale)
            if max(moved.max(initial=0.0), spread.max(initial=0.0)) < _TOLERANCE:
                return model
        raise TrainingError(
            f"the distribution of the covariates did not settle in {_MAX_STEPS} steps",
            fix="Leave out a covariate that is missing in most patients.",
        )

    def fill(self, values: Floats) -> Floats:
        """The rows with each gap replaced by its mean given the row's observed values."""
        filled = values.copy()
        for rows, gaps, slope, _ in self._patterns(values):
            seen = values[np.ix_(rows, ~gaps)] - self.mean[~gaps]
            # Summed row by row: a matrix product rounds by how many patients come together.
            filled[np.ix_(rows, gaps)] = self.mean[gaps] + (seen[:, None] * slope).sum(axis=2)
        return filled

    def _step(self, values: Floats, variance: Floats, prior_patients: float) -> NormalModel:
        filled = self.fill(values)
        unexplained = np.diag(variance * prior_patients)
        for rows, gaps, _, left in self._patterns(values):
            unexplained[np.ix_(gaps, gaps)] += len(rows) * left
        mean = filled.mean(axis=0)
        centred = filled - mean
        total = centred.T @ centred + unexplained
        return NormalModel(mean, total / (len(values) + prior_patients))

    def _patterns(
        self, values: Floats
    ) -> Iterator[tuple[NDArray[np.int64], Bools, Floats, Floats]]:
        """Rows that miss the same columns, with the regression of these on the others."""
        gaps = np.isnan(values)
        patterns, which = np.unique(gaps, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            if not pattern.any():
                continue
            cross = self.covariance[np.ix_(pattern, ~pattern)]
            seen = self.covariance[np.ix_(~pattern, ~pattern)]
            slope = np.linalg.solve(seen, cross.T).T
            left = self.covariance[np.ix_(pattern, pattern)] - slope @ cross.T
            rows = np.flatnonzero(which.ravel() == number).astype(np.int64)
            yield rows, pattern, np.asarray(slope), np.asarray(left)
