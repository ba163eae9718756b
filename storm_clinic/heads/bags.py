"""Packed ragged bags: every patient's tiles one after another, no padding, one bag a patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storm_clinic.errors import ContractMismatch, InputError
from storm_clinic.heads.kept_rows import KeptRows, KnownMeans
from storm_clinic.heads.packed_array import PackedArray
from storm_clinic.heads.row_sums import RowSums

TILE_BUDGET = 8192  # tiles looked at together: large enough for BLAS, small enough for caches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[Any]
Source = Array | PackedArray


@dataclass(frozen=True, eq=False)
class Bags:
    """Which rows of which arrays are each patient's tiles.

    Built by `pack`, `from_arrays` or `concat`; `take` gives a view. The arrays may be memory
    maps larger than memory, or packed arrays of the cache: rows are read when they are asked for.

    Attributes
    ----------
    sources : tuple of float arrays or PackedArray, each of shape (n_tiles_of_source, width)
    source, start, stop : int64 arrays, shape (n_bags,)
        Bag i holds the rows ``start[i]`` to ``stop[i]`` of ``sources[source[i]]``. A bag may be
        empty: this patient has no tile.
    places : tuple of (float32 array of shape (n_tiles_of_source, 2) or None), optional
        Centre of each tile in µm from the middle of its slide's tiles; None where nobody knows.
    columns : tuple of str
        What each number of a tile is, such as a gene; empty where numbers have no names.
    means : tuple of (KnownMeans or None), optional
        Of each source, means of bags that are known without reading a tile.
    kept : KeptRows, optional
        What was worked out of single bags already; views of the same arrays share it. Whoever
        changes an array after that sees what it was.
    """

    sources: tuple[Source, ...]
    source: Ints
    start: Ints
    stop: Ints
    places: tuple[Source | None, ...] = ()
    columns: tuple[str, ...] = ()
    means: tuple[KnownMeans | None, ...] = ()
    kept: KeptRows | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kept is None or self.kept.sources is not self.sources:
            object.__setattr__(self, "kept", KeptRows(self.sources))

    @classmethod
    def pack(cls, values: Source, offsets: ArrayLike, places: Source | None = None) -> Bags:
        """Bags that lie one after another in one array.

        Parameters
        ----------
        values : float16, float32 or float64 array or memmap, shape (n_tiles, width)
            Tile embeddings.
        offsets : int64 array, shape (n_bags + 1,)
            Bag i holds the rows ``offsets[i]`` to ``offsets[i + 1]``.
        places : float32 array, shape (n_tiles, 2), optional
            Where each tile lies, in µm from the middle of its slide's tiles.

        Raises
        ------
        InputError
            If the values are no table of floats, the offsets do not divide it, or places are
            not one a tile.
        """
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
            raise InputError(
                f"bags need a 2-d float array, not {values.dtype} of shape {values.shape}"
            )
        edges = np.asarray(offsets, dtype=np.int64)
        whole = len(edges) > 0 and edges[0] == 0 and edges[-1] == len(values)
        if not whole or (np.diff(edges) < 0).any():
            raise InputError(
                f"offsets must ascend from 0 to the number of tiles, which is {len(values)}"
            )
        if places is not None and places.shape != (len(values), 2):
            raise InputError(f"{len(values)} tiles, but places of shape {places.shape}")
        source = np.zeros(len(edges) - 1, dtype=np.int64)
        return cls((values,), source, edges[:-1], edges[1:], (places,))

    @classmethod
    def from_arrays(cls, bags: Sequence[Array], places: Sequence[Array] | None = None) -> Bags:
        """Pack one array of tiles a patient, each of shape (n_tiles, width), in memory."""
        sizes = [len(bag) for bag in bags]
        where = None if places is None else np.concatenate(places)
        return cls.pack(np.concatenate(bags), np.concatenate([[0], np.cumsum(sizes)]), where)

    @classmethod
    def concat(cls, parts: Sequence[Bags]) -> Bags:
        """Patients of several cohorts after one another; nothing is copied.

        Raises
        ------
        ContractMismatch
            If their embeddings differ in width, or in what their columns are.
        """
        widths = sorted({part.width for part in parts})
        if len(widths) > 1:
            raise ContractMismatch(f"embeddings of different widths: {widths[0]} and {widths[1]}")
        if len({part.columns for part in parts}) > 1:
            raise ContractMismatch("the columns of tiles differ, such as the genes of two panels")
        before = np.cumsum([0] + [len(part.sources) for part in parts[:-1]])
        return cls(
            tuple(source for part in parts for source in part.sources),
            np.concatenate([part.source + n for part, n in zip(parts, before, strict=True)]),
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.stop for part in parts]),
            tuple(places for part in parts for places in part._places),
            parts[0].columns,
            tuple(known for part in parts for known in part._means),
        )

    def __len__(self) -> int:
        return len(self.start)

    @property
    def n_bags(self) -> int:
        return len(self.start)

    @property
    def width(self) -> int:
        return int(self.sources[0].shape[1])

    @property
    def sizes(self) -> Ints:
        """Tiles of each bag."""
        return self.stop - self.start

    def take(self, index: ArrayLike) -> Bags:
        """The bags at these positions (or under this mask), in that order; nothing is copied."""
        at = np.asarray(index)
        return replace(self, source=self.source[at], start=self.start[at], stop=self.stop[at])

    def bag(self, position: int) -> Array:
        """The tiles of one bag, shape (n_tiles, width), without a copy."""
        return self._rows(position, position)

    def micro_batches(self, tile_budget: int = TILE_BUDGET) -> list[slice]:
        """Runs of whole bags that together stay within the budget; a larger bag stands alone."""
        return micro_batches(self.sizes, tile_budget)

    def gather(self, batch: slice) -> tuple[Array, Ints]:
        """Tiles of a run of bags, packed, and their sizes; a copy only where they lie apart."""
        sizes = self.sizes[batch]
        adjacent = (self.start[batch][1:] == self.stop[batch][:-1]).all()
        if adjacent and (self.source[batch] == self.source[batch][0]).all():
            return self._rows(batch.start, batch.stop - 1), sizes
        return np.concatenate([self.bag(at) for at in range(batch.start, batch.stop)]), sizes

    @property
    def has_places(self) -> bool:
        """Whether it is known where every tile lies."""
        used = np.unique(self.source[self.sizes > 0])
        return len(used) > 0 and all(self._places[at] is not None for at in used)

    def gather_places(self, batch: slice) -> Array:
        """Places of the tiles of a run of bags, shape (n_tiles, 2), as `gather` orders them."""
        parts = [np.empty((0, 2), np.float32)]
        for at in range(batch.start, batch.stop):
            places = self.places_of(at)
            if places is None and self.start[at] < self.stop[at]:
                raise InputError("nobody knows where these tiles lie on their slides")
            if places is not None:
                parts.append(places)
        return np.concatenate(parts)

    def places_of(self, position: int) -> Array | None:
        """Places of the tiles of one bag, shape (n_tiles, 2), without a copy; None if unknown."""
        places = self._places[int(self.source[position])]
        return None if places is None else places[self.start[position] : self.stop[position]]

    def pooled_mean(self) -> Floats:
        """Mean tile of each bag, shape (n_bags, width), summed in float64; NaN of an empty bag."""
        found = np.full((self.n_bags, self.width), np.nan)
        is_read = self.sizes > 0
        for number, known in enumerate(self._means):
            if known is not None and len(known.start):
                at = np.flatnonzero(is_read & (self.source == number))
                place, is_known = known.find(self.start[at], self.stop[at])
                found[at[is_known]] = known.means[place[is_known]]
                is_read[at[is_known]] = False
        sums = RowSums(self.width)
        found[is_read] = self.take(is_read).summaries(
            "mean", lambda tiles: sums.of(tiles) / len(tiles), self.width
        )
        return found

    def summaries(self, what: str, of: Callable[[Array], Floats], n_numbers: int) -> Floats:
        """What a function says of the tiles of each bag, (n_bags, n_numbers); NaN of an empty bag.

        Each bag is read and asked once, however often it is taken, as far as there is room.

        Parameters
        ----------
        what : str
            Names the function: what goes by one name must be the same.
        of : function
            Takes tiles (n_tiles, width), gives n_numbers.
        n_numbers : int
            Of a row.
        """
        kept = self.kept
        assert kept is not None  # set when this was made
        found = np.full((self.n_bags, n_numbers), np.nan)
        for at in np.flatnonzero(self.sizes).tolist():
            key = (what, int(self.source[at]), int(self.start[at]), int(self.stop[at]))
            row = kept.find(key)
            if row is None:
                row = of(self.bag(at))
                kept.keep(key, row)
            found[at] = row
        return found

    def tile_moments(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each feature over all tiles, each of shape (width,).

        A feature that never varies has the deviation 1, so that it may be divided by.

        Raises
        ------
        InputError
            If there is no tile at all.
        """
        if not self.sizes.any():
            raise InputError("none of these patients has a tile")
        n_tiles, mean, squares = 0, np.zeros(self.width), np.zeros(self.width)
        for tiles in filter(len, self._float64_batches()):
            step = tiles.mean(axis=0) - mean
            n_joint = n_tiles + len(tiles)
            # Chan's update joins the moments of two parts without losing digits to large means.
            squares += tiles.var(axis=0) * len(tiles) + step**2 * n_tiles * len(tiles) / n_joint
            mean += step * len(tiles) / n_joint
            n_tiles = n_joint
        return mean, usable_deviation(np.sqrt(squares / n_tiles), mean)

    @property
    def _places(self) -> tuple[Source | None, ...]:
        return self.places or (None,) * len(self.sources)

    @property
    def _means(self) -> tuple[KnownMeans | None, ...]:
        return self.means or (None,) * len(self.sources)

    def _float64_batches(self) -> Iterator[Floats]:
        for batch in self.micro_batches():
            tiles = self.gather(batch)[0]
            for first in range(0, len(tiles), TILE_BUDGET):  # a bag may be larger than the budget
                yield tiles[first : first + TILE_BUDGET].astype(np.float64)

    def _rows(self, first: int, last: int) -> Array:
        """Rows from the first bag's start to the last bag's stop, of the first bag's source."""
        return self.sources[int(self.source[first])][self.start[first] : self.stop[last]]


def micro_batches(sizes: Ints, tile_budget: int) -> list[slice]:
    """Runs of neighbours whose sizes together stay within the budget; a larger one stands alone."""
    batches, first, tiles = [], 0, 0
    for position, size in enumerate(sizes.tolist()):
        if position > first and tiles + size > tile_budget:
            batches.append(slice(first, position))
            first, tiles = position, 0
        tiles += size
    return [*batches, slice(first, len(sizes))]


def usable_deviation(deviation: Floats, mean: Floats) -> Floats:
    """Standard deviations to divide by: 1 where rounding alone makes a constant vary."""
    constant = deviation <= 1e-9 * np.maximum(np.abs(mean), 1e-12)
    return np.where(constant, 1.0, deviation)
