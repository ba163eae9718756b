"""Tiles as tensors: packed bags in memory, or a stream of one bag that is too large for it.

Tiles are converted and standardised block by block, while a block is in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.heads.network_inputs import TileScale
from storm_clinic.heads.segments import Segments

_BLOCK_VALUES = 1 << 18  # converted and standardised together: 1 MiB of float32 stays in cache


@dataclass(frozen=True, eq=False)
class TileTensors:
    """Packed tiles of some patients.

    Attributes
    ----------
    values : tensor, shape (n_tiles, width)
        Standardised.
    segments : Segments
        Whose each tile is.
    places : tensor, shape (n_tiles, 2), optional
        µm from the middle of the slide, where known.
    """

    values: Tensor
    segments: Segments
    places: Tensor | None

    def thinned(self, most: int, noise: float, generator: torch.Generator) -> TileTensors:
        """At most so many tiles a bag, drawn at random, with normal noise added to each feature."""
        tiles = self
        if most and int(self.segments.sizes.max()) > most:
            rows = self.segments.highest(torch.rand(len(self.values), generator=generator), most)
            places = None if self.places is None else self.places[rows]
            tiles = TileTensors(self.values[rows], self.segments.taken(rows), places)
        if not noise:
            return tiles
        return replace(tiles, values=_noisy(tiles.values, noise, generator))


@dataclass(frozen=True, eq=False)
class TileStream:
    """Tiles of one patient who has too many to be held: read chunk by chunk, each time anew.

    Attributes
    ----------
    bag : float array or memory map, shape (n_tiles, width)
        Not standardised.
    form : TileForm
        What makes tensors of it.
    chunk_tiles : int
        Tiles read together.
    places : float array or memory map, shape (n_tiles, 2), optional
        µm from the middle of the slide, where known.
    noise : float
        Standard deviation of what is added to each feature.
    seed : int
        Of that noise; the same each time the tiles are read.
    """

    bag: NDArray[Any]
    form: TileForm
    chunk_tiles: int
    places: NDArray[Any] | None = None
    noise: float = 0.0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.bag)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Standardised tiles, (at most chunk_tiles, width), and their places, (n_tiles, 2).

        The next chunk overwrites the last.
        """
        for number, first in enumerate(range(0, len(self.bag), self.chunk_tiles)):
            rows = slice(first, first + self.chunk_tiles)
            values = self.form.tensor(self.bag[rows], reused=True)
            if self.noise:
                values = _noisy(values, self.noise, self._generator(number))
            yield values, self._places(rows)

    def taken(self, rows: Tensor) -> TileTensors:
        """Some of the tiles, read at once, with the noise that they have in `chunks`.

        Parameters
        ----------
        rows : int64 tensor, shape (n_rows,)
            Ascending.
        """
        at = rows.numpy()
        values = self.form.tensor(self.bag[at])
        if self.noise:
            for number in torch.unique(rows // self.chunk_tiles).tolist():
                own = rows // self.chunk_tiles == number
                first = number * self.chunk_tiles
                n_tiles = min(self.chunk_tiles, len(self.bag) - first)
                drawn = _normal((n_tiles, values.shape[1]), values.dtype, self._generator(number))
                values[own] = _with(values[own], self.noise, drawn[rows[own] - first])
        return TileTensors(values, Segments(torch.tensor([len(rows)])), self._places(at))

    def drawn(self, most: int, generator: torch.Generator) -> TileTensors:
        """So many of the tiles, drawn at random and read at once."""
        whole = Segments(torch.tensor([len(self.bag)]))
        return self.taken(whole.highest(torch.rand(len(self.bag), generator=generator), most))

    def with_noise(self, noise: float, generator: torch.Generator) -> TileStream:
        """The same tiles with normal noise added to each feature whenever they are read."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return replace(self, noise=noise, seed=seed)

    def _generator(self, number: int) -> torch.Generator:
        """Of a chunk's noise: each has its own, so that single tiles are read without the rest."""
        return torch.Generator().manual_seed(self.seed + number)

    def _places(self, rows: slice | NDArray[np.int64]) -> Tensor | None:
        return None if self.places is None else self.form.exact(self.places[rows])


class TileForm:
    """How an array of tiles becomes a standardised tensor.

    Parameters
    ----------
    scale : TileScale
        Mean and standard deviation of each feature.
    dtype : torch.dtype
        In which features are standardised.
    stored : torch.dtype
        Of the tensor: ``dtype``, or bfloat16 where matrices are multiplied in it.
    """

    def __init__(self, scale: TileScale, dtype: torch.dtype, stored: torch.dtype) -> None:
        self._centre = torch.from_numpy(scale.centre).to(dtype)
        self._factor = torch.from_numpy(1 / scale.scale).to(dtype)
        self._dtype, self._stored = dtype, stored
        self._buffer = torch.empty(0, len(scale.centre), dtype=stored)

    def exact(self, values: NDArray[Any]) -> Tensor:
        """Numbers that are not standardised, in the precision in which features are."""
        # A copy in the source's own type: the source may be a read-only map.
        return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="))).to(
            self._dtype
        )

    def tensor(self, values: NDArray[Any], *, reused: bool = False) -> Tensor:
        """Standardised tiles, (n_tiles, width).

        Parameters
        ----------
        values : float array or memory map, shape (n_tiles, width)
            Read once, block by block.
        reused : bool
            Write into memory that the next call writes over: for who looks at it only until then.
        """
        shape = (len(values), len(self._centre))
        if reused and len(self._buffer) < len(values):
            self._buffer = torch.empty(shape, dtype=self._stored)
        tensor = self._buffer[: len(values)] if reused else torch.empty(shape, dtype=self._stored)
        step = max(1, _BLOCK_VALUES // max(1, shape[1]))
        native = values.dtype.newbyteorder("=")
        for first in range(0, len(values), step):
            # A copy in the source's own type: the source may be a read-only map.
            block = torch.from_numpy(np.array(values[first : first + step], dtype=native))
            place = tensor[first : first + step]
            if self._stored == self._dtype:
                place.copy_(block).sub_(self._centre).mul_(self._factor)
            else:
                place.copy_(block.to(self._dtype).sub_(self._centre).mul_(self._factor))
        return tensor


def _noisy(values: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return _with(values, noise, _normal(values.shape, values.dtype, generator))


def _with(values: Tensor, noise: float, drawn: Tensor) -> Tensor:
    return (values + noise * drawn).to(values.dtype)


def _normal(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.randn(shape, generator=generator, dtype=exact)
