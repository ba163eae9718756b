"""What image embeddings a network was trained on, and how far others lie from them.

Embeddings cluster by section: staining, scanner and tissue are shared within one, so that distances
within the sections that were fitted say nothing about the next. Every limit here is therefore
measured on sections that were left out of the fit. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from storm_clinic.errors import CheckpointError

Floats = NDArray[np.float64]

MOST_COMPONENTS = 32
MOST_ROWS = 2000  # a section; more of one section's tiles tell little that is new
MOST_FOLDS = 10
QUANTILE = 0.95
_SHRINKAGE = 0.1
_BLOCK = 2048
_WHERE = "training domain"


class DomainReport(NamedTuple):
    """How one slide's tiles lie to the training data.

    Attributes
    ----------
    distance : float
        Median over tiles; about 1 for tissue of the training sections.
    share_outside : float
        Share of tiles beyond the threshold.
    warning : str or None
        Where the slide is outside: what was seen and what was expected.
    """

    distance: float
    share_outside: float
    warning: str | None


@dataclass(frozen=True, eq=False)
class TrainingDomain:
    """Mean and shrunk covariance of training embeddings, in at most 32 axes and what they leave.

    Attributes
    ----------
    mean : float32 array, shape (width,)
    components : float32 array, shape (n_components, width)
        Orthonormal axes.
    variances : float32 array, shape (n_components,)
        Along each axis, shrunk a tenth of the way to their mean.
    residual_variance : float
        Mean variance of a direction beyond the axes.
    threshold : float
        Distance that 95% of tiles of left-out sections do not exceed, each section weighing the
        same.
    largest_share : float
        Of all left-out sections the largest share of tiles beyond ``threshold``. A slide with more
        is outside; of slides like the training sections about one in ``n_sections`` + 1 is.
    n_sections, n_tiles : int
        What was fitted.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    variances: NDArray[np.float32]
    residual_variance: float
    threshold: float
    largest_share: float
    n_sections: int
    n_tiles: int

    @classmethod
    def fit(cls, sections: Mapping[str, NDArray[Any]]) -> TrainingDomain:
        """Describe training embeddings.

        Parameters
        ----------
        sections : mapping of name to float array, shape (n_tiles, width)
            Image embeddings of each section. Of more than 2,000 tiles, 2,000 evenly spaced ones are
            taken.

        Raises
        ------
        CheckpointError
            If there are fewer than two sections, a value is not finite, widths differ, or all
            embeddings are the same.
        """
        rows = [_rows(name, sections[name]) for name in sorted(sections)]
        if len(rows) < 2 or len({part.shape[1] for part in rows}) > 1:
            raise CheckpointError(
                f"{len(rows)} sections of widths {sorted({part.shape[1] for part in rows})}",
                where=_WHERE,
                fix="Give at least two sections embedded by one encoder: limits are measured on "
                "sections left out of the fit.",
            )
        n_folds = min(len(rows), MOST_FOLDS)
        distances: dict[int, Floats] = {}
        for fold in range(n_folds):
            fitted = _Gaussian.of([part for i, part in enumerate(rows) if i % n_folds != fold])
            for i in range(fold, len(rows), n_folds):
                distances[i] = fitted.distance(rows[i])
        threshold = _quantile(list(distances.values()), QUANTILE)
        share = max(float((found > threshold).mean()) for found in distances.values())
        whole = _Gaussian.of(rows)
        n_tiles = sum(len(part) for part in rows)
        return cls(*whole, threshold, share, len(rows), n_tiles)

    def distance(self, embeddings: NDArray[Any]) -> Floats:
        """How far tiles lie from the training data.

        The root of the mean squared standardised deviation: Mahalanobis' distance under
        probabilistic PCA with shrunk variances, divided by the root of the width, so that it is
        about 1 in the training data whatever the encoder.

        Parameters
        ----------
        embeddings : float array, shape (n_tiles, width)
            Of one slide, by the encoder that the network was trained on.

        Returns
        -------
        float64 array, shape (n_tiles,)

        Raises
        ------
        CheckpointError
            If the width is another.

        References
        ----------
        Tipping & Bishop, J. R. Stat. Soc. B 61 (1999) 611-622; Ledoit & Wolf, J. Multivar. Anal. 88
        (2004) 365-411, of which only the direction of shrinkage is used: its amount is fixed.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.mean):
            raise CheckpointError(
                f"embeddings have shape {embeddings.shape}; those of training are "
                f"{len(self.mean)} wide",
                where=_WHERE,
            )
        gaussian = _Gaussian(self.mean, self.components, self.variances, self.residual_variance)
        return gaussian.distance(embeddings)

    def judge(self, embeddings: NDArray[Any]) -> DomainReport:
        """Whether a slide lies outside the training data; arguments and errors as `distance`."""
        distance = self.distance(embeddings)
        median, share = float(np.median(distance)), float((distance > self.threshold).mean())
        warning = None
        if share > self.largest_share:
            warning = (
                f"{share:.0%} of tiles look unlike the training sections; of a section that was "
                f"left out at most {self.largest_share:.0%} did ({self.n_sections} sections)"
            )
        return DomainReport(median, share, warning)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays by name; numbers as arrays of length 1."""
        numbers = {name: np.array([getattr(self, name)], dtype=np.float64) for name in _NUMBERS}
        counts = {name: np.array([getattr(self, name)], dtype=np.int64) for name in _COUNTS}
        return {name: getattr(self, name) for name in _MATRICES} | numbers | counts

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TrainingDomain:
        """What `to_arrays` gave.

        Raises
        ------
        CheckpointError
            If an array is missing, unknown, not finite or of another shape.
        """
        wrong = sorted(set(arrays) ^ {*_MATRICES, *_NUMBERS, *_COUNTS})
        if wrong:
            raise CheckpointError(f"missing or unknown array {', '.join(wrong)}", where=_WHERE)
        components = arrays["components"]
        k, width = components.shape if components.ndim == 2 else (-1, -1)
        expected: dict[str, tuple[int, ...]] = {"mean": (width,), "components": (k, width)}
        expected |= {"variances": (k,)} | dict.fromkeys((*_NUMBERS, *_COUNTS), (1,))
        for name, shape in expected.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise CheckpointError(
                    f"{name} has shape {arrays[name].shape}, or a value that is not finite",
                    where=_WHERE,
                )
        values: dict[str, Any] = {name: arrays[name].astype(np.float32) for name in _MATRICES}
        values |= {name: arrays[name][0].item() for name in (*_NUMBERS, *_COUNTS)}
        return cls(**values)


