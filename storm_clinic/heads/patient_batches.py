"""A cohort as tensors, batch by batch of whole patients, held in memory where it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from storm_clinic.heads.bags import TILE_BUDGET, micro_batches
from storm_clinic.heads.network_inputs import Encoded
from storm_clinic.heads.segments import Segments

RESIDENT_BYTES = 1 << 28  # above this, tiles are read and standardised anew each time

Dtype = type[np.float32 | np.float64]


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
        drawn = torch.randn(tiles.values.shape, generator=generator, dtype=tiles.values.dtype)
        return replace(tiles, values=tiles.values + noise * drawn)


@dataclass(frozen=True, eq=False)
class PatientBatch:
    """Some whole patients.

    Attributes
    ----------
    rows : slice
        Which patients of the cohort.
    tiles : dict of str to TileTensors
    tables : dict of str to tensor, shape (n_patients, n_numbers)
    present : dict of str to bool tensor, shape (n_patients,)
    clinical : tensor, shape (n_patients, n_covariates)
    """

    rows: slice
    tiles: dict[str, TileTensors]
    tables: dict[str, Tensor]
    present: dict[str, Tensor]
    clinical: Tensor

    def __len__(self) -> int:
        return len(self.clinical)


class PatientBatches:
    """A cohort in micro-batches of whole patients.

    Parameters
    ----------
    encoded : Encoded
    dtype : float32 or float64
    tile_budget : int
        Tiles of a batch; a patient with more is a batch of his own.
    resident_bytes : int
        Below this the standardised tiles of all patients are kept.
    """

    def __init__(
        self,
        encoded: Encoded,
        *,
        dtype: Dtype = np.float32,
        tile_budget: int = TILE_BUDGET,
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self._encoded, self._dtype = encoded, dtype
        self.n_patients = len(encoded)
        sizes = np.zeros(self.n_patients, dtype=np.int64)
        n_values = 0
        for bags, _ in encoded.tiles.values():
            sizes += bags.sizes
            n_values += int(bags.sizes.sum()) * bags.width
        self._slices = micro_batches(sizes, tile_budget)
        self.n_tiles = int(sizes.sum())
        resident = n_values * np.dtype(dtype).itemsize <= resident_bytes
        self._held = [self._load(rows) for rows in self._slices] if resident else None

    @property
    def present(self) -> dict[str, Tensor]:
        """Who has which input, of the whole cohort."""
        return {name: torch.from_numpy(who) for name, who in self._encoded.present.items()}

    def __iter__(self) -> Iterator[PatientBatch]:
        yield from self._held or map(self._load, self._slices)

    def _load(self, rows: slice) -> PatientBatch:
        encoded = self._encoded
        return PatientBatch(
            rows,
            {name: self._tiles(name, rows) for name in encoded.tiles},
            {name: self._tensor(table[rows]) for name, table in encoded.tables.items()},
            {name: torch.from_numpy(who[rows]) for name, who in encoded.present.items()},
            self._tensor(encoded.clinical[rows]),
        )

    def _tiles(self, name: str, rows: slice) -> TileTensors:
        bags, scale = self._encoded.tiles[name]
        values, sizes = bags.gather(rows)
        # One fresh copy, which may be written to: the source can be a read-only map of float16.
        tiles = torch.from_numpy(np.array(values, dtype=self._dtype))
        tiles.sub_(self._tensor(scale.centre)).mul_(self._tensor(1 / scale.scale))
        places = self._tensor(bags.gather_places(rows)) if bags.has_places else None
        return TileTensors(tiles, Segments(torch.from_numpy(sizes)), places)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(self._dtype))
