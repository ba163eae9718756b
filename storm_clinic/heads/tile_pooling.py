"""One row of numbers a patient from any number of tiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from storm_clinic.heads.bags import Array, Bags
from storm_clinic.heads.contract import Option

Floats = NDArray[np.float64]

QUANTILES = (0.1, 0.5, 0.9)
N_PARTS = {"mean": 1, "mean+sd": 2, "quantiles": len(QUANTILES)}  # columns a feature
POOLING = Option(
    "mean",
    "How tiles become one row: their mean, mean and standard deviation, or 10, 50, 90% quantiles.",
    choices=tuple(N_PARTS),
)

_BLOCK_CELLS = 8_000_000  # tiles x features looked at together: 64 MB of float64


def pool(bags: Bags, pooling: str) -> Floats:
    """Summary of each patient's tiles.

    Parameters
    ----------
    bags : Bags
        One bag a patient; only one is read at a time for anything but the mean.
    pooling : "mean", "mean+sd" or "quantiles"
        Standard deviations divide by the number of tiles, so that a single tile has 0; quantiles
        are interpolated linearly.

    Returns
    -------
    float64 array, shape (n_patients, n_parts * width)
        All features' means, then all their deviations; or all their lowest quantiles, then the
        next. NaN for a patient without a tile.
    """
    if pooling == "mean":
        return bags.pooled_mean()
    if pooling == "mean+sd":
        deviations = _by_columns(bags, "sd", lambda tiles: tiles.std(axis=0)[None], n_parts=1)
        return np.hstack([bags.pooled_mean(), deviations])
    return _by_columns(
        bags, "quantiles", lambda tiles: np.quantile(tiles, QUANTILES, axis=0), len(QUANTILES)
    )


def _by_columns(bags: Bags, what: str, summary: Callable[[Floats], Floats], n_parts: int) -> Floats:
    """Some columns of a bag at once, so that a large bag is never copied as a whole."""

    def of_bag(tiles: Array) -> Floats:
        found = np.empty((n_parts, bags.width))
        step = max(1, _BLOCK_CELLS // len(tiles))
        for first in range(0, bags.width, step):
            columns = slice(first, first + step)
            found[:, columns] = summary(tiles[:, columns].astype(np.float64))
        return found.reshape(-1)

    return bags.summaries(what, of_bag, n_parts * bags.width)
