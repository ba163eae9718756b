"""Batches of contexts out of shards, in an order that depends on nothing but seed and position."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.errors import TrainingError
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.genes import Panel
from storm_clinic.storm.image_scale import principal_axes
from storm_clinic.storm.shards import Shard, ShardSet
from storm_clinic.storm.targets import log1p_cp10k

_LEAST_SPREAD = 0.1  # of log1p CP10k: a gene seen in one spot of a thousand shall not rule a loss


@dataclass(frozen=True, eq=False)
class SpotBatch:
    """Neighbourhoods of some spots; each spot's values stand once, however many share it.

    Attributes
    ----------
    image : float32 tensor, shape (n_spots, image_width)
    expression : float32 tensor, shape (n_spots, n_genes)
        log1p of counts per 10,000 over the panel.
    counted : bool tensor, shape (n_spots,)
        Whether the spot has a count at all.
    panel : bool tensor, shape (n_spots, n_genes)
    spots : int64 tensor, shape (b, n_slots)
        Row of each slot's spot in the above; 0 where there is none.
    valid : bool tensor, shape (b, n_slots)
    xy_um : float32 tensor, shape (b, n_slots, 2)
    rows : int64 tensor, shape (n_spots,)
        Where the spots stand in their shard.
    shown : int64 tensor, shape (n_shown,)
        Spots of which ``tiles`` are at hand, see `SpotReader.with_tiles`; none at first.
    tiles : uint8 tensor, shape (n_shown, tile_px, tile_px, 3)
    novae : float32 tensor, shape (n_spots, width)
        Novae's embeddings of ``visible`` spots, NaN where it has none; empty at first, see
        `SpotReader.with_novae`.
    visible : bool tensor, shape (n_spots,)
        Whose counts stand in ``novae``; all others are to be masked.
    """

    image: Tensor
    expression: Tensor
    counted: Tensor
    panel: Tensor
    spots: Tensor
    valid: Tensor
    xy_um: Tensor
    rows: Tensor
    shown: Tensor
    tiles: Tensor
    novae: Tensor
    visible: Tensor

    def to(self, device: torch.device) -> SpotBatch:
        """The same on a device."""
        return SpotBatch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def contexts(self, image: Tensor, expression: Tensor) -> Contexts:
        """The contexts, from tokens (n_spots, width) that the network made of each spot."""
        return Contexts(
            valid=self.valid,
            xy_um=self.xy_um,
            image=self.at_slots(image),
            expression=self.at_slots(expression),
            expression_present=self.at_slots(self.counted),
        )

    def at_slots(self, values: Tensor) -> Tensor:
        """Values of spots (n_spots, ...) at the slots of the contexts, (b, n_slots, ...)."""
        # On a CPU index_select adds gradients up in one order; indexing need not.
        found = values.index_select(0, self.spots.flatten())
        return found.view(*self.spots.shape, *values.shape[1:])


class Order:
    """Which spots are seen when. The same for the same seed, whatever the number of processes.

    In each epoch shards come in another order, and the spots of each too. A batch lies within one
    shard; the last of a shard is filled up with spots from its beginning, so that all are as large.

    Parameters
    ----------
    shards : ShardSet
        Only its index is looked at.
    batch : int
        Contexts a batch.
    seed : int
        Of the order.
    """

    def __init__(self, shards: ShardSet, *, batch: int, seed: int) -> None:
        if batch < 1:
            raise TrainingError(f"a batch of {batch} contexts cannot be", where="order of spots")
        self._sizes = [file.n_own for file in shards.files]
        self._batch, self._seed = batch, seed
        self._batches = np.array([-(-size // batch) for size in self._sizes])

    @property
    def batches_per_epoch(self) -> int:
        return int(self._batches.sum())

    def at(self, position: int) -> tuple[int, NDArray[np.int64]]:
        """The shard and its rows (batch,) that make up a batch; the first position is 0."""
        epoch, within = divmod(position, self.batches_per_epoch)
        order = self._draw(epoch).permutation(len(self._sizes))
        ends = np.cumsum(self._batches[order])
        turn = int(np.searchsorted(ends, within, side="right"))
        shard = int(order[turn])
        first = (within - int(ends[turn] - self._batches[shard])) * self._batch
        spots = self._draw(epoch, shard).permutation(self._sizes[shard])
        places = np.arange(first, first + self._batch) % len(spots)
        return shard, spots[places]

    def _draw(self, *what: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, *what))


class SpotReader:
    """Gathers batches from shards, one of which is in memory at a time."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._place = -1
        self._open: Shard | None = None

    def batch(self, place: int, rows: NDArray[np.int64]) -> SpotBatch:
        """Contexts of these own spots of a shard, on the CPU."""
        shard = self._shard(place)
        around = shard.neighbours[torch.from_numpy(rows)].long()
        valid = around >= 0
        needed, spots = torch.unique(around[valid], return_inverse=True)
        slots = torch.zeros_like(around)
        slots[valid] = spots
        target = log1p_cp10k(shard.counts[needed.numpy()], _as_is(shard.panels.shape[1]))
        return SpotBatch(
            image=shard.image[needed].float(),
            expression=torch.from_numpy(target.values),
            counted=torch.from_numpy(target.library > 0),
            panel=shard.panels[shard.section[needed].long()],
            spots=slots,
            valid=valid,
            xy_um=shard.xy_um[needed][slots],
            rows=needed,
            shown=torch.empty(0, dtype=torch.int64),
            tiles=torch.empty(0, 0, 0, 3, dtype=torch.uint8),
            novae=torch.empty(0, 0),
            visible=torch.empty(0, dtype=torch.bool),
        )

    def with_tiles(self, place: int, batch: SpotBatch, shown: Tensor) -> SpotBatch:
        """The batch with the tiles of some of its spots, int64 (n_shown,).

        Raises
        ------
        TrainingError
            If the shards hold no tiles.
        """
        tiles = self._shard(place).tiles
        if tiles is None:
            raise TrainingError("hold no tiles", where=self._shards.folder)
        return replace(batch, shown=shown, tiles=tiles[batch.rows[shown]])

    def with_novae(self, place: int, batch: SpotBatch, draw: int) -> SpotBatch:
        """The batch with Novae's embeddings for one of the sets of visible spots in the shards.

        Raises
        ------
        TrainingError
            If the shards hold none.
        """
        shard = self._shard(place)
        if shard.novae is None or shard.visible is None:
            raise TrainingError("hold no embeddings by Novae", where=self._shards.folder)
        novae, visible = shard.novae[draw, batch.rows], shard.visible[draw, batch.rows]
        return replace(batch, novae=novae.float(), visible=visible)

    def _shard(self, place: int) -> Shard:
        if self._open is None or self._place != place:
            self._open = None  # let go of the one before the next is read
            self._open, self._place = self._shards.read(place), place
        return self._open