_MATRICES = ("mean", "components", "variances")
_NUMBERS = ("residual_variance", "threshold", "largest_share")
_COUNTS = ("n_sections", "n_tiles")


class _Gaussian(NamedTuple):
    """Probabilistic PCA with shrunk variances; see `TrainingDomain` for the fields."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    variances: NDArray[np.float32]
    residual_variance: float

    @classmethod
    def of(cls, sections: Sequence[Floats]) -> _Gaussian:
        x = np.concatenate(sections)
        n, width = x.shape
        mean = x.mean(axis=0)
        x = x - mean
        total = float((x**2).sum()) / max(1, n - 1)
        if total <= 1e-12 * float((mean**2).sum()) or total == 0:
            raise CheckpointError("all embeddings are the same", where=_WHERE)
        # As many degrees of freedom as axes are kept for what the axes leave over.
        n_axes = max(1, min(MOST_COMPONENTS, width - 1, (n - 1) // 2))
        values, vectors = eigh(x.T @ x / (n - 1), subset_by_index=[width - n_axes, width - 1])
        values = np.maximum(values, 0.0)
        residual = max(total - float(values.sum()), 1e-6 * total) / max(1, width - n_axes)
        shrunk = (1 - _SHRINKAGE) * values + _SHRINKAGE * values.mean()
        return cls(
            mean.astype(np.float32),
            np.ascontiguousarray(vectors.T, dtype=np.float32),
            shrunk.astype(np.float32),
            residual,
        )

    def distance(self, embeddings: NDArray[Any]) -> Floats:
        mean, axes = self.mean.astype(np.float64), self.components.astype(np.float64)
        found = np.empty(len(embeddings))
        for first in range(0, len(embeddings), _BLOCK):  # a large slide is never held as float64
            x = embeddings[first : first + _BLOCK].astype(np.float64) - mean
            along = x @ axes.T
            beyond = np.maximum((x**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
            squared = (along**2 / self.variances).sum(axis=1) + beyond / self.residual_variance
            found[first : first + len(x)] = np.sqrt(squared / len(mean))
        return found


def _rows(name: str, embeddings: NDArray[Any]) -> Floats:
    if embeddings.ndim != 2 or not len(embeddings) or not np.isfinite(embeddings).all():
        raise CheckpointError(
            f"embeddings must be finite (n_tiles, width), have shape {embeddings.shape}",
            where=f"{_WHERE}: section {name}",
        )
    if len(embeddings) > MOST_ROWS:
        embeddings = embeddings[np.linspace(0, len(embeddings) - 1, MOST_ROWS).astype(np.int64)]
    return embeddings.astype(np.float64)


def _quantile(samples: Sequence[Floats], level: float) -> float:
    """The quantile of several samples that weigh the same, however many values each has."""
    values = np.concatenate(samples)
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in samples])
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / len(samples)
    place = min(int(np.searchsorted(reached, level - 1e-12)), len(values) - 1)
    return float(values[order[place]])
