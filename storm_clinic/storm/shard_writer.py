"""Paired sections and their embeddings, written as shards.

A section larger than a shard is cut into parts; each part brings the neighbours of its spots along,
so that a context never needs a second file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from scipy import sparse

from storm_clinic.encoders.weights import weights_digest
from storm_clinic.errors import SectionError
from storm_clinic.files import atomic_write, write_json
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.neighbourhood import Side, neighbourhoods
from storm_clinic.storm.novae import NovaeDraws
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.shards import INDEX, ShardFile, ShardSet

# With embeddings of 1,536 numbers and 2,000 counts a spot: 300 MB. With tiles of 224 px as well the
# second makes as much; while a shard is written, tiles are in memory four times.
SPOTS_PER_SHARD, SPOTS_WITH_TILES = 16_384, 2_048
_LARGEST_F16 = 65504.0


@dataclass(frozen=True)
class Embedded:
    """A section with what is known of its H&E.

    Attributes
    ----------
    section : PairedSection
    image : float array, shape (n_spots, image_width)
        Embeddings of its spots.
    tiles : callable, optional
        Gives the tiles of some spots, int64 (n,): uint8 (n, tile_px, tile_px, 3).
    novae : NovaeDraws, optional
        Of its spots.
    """

    section: PairedSection
    image: NDArray[Any]
    tiles: Callable[[NDArray[np.int64]], NDArray[np.uint8]] | None = None
    novae: NovaeDraws | None = None


def write_shards(
    folder: str | Path,
    sections: Iterable[Embedded],
    vocabulary: GeneVocabulary,
    *,
    encoder: str,
    encoder_digest: str,
    tile_um: float,
    side: Side = 5,
    spots_per_shard: int = SPOTS_PER_SHARD,
    made_of: str = "",
) -> ShardSet:
    """Write sections as shards; one section and one shard are in memory at a time.

    Sections of a shard are neighbours in the order given, and spots are mixed within shards only:
    give sections of different patients in turn.

    Parameters
    ----------
    folder : str or Path
        Its index is written last: a folder with one is whole.
    sections : iterable of Embedded
        Training sections only; drawn one by one.
    vocabulary : GeneVocabulary
        Genes that are kept.
    encoder, encoder_digest, tile_um
        How the embeddings were made; see `checkpoint.Inputs`.
    side : 1, 3 or 5
        Spots along an edge of a neighbourhood.
    spots_per_shard : int
        Most own spots of a shard.
    made_of : str
        Digest of all of this, for `reusable_shards`; empty if they are not to be used again.

    Raises
    ------
    SectionError
        If there are no sections, embeddings do not go with the spots or do not fit float16, a
        panel has no gene of the vocabulary, or tiles or Novae's embeddings are not all alike.
    """
    folder = Path(folder)
    (folder / INDEX).unlink(missing_ok=True)  # while shards are exchanged there is no whole set
    if spots_per_shard < 1:
        raise SectionError(f"must be at least 1, is {spots_per_shard}", where="spots_per_shard")
    files: list[ShardFile] = []
    waiting: list[_Part] = []
    width, form = 0, _Form(0, 0, 0)
    for embedded in sections:
        width = width or embedded.image.shape[-1]
        _check(embedded, width)
        for part in _parts(embedded, vocabulary, side, spots_per_shard):
            if (files or waiting) and part.form != form:
                raise SectionError(
                    f"has {part.form}, those before {form}", where=f"section {part.name}"
                )
            form = part.form
            if sum(map(len, (each.own for each in waiting))) + len(part.own) > spots_per_shard:
                files.append(_write(folder, len(files), waiting))
                waiting = []
            waiting.append(part)
    if not waiting:
        raise SectionError("there are no sections", where=folder)
    files.append(_write(folder, len(files), waiting))
    made = ShardSet(
        folder,
        tuple(files),
        vocabulary,
        width,
        side * side,
        encoder,
        encoder_digest,
        tile_um,
        made_of,
        form.tile_px,
        form.novae_draws,
        form.novae_width,
    )
    write_json(folder / INDEX, made.to_json())
    return made


class _Form(NamedTuple):
    """What must be alike in all sections; 0 for what there is none of."""

    tile_px: int
    novae_draws: int
    novae_width: int

    def __str__(self) -> str:
        return (
            f"tiles of {self.tile_px} px and {self.novae_draws} sets of {self.novae_width} numbers "
            "by Novae (0: none)"
        )


class _Part(NamedTuple):
    """Rows of one section that go into one shard together; rows of neighbours refer to ``rows``."""

    name: str
    patient: str
    image: NDArray[np.float16]
    counts: Any
    xy_um: NDArray[np.float32]
    own: NDArray[np.int64]  # neighbours (n_own, n_slots) within this part
    panel: NDArray[np.bool_]
    tiles: NDArray[np.uint8] | None
    novae: NDArray[np.float16] | None
    visible: NDArray[np.bool_] | None

    @property
    def form(self) -> _Form:
        n_draws, _, width = (0, 0, 0) if self.novae is None else self.novae.shape
        return _Form(0 if self.tiles is None else self.tiles.shape[1], n_draws, width)


def _check(embedded: Embedded, width: int) -> None:
    image, section = embedded.image, embedded.section
    problem = None
    if image.shape != (section.n_spots, width):
        problem = f"embeddings must be {(section.n_spots, width)}, are {image.shape}"
    elif not (np.isfinite(image).all() and np.abs(image).max() <= _LARGEST_F16):
        problem = "an embedding is not finite or too large for float16"
    elif embedded.novae is not None and np.nanmax(np.abs(embedded.novae.novae)) > _LARGEST_F16:
        problem = "an embedding by Novae is too large for float16"
    if problem:
        raise SectionError(problem, where=f"section {section.name}")


def _parts(
    embedded: Embedded, vocabulary: GeneVocabulary, side: Side, most: int
) -> Iterator[_Part]:
    section = embedded.section
    panel = vocabulary.panel(section.symbols)
    if not panel.mask.any():
        raise SectionError("has no gene of the vocabulary", where=f"section {section.name}")
    counts = panel.gather(section.counts).astype(np.int32)
    around = neighbourhoods(
        section.centres_um, pitch_um=section.pitch_um, grid=section.grid, side=side
    ).rows
    # Strips across the section, so that parts share few neighbours.
    order = np.lexsort(section.centres_um.T)
    for own in np.array_split(order, -(-section.n_spots // most)):
        near = np.unique(around[own])
        brought = np.setdiff1d(near[near >= 0], own)
        rows = np.concatenate([own, brought])
        place = np.full(section.n_spots + 1, -1)  # the last stands for "none"
        place[rows] = np.arange(len(rows))
        yield _Part(
            section.name,
            section.patient,
            embedded.image[rows].astype(np.float16),
            counts[rows],
            section.centres_um[rows].astype(np.float32),
            place[around[own]],
            panel.mask,
            None if embedded.tiles is None else embedded.tiles(rows),
            None if embedded.novae is None else embedded.novae.novae[:, rows].astype(np.float16),
            None if embedded.novae is None else embedded.novae.visible[:, rows],
        )


def _write(folder: Path, number: int, parts: list[_Part]) -> ShardFile:
    """Own spots of all parts first, then what they brought along."""
    n_own = [len(part.own) for part in parts]
    n_rows = [len(part.image) for part in parts]
    starts = np.cumsum([0, *n_rows[:-1]])
    flat = [np.arange(start, start + n) for start, n in zip(starts, n_rows, strict=True)]
    order = np.concatenate(
        [rows[:n] for rows, n in zip(flat, n_own, strict=True)]
        + [rows[n:] for rows, n in zip(flat, n_own, strict=True)]
    )
    place = np.full(len(order) + 1, -1)
    place[order] = np.arange(len(order))
    neighbours = [
        place[np.where(part.own < 0, -1, part.own + start)]
        for part, start in zip(parts, starts, strict=True)
    ]
    counts = sparse.csr_array(sparse.vstack([part.counts for part in parts]))[order]
    arrays = {
        "image": np.concatenate([part.image for part in parts])[order],
        "values": counts.data,
        "genes": counts.indices.astype(np.int32),
        "starts": counts.indptr.astype(np.int64),
        "xy_um": np.concatenate([part.xy_um for part in parts])[order],
        "neighbours": np.concatenate(neighbours).astype(np.int32),
        "section": np.repeat(np.arange(len(parts), dtype=np.int32), n_rows)[order],
        "panels": np.stack([part.panel for part in parts]),
    }
    tiles = [part.tiles for part in parts if part.tiles is not None]
    if tiles:
        arrays["tiles"] = np.concatenate(tiles)[order]
    novae = [part.novae for part in parts if part.novae is not None]
    visible = [part.visible for part in parts if part.visible is not None]
    if novae:
        arrays["novae"] = np.concatenate(novae, axis=1)[:, order]
        arrays["visible"] = np.concatenate(visible, axis=1)[:, order]
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
    name = f"shard-{number:05d}.safetensors"
    with atomic_write(folder / name) as path:
        path.write_bytes(save(state))  # save_file would let nobody else read it
    return ShardFile(
        name,
        weights_digest(state),
        sum(n_own),
        tuple(part.name for part in parts),
        tuple(part.patient for part in parts),
    )
