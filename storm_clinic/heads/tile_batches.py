"""Standardised tiles of a cohort, batch by batch, held in memory where they fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.heads.attention import Segments
from storm_clinic.heads.bags import TILE_BUDGET, Bags

Floats = NDArray[np.float64]

RESIDENT_BYTES = 1 << 28  # above this, tiles are read and standardised anew each time


@dataclass(frozen=True, eq=False)
class TileBatch:
    """Some whole bags: which patients, their packed tiles, and whose each tile is."""

    patients: slice
    tiles: Tensor
    segments: Segments


class TileBatches:
    """A cohort's tiles in micro-batches of whole bags.

    Parameters
    ----------
    bags : Bags
    centre, scale : float64 arrays, shape (width,)
        Taken from and divided out of each feature.
    dtype : float32 or float64
    tile_budget : int
        Tiles of a batch; a larger bag is a batch of its own.
    resident_bytes : int
        Below this the standardised tiles of all patients are kept.
    """

    def __init__(
        self,
        bags: Bags,
        centre: Floats,
        scale: Floats,
        *,
        dtype: type[np.float32 | np.float64] = np.float32,
        tile_budget: int = TILE_BUDGET,
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self._bags, self._dtype = bags, dtype
        self._centre = torch.from_numpy(centre.astype(dtype))
        self._factor = torch.from_numpy((1 / scale).astype(dtype))
        self._slices = bags.micro_batches(tile_budget)
        self.n_tiles = int(bags.sizes.sum())
        resident = self.n_tiles * bags.width * np.dtype(dtype).itemsize <= resident_bytes
        self._held = [self._load(batch) for batch in self._slices] if resident else None

    def __iter__(self) -> Iterator[TileBatch]:
        yield from self._held or map(self._load, self._slices)

    def _load(self, batch: slice) -> TileBatch:
        values, sizes = self._bags.gather(batch)
        # One fresh copy, which may be written to: the source can be a read-only map of float16.
        tiles = torch.from_numpy(np.array(values, dtype=self._dtype))
        tiles.sub_(self._centre).mul_(self._factor)
        return TileBatch(batch, tiles, Segments(torch.from_numpy(sizes)))
