"""Slides to feature files; how they are worked off is in `extraction_stage`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from storm_clinic.features.background import BackgroundThreads
from storm_clinic.features.extraction_stage import ExtractionStage
from storm_clinic.features.slide_result import SlideResult
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.tally import Tally
from storm_clinic.features.tile_reading import TileReading
from storm_clinic.features.tiling import SlideJob, Stored
from storm_clinic.files import storage_errors, sweep_dead_parts
from storm_clinic.progress import Progress

if TYPE_CHECKING:
    from storm_clinic.encoders.encoding import LoadedEncoder

PICTURES = "qc"
RUNS = "runs"


def extract_slides(
    jobs: Sequence[SlideJob],
    encoder: LoadedEncoder,
    store: FeatureStore,
    reading: TileReading,
    *,
    progress: Progress | None = None,
) -> list[SlideResult]:
    """Extract slides into a store, whose contract must have been made for just this.

    Slides that the store already holds are opened to see that they are still the same, and left
    alone. A slide that fails does not stop the others.

    Parameters
    ----------
    jobs : sequence of SlideJob
        Each id once.
    encoder : LoadedEncoder
        Embeds the tiles.
    store : FeatureStore
        Where files are written.
    reading : TileReading
        How tiles are laid and read.
    progress : function, optional
        Called with "slides" or "tiles", how many are done and how many there are. The number of
        tiles is extrapolated until every slide was opened.

    Returns
    -------
    list of SlideResult
        In the order of the jobs.

    Raises
    ------
    StorageError
        If the disk is full or may not be written; what was finished stays.
    EncoderError
        If a batch cannot be encoded.
    """
    sweep_store(store)
    try:
        stored = stored_slides(store)
        return extract_known(jobs, stored, encoder, store, reading, progress=progress)
    finally:
        sweep_store(store)  # of readers that were ended amid a picture


def sweep_store(store: FeatureStore) -> None:
    """Remove what killed processes left half written in a store."""
    for folder in (store.folder, store.folder / PICTURES, store.folder / RUNS):
        sweep_dead_parts(folder)


def extract_known(
    jobs: Sequence[SlideJob],
    stored: Mapping[str, Stored],
    encoder: LoadedEncoder,
    store: FeatureStore,
    reading: TileReading,
    *,
    progress: Progress | None = None,
) -> list[SlideResult]:
    """As `extract_slides`, of a store whose slides are known, so that its index is not read."""
    from storm_clinic.encoders.batches import BatchEncoder

    tally = Tally(len(jobs), progress)
    with (
        storage_errors(store.folder),  # too many open files, whatever they were to be
        reading.pool(store.folder / PICTURES) as pool,
        BackgroundThreads() as threads,
    ):
        batches = BatchEncoder(encoder, reading.batch_size)
        return ExtractionStage(jobs, stored, batches, store, pool, threads, tally).run()


def stored_slides(store: FeatureStore) -> dict[str, Stored]:
    """What the store holds; a file that cannot be used is not among it, and is made again."""
    index = store.index()
    usable = index[index["problem"].isna()]
    facts = zip(usable["slide_digest"], usable["slide_mpp"], strict=True)
    return dict(zip(usable["slide_id"], (Stored(*fact) for fact in facts), strict=True))


def default_readers(device_type: str, cores: int | None = None) -> int:
    """Reader processes that suit this machine, or a share of so many of its cores.

    A GPU encodes faster than one core reads; a CPU encodes slower, and needs its cores for that.
    """
    if cores is None and hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    cores = cores or os.cpu_count() or 1
    return max(1, cores // 4) if device_type == "cpu" else max(1, min(cores - 1, 16))