class Scales(NamedTuple):
    """Mean and spread over training spots, float32: of genes (n_genes,), of image (image_width,).

    A gene's are over spots with a count whose panel has it; one that no panel has gets 0 and 1.
    """

    gene_mean: Tensor
    gene_spread: Tensor
    image_mean: Tensor
    image_spread: Tensor


def measure_scales(shards: ShardSet) -> Scales:
    """Mean and spread over all own spots, shard by shard, in float64."""
    genes, image = _Moments(len(shards.vocabulary)), _Moments(shards.image_width)
    for place in range(len(shards.files)):
        shard = shards.read(place)
        for rows in np.array_split(np.arange(shard.n_own), range(1024, shard.n_own, 1024)):
            target = log1p_cp10k(shard.counts[rows], _as_is(shard.panels.shape[1]))
            panel = shard.panels[shard.section[rows].long()].numpy()
            genes.add(target.values, panel & (target.library > 0)[:, None])
            image.add(shard.image[rows].numpy(), np.ones((len(rows), 1), dtype=bool))
    gene_mean, gene_spread = genes.result()
    image_mean, image_spread = image.result()
    unseen = torch.from_numpy(genes.n == 0)
    return Scales(
        gene_mean,
        torch.where(unseen, torch.ones(()), gene_spread.clamp(min=_LEAST_SPREAD)),
        image_mean,
        torch.where(image_spread > 0, image_spread, torch.ones(())),
    )


def measure_axes(shards: ShardSet, n_axes: int) -> Tensor | None:
    """Principal axes of all own spots' embeddings, (n_axes, image_width); None for 0.

    The embeddings must have been scaled slide by slide before they were written; see
    `image_scale.principal_axes`, also for errors.
    """
    if not n_axes:
        return None
    opened = (shards.read(place) for place in range(len(shards.files)))
    scaled = (shard.image[: shard.n_own].float().numpy() for shard in opened)
    return torch.from_numpy(principal_axes(scaled, n_axes))


class _Moments:
    def __init__(self, width: int) -> None:
        self.n = np.zeros(width)
        self.sum, self.squares = np.zeros(width), np.zeros(width)

    def add(self, values: NDArray[np.floating], known: NDArray[np.bool_]) -> None:
        exact = np.where(known, values, 0).astype(np.float64)
        self.n = self.n + np.broadcast_to(known, values.shape).sum(axis=0)
        self.sum += exact.sum(axis=0)
        self.squares += (exact**2).sum(axis=0)

    def result(self) -> tuple[Tensor, Tensor]:
        n = np.maximum(self.n, 1)
        mean = self.sum / n
        spread = np.sqrt(np.maximum(self.squares / n - mean**2, 0))
        return torch.from_numpy(mean).float(), torch.from_numpy(spread).float()


def _as_is(n_genes: int) -> Panel:
    """Counts of a shard are gathered already."""
    return Panel(np.ones(n_genes, dtype=bool), np.arange(n_genes), ())
