"""The tile embeddings of one slide, as they pass through the program."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import FeatureError

Array = NDArray[Any]
_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class SlideFeatures:
    """The tile embeddings of one slide.

    Attributes
    ----------
    slide_id : str
    features : float array, shape (n_tiles, width)
        Rows in raster order.
    coords : int64 array, shape (n_tiles, 2), or None
        Top-left corners, level-0 px; None where an import has none.
    tissue : float16 array, shape (n_tiles,), or None
        Tissue fraction of each tile.
    failed_coords : int64 array, shape (n_failed, 2), or None
        Tiles that could not be read.
    slide_digest, slide_mpp, slide_mpp_source, vendor
        Of the slide the tiles came from, where known; ``slide_mpp`` in µm per level-0 px.
    source_digest : str or None
        Of the tile features that a slide encoder embedded.
    runtime, precision, batch_size
        What computed the network, such as ``torch 2.6.0``; ``fp32`` or ``bf16``; the fewest tiles
        that it was given at a time. None where unknown.

    Raises
    ------
    FeatureError
        If shapes do not fit one another.
    """

    slide_id: str
    features: Array
    coords: NDArray[np.int64] | None = None
    tissue: NDArray[np.float16] | None = None
    failed_coords: NDArray[np.int64] | None = None
    slide_digest: str | None = None
    slide_mpp: float | None = None
    slide_mpp_source: str | None = None
    vendor: str | None = None
    source_digest: str | None = None
    runtime: str | None = None
    precision: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            self._refuse(f"features must be (n_tiles, width), is {self.features.shape}")
        for name, array in (("coords", self.coords), ("failed_coords", self.failed_coords)):
            if array is not None and (array.ndim != 2 or array.shape[1] != 2):
                self._refuse(f"{name} must be (n, 2), is {array.shape}")
        if self.coords is not None and len(self.coords) != self.n_tiles:
            self._refuse(f"{self.n_tiles} rows of features but {len(self.coords)} of coords")
        if self.tissue is not None and self.tissue.shape != (self.n_tiles,):
            self._refuse(f"{self.n_tiles} rows of features but tissue is {self.tissue.shape}")

    def _refuse(self, problem: str) -> None:
        raise FeatureError(problem, where=f"slide {self.slide_id}")

    @property
    def n_tiles(self) -> int:
        return len(self.features)


def digest_array(array: Array) -> str:
    """SHA-256 of an array: its type and shape as a line of text, then its bytes in C order."""
    return digest_rows([array], array.dtype, array.shape)


def digest_rows(blocks: Iterable[Array], dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    """`digest_array` of an array that comes in blocks of rows, of which one is held at a time."""
    little = dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{little.str} {' '.join(map(str, shape))}\n".encode("ascii"))
    for block in blocks:
        data = np.ascontiguousarray(block).astype(little, copy=False)
        digest.update(data.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def largest_magnitude(features: Array) -> float:
    """The largest absolute value of a float array; NaN or infinity if it holds any.

    Without their sign bit, floats order like the integers that have the same bits, with infinity
    above all numbers and NaN above infinity; integers are several times faster to compare.
    """
    bits = np.ascontiguousarray(features, dtype=features.dtype.newbyteorder("="))
    unsigned = np.dtype(f"u{bits.dtype.itemsize}")
    words = bits.reshape(-1).view(unsigned)
    magnitude = unsigned.type(np.iinfo(unsigned).max >> 1)
    # Blocks stay in cache; a copy of 15,000 x 1,536 would not.
    blocks = (words[at : at + _BLOCK] & magnitude for at in range(0, len(words), _BLOCK))
    largest = max((block.max() for block in blocks), default=unsigned.type(0))
    return float(np.array([largest], dtype=unsigned).view(bits.dtype)[0])


def nonfinite_rows(features: Array) -> str:
    """How many rows hold NaN or infinity, and where the first is, in words."""
    rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
    return f"{len(rows)} of {len(features)} tiles hold NaN or infinity, the first is row {rows[0]}"
