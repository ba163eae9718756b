"""What staining and scanner add to all tiles of a slide, taken out; and the axes that remain.

Two sections of one tumour differ in their embeddings' mean and spread before they differ in
anything biological. A network that sees each slide in spreads from its own mean carries over to the
next one better. What it loses is what all tiles of a slide share. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import SectionError

Floats = NDArray[np.float32]

_LEAST_SPREAD = 1e-6
_ROWS = 4096


def scale_slide(features: NDArray[Any]) -> Floats:
    """Embeddings of one slide's tiles in spreads from the slide's mean, each number on its own.

    Parameters
    ----------
    features : float array, shape (n_tiles, width)
        All tiles of the slide: what is foretold for one then depends a little on the others.

    Returns
    -------
    float32 array, shape (n_tiles, width)
        0 throughout where a slide has one tile.

    Raises
    ------
    SectionError
        If there are no tiles, or a value is not finite.
    """
    if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
        raise SectionError("needs finite embeddings of at least one tile", where="slide scale")
    mean, squares = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for block in _blocks(features):
        mean += block.sum(axis=0) / len(features)
    for block in _blocks(features):
        squares += ((block - mean) ** 2).sum(axis=0)
    spread = np.sqrt(squares / len(features)) + _LEAST_SPREAD
    scaled = np.empty(features.shape, dtype=np.float32)
    for first in range(0, len(features), _ROWS):
        scaled[first : first + _ROWS] = (features[first : first + _ROWS] - mean) / spread
    return scaled


def principal_axes(slides: Iterable[NDArray[Any]], n_axes: int) -> Floats:
    """Principal axes of scaled embeddings, each divided by the fourth root of its variance.

    Halfway between PCA, which leaves small axes to be drowned, and whitening, which makes noise of
    them.

    Parameters
    ----------
    slides : iterable of float array, shape (n_tiles, width)
        Training slides after `scale_slide`.
    n_axes : int

    Returns
    -------
    float32 array, shape (n_axes, width)
        Multiply embeddings by its transpose. Signs are fixed: the largest number is positive.

    Raises
    ------
    SectionError
        If the slides do not have as many independent directions.
    """
    total: NDArray[np.float64] | None = None
    n_tiles = 0
    for features in slides:
        for block in _blocks(features):
            product = block.T @ block
            total = product if total is None else total + product
        n_tiles += len(features)
    if total is None:
        raise SectionError("there are no slides", where="principal axes")
    variances, directions = np.linalg.eigh(total / n_tiles)
    kept = np.argsort(-variances, kind="stable")[:n_axes]
    if len(kept) < n_axes or variances[kept[-1]] <= _LEAST_SPREAD * variances[kept[0]]:
        raise SectionError(
            f"{n_tiles} tiles do not span {n_axes} axes",
            where="principal axes",
            fix="Ask for fewer axes, or give more tiles.",
        )
    axes = directions[:, kept].T
    largest = axes[np.arange(n_axes), np.abs(axes).argmax(axis=1)]
    axes *= (np.sign(largest) / variances[kept] ** 0.25)[:, None]
    scaled: Floats = axes.astype(np.float32)
    return scaled


def _blocks(features: NDArray[Any]) -> Iterable[NDArray[np.float64]]:
    for first in range(0, len(features), _ROWS):
        yield np.asarray(features[first : first + _ROWS], dtype=np.float64)
