"""How development's patients look in feature space: small enough to travel with a model.

Patients are split into two random halves. Axes are learned from the first half; the second half,
which these axes never saw, gives the sample that other patients are compared with: new patients of
the same kind are then exchangeable with it, which they would not be with patients to whom the axes
were fitted. Distances of all patients, each by the axes of the other half, give the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from storm_clinic.errors import FeatureError, StatisticsError

Floats = NDArray[np.float64]

FEWEST_PATIENTS = 10  # five a half: below, there are no axes worth the name
MOST_COMPONENTS = 32
MOST_SAMPLED = 512
THRESHOLD_QUANTILE = 0.99
_NOTHING = 1e-9  # share of the variance below which an axis is rounding error
# Of the mean variance of a column; what does not vary at all in development has to have a scale.
_LEAST_RESIDUAL = 1e-6
_SHAPES = {
    "mean": 1,
    "components": 2,
    "eigenvalues": 1,
    "residual_variance": 1,
    "sample": 2,
    "threshold": 1,
    "n_patients": 1,
}


@dataclass(frozen=True, eq=False)
class FeatureReference:
    """Axes of development's mean tile embeddings, a sample along them, and how far is far.

    Attributes
    ----------
    mean : float64 array, shape (n_features,)
    components : float32 array, shape (n_components, n_features)
        Orthonormal axes, at most 32.
    eigenvalues : float64 array, shape (n_components,)
        Variance along each axis, descending.
    residual_variance : float
        Mean variance of a direction beyond the axes.
    sample : float32 array, shape (n_sampled, n_components)
        Standardised projections of at most 512 patients in random order, without id, site or
        scanner; none of them made the axes.
    threshold : float
        The smallest distance that 99% of development's patients do not exceed, each measured by
        axes that other patients made; below 100 patients it is the largest.
    n_patients : int
        Behind ``threshold``.
    """

    mean: Floats
    components: NDArray[np.float32]
    eigenvalues: Floats
    residual_variance: float
    sample: NDArray[np.float32]
    threshold: float
    n_patients: int

    @classmethod
    def of(cls, mean_embeddings: ArrayLike, *, seed: int) -> FeatureReference:
        """Describe development's patients.

        Parameters
        ----------
        mean_embeddings : float array, shape (n_patients, n_features)
            Mean tile embedding of each patient. Rows with NaN (no tiles) are left out.
        seed : int
            Of the two halves and the sample.

        Raises
        ------
        StatisticsError
            If fewer than ten patients have tiles, or all of a half have the same embedding.
        """
        x = _rows(mean_embeddings)
        x = x[np.isfinite(x).all(axis=1)]
        if len(x) < FEWEST_PATIENTS:
            raise StatisticsError(
                f"{len(x)} patients with tiles are too few to say how features look",
                fix=f"At least {FEWEST_PATIENTS} are needed.",
            )
        order = np.random.default_rng(seed).permutation(len(x))
        first, second = x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
        axes, others = _Axes.of(first), _Axes.of(second)
        distances = np.sort(np.concatenate([axes.distance(second), others.distance(first)]))
        threshold = np.quantile(distances, THRESHOLD_QUANTILE, method="higher")
        sample = axes.project(second[:MOST_SAMPLED]).astype(np.float32)
        return cls(
            axes.mean,
            axes.components,
            axes.eigenvalues,
            axes.residual_variance,
            sample,
            float(threshold),
            len(x),
        )

    def project(self, means: ArrayLike) -> Floats:
        """Place along each axis, in standard deviations of development.

        Parameters
        ----------
        means : float array, shape (n_patients, n_features)
            Mean tile embedding of each patient.

        Returns
        -------
        float64 array, shape (n_patients, n_components)
            NaN where a patient's embedding is.

        Raises
        ------
        FeatureError
            If the embeddings have another width.
        """
        return self._axes.project(self._checked(means))

    def distance(self, means: ArrayLike) -> Floats:
        """How far patients lie from development: Mahalanobis distance under probabilistic PCA.

        The square root of the sum over axes of projection² / variance along the axis, plus the
        squared length of what the axes leave over / ``residual_variance``.

        Parameters and errors as `project`.

        Returns
        -------
        float64 array, shape (n_patients,)
            NaN where a patient's embedding is.

        References
        ----------
        Tipping & Bishop, J. R. Stat. Soc. B 61 (1999) 611-622: the distance under the covariance
        of their model, whose residual variance is the mean of the eigenvalues left out.
        """
        return self._axes.distance(self._checked(means))

    def is_outside(self, means: ArrayLike) -> NDArray[np.bool_]:
        """Whether patients lie beyond ``threshold``; False where an embedding is NaN.

        Of patients like development's about one in a hundred does. Parameters and errors as
        `project`.

        Returns
        -------
        bool array, shape (n_patients,)
        """
        return self.distance(means) > self.threshold

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays by name; numbers as arrays of length 1."""
        return {
            "mean": self.mean,
            "components": self.components,
            "eigenvalues": self.eigenvalues,
            "residual_variance": np.array([self.residual_variance]),
            "sample": self.sample,
            "threshold": np.array([self.threshold]),
            "n_patients": np.array([self.n_patients], dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FeatureReference:
        """Build from what `to_arrays` gave.

        Raises
        ------
        FeatureError
            If an array is missing, unknown, not finite or of another shape.
        """
        wrong = sorted(set(arrays) ^ set(_SHAPES))
        if wrong:
            raise FeatureError(f"missing or unknown array {', '.join(wrong)}", where="reference")
        for name, n_dimensions in _SHAPES.items():
            array = arrays[name]
            if array.ndim != n_dimensions or not np.isfinite(array).all():
                raise FeatureError(
                    f"{name} has shape {array.shape}, or a value that is not finite",
                    where="reference",
                )
        k, width = arrays["components"].shape
        expected = {"mean": (width,), "eigenvalues": (k,), "sample": (len(arrays["sample"]), k)}
        expected |= dict.fromkeys(("residual_variance", "threshold", "n_patients"), (1,))
        for name, shape in expected.items():
            if arrays[name].shape != shape:
                raise FeatureError(
                    f"{name} has shape {arrays[name].shape}, not {shape}", where="reference"
                )
        return cls(
            arrays["mean"].astype(np.float64),
            arrays["components"].astype(np.float32),
            arrays["eigenvalues"].astype(np.float64),
            float(arrays["residual_variance"][0]),
            arrays["sample"].astype(np.float32),
            float(arrays["threshold"][0]),
            int(arrays["n_patients"][0]),
        )

    @property
    def _axes(self) -> _Axes:
        return _Axes(self.mean, self.components, self.eigenvalues, self.residual_variance)

    def _checked(self, means: ArrayLike) -> Floats:
        x = _rows(means)
        if x.shape[1] != len(self.mean):
            raise FeatureError(
                f"{x.shape[1]} values a patient; development's have {len(self.mean)}",
                where="mean embeddings",
            )
        return x


@dataclass(frozen=True, eq=False)
class _Axes:
    """Probabilistic PCA of some patients; see `FeatureReference` for the fields."""

    mean: Floats
    components: NDArray[np.float32]
    eigenvalues: Floats
    residual_variance: float

    @classmethod
    def of(cls, x: Floats) -> _Axes:
        n, width = x.shape
        mean = x.mean(axis=0)
        centred = x - mean
        total = float((centred**2).sum()) / (n - 1)
        # Of n equal values the mean may differ in the last digit.
        if total <= 1e-24 * float((mean**2).sum()):
            raise StatisticsError("features of all patients are the same")
        # At least as many degrees of freedom as axes are kept for what the axes leave over.
        wanted = min(MOST_COMPONENTS, width, (n - 1) // 2)
        small = centred @ centred.T if n < width else centred.T @ centred
        last = len(small) - 1
        values, vectors = eigh(small / (n - 1), subset_by_index=[last - wanted + 1, last])
        kept = np.flatnonzero(values > _NOTHING * total)[::-1]
        values, vectors = values[kept], vectors[:, kept]
        if n < width:
            vectors = centred.T @ vectors / np.sqrt((n - 1) * values)
        beyond = max(0.0, total - float(values.sum())) / max(1, width - len(kept))
        return cls(
            mean,
            # Float32 halves the bundle; everything after is computed from what is kept.
            np.ascontiguousarray(vectors.T, dtype=np.float32),
            values,
            max(beyond, _LEAST_RESIDUAL * total / width),
        )

    def project(self, x: Floats) -> Floats:
        return self._along(x - self.mean) / np.sqrt(self.eigenvalues)

    def distance(self, x: Floats) -> Floats:
        centred = x - self.mean
        along = self._along(centred)
        beyond = centred - along @ self.components.astype(np.float64)
        squared = (along**2 / self.eigenvalues).sum(axis=1)
        squared += (beyond**2).sum(axis=1) / self.residual_variance
        return np.asarray(np.sqrt(squared), dtype=np.float64)

    def _along(self, centred: Floats) -> Floats:
        return np.asarray(centred @ self.components.T.astype(np.float64), dtype=np.float64)


def _rows(means: ArrayLike) -> Floats:
    x = np.asarray(means, dtype=np.float64)
    if x.ndim != 2:
        raise FeatureError(f"must be a row a patient, has shape {x.shape}", where="mean embeddings")
    return x
