"""A cohort as tensors, batch by batch of whole patients, held in memory where it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from storm_clinic.heads.bags import TILE_BUDGET, micro_batches
from storm_clinic.heads.network_inputs import Encoded
from storm_clinic.heads.segments import Segments
from storm_clinic.heads.tile_tensors import TileForm, TileStream, TileTensors

RESIDENT_BYTES = 1 << 28  # above this, tiles are read and standardised anew each time
STREAMED_TILES = 1 << 16  # larger bags are streamed, by networks that can

Dtype = type[np.float32 | np.float64]


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
    streams : dict of str to TileStream
        Inputs that stand here instead of in ``tiles``; only of a patient who is a batch of his own.
    """

    rows: slice
    tiles: dict[str, TileTensors]
    tables: dict[str, Tensor]
    present: dict[str, Tensor]
    clinical: Tensor
    streams: dict[str, TileStream] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clinical)


class PatientBatches:
    """A cohort in micro-batches of whole patients.

    Parameters
    ----------
    encoded : Encoded
    dtype : float32 or float64
        In which everything is standardised and held.
    tile_budget : int
        Tiles of a batch; a patient with more is a batch of his own.
    resident_bytes : int
        Below this the standardised tiles of all patients are kept.
    bfloat16 : bool
        Hold tiles rounded to bfloat16, for products that round them in any case.
    streamed_tiles : int, optional
        A patient with more tiles of an input than this has them as a `TileStream`; without it
        every bag is held as a whole while it is looked at.
    """

    def __init__(
        self,
        encoded: Encoded,
        *,
        dtype: Dtype = np.float32,
        tile_budget: int = TILE_BUDGET,
        resident_bytes: int = RESIDENT_BYTES,
        bfloat16: bool = False,
        streamed_tiles: int | None = None,
    ) -> None:
        self._encoded, self._dtype = encoded, dtype
        self._tile_budget, self._streamed_tiles = tile_budget, streamed_tiles
        self.n_patients = len(encoded)
        exact = torch.float64 if dtype is np.float64 else torch.float32
        stored = torch.bfloat16 if bfloat16 else exact
        self._forms = {n: TileForm(scale, exact, stored) for n, (_, scale) in encoded.tiles.items()}
        sizes = np.zeros(self.n_patients, dtype=np.int64)
        n_values = 0
        for bags, _ in encoded.tiles.values():
            sizes += bags.sizes
            n_values += int(bags.sizes.sum()) * bags.width
        self._slices = micro_batches(sizes, tile_budget)
        self.n_tiles = int(sizes.sum())
        self.resident = n_values * stored.itemsize <= resident_bytes
        self._held = [self._load(rows) for rows in self._slices] if self.resident else None

    @property
    def rows(self) -> list[slice]:
        """Which patients each batch holds."""
        return self._slices

    @property
    def present(self) -> dict[str, Tensor]:
        """Who has which input, of the whole cohort."""
        return {name: torch.from_numpy(who) for name, who in self._encoded.present.items()}

    def __iter__(self) -> Iterator[PatientBatch]:
        yield from self._held or map(self._load, self._slices)

    def passing(self) -> Iterator[PatientBatch]:
        """The same batches, for who is done with each before the next: it may overwrite the last.

        Fresh memory for every batch costs more than half of what reading it does.
        """
        yield from self._held or (self._load(rows, reused=True) for rows in self._slices)

    def _load(self, rows: slice, *, reused: bool = False) -> PatientBatch:
        encoded = self._encoded
        streams = {name: self._stream(name, rows) for name in encoded.tiles}
        return PatientBatch(
            rows,
            {n: self._tiles(n, rows, reused=reused) for n, part in streams.items() if part is None},
            {name: self._tensor(table[rows]) for name, table in encoded.tables.items()},
            {name: torch.from_numpy(who[rows]) for name, who in encoded.present.items()},
            self._tensor(encoded.clinical[rows]),
            {name: part for name, part in streams.items() if part is not None},
        )

    def _stream(self, name: str, rows: slice) -> TileStream | None:
        bags, most = self._encoded.tiles[name][0], self._streamed_tiles
        if most is None or rows.stop - rows.start > 1 or bags.sizes[rows.start] <= most:
            return None
        places = bags.places_of(rows.start) if bags.has_places else None
        return TileStream(bags.bag(rows.start), self._forms[name], self._tile_budget, places)

    def _tiles(self, name: str, rows: slice, *, reused: bool) -> TileTensors:
        bags, _ = self._encoded.tiles[name]
        values, sizes = bags.gather(rows)
        tiles = self._forms[name].tensor(values, reused=reused)
        places = self._tensor(bags.gather_places(rows)) if bags.has_places else None
        return TileTensors(tiles, Segments(torch.from_numpy(sizes)), places)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(self._dtype))
