"""Slides to feature files: readers, encoder and writer at work at the same time.

One thread runs the encoder, one collects what a GPU computed, one writes files; this one deals out
work. Every batch holds tiles of one slide in raster order and has one shape, so that a slide's
features do not depend on which other slides were extracted beside it, on how many readers there
were, or on an interruption.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import (
    EncoderError,
    FeatureError,
    StorageError,
    StormClinicError,
    UnreadableSlide,
)
from storm_clinic.features.background import BackgroundThreads
from storm_clinic.features.execution import Outcome, ReaderPool
from storm_clinic.features.lost_tasks import Crashed, Hung, TimeLimits
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.slide_result import SlideResult, failed_slide
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.tally import Tally
from storm_clinic.features.tiling import (
    Pixels,
    PlanTask,
    ReaderSettings,
    ReadTask,
    Refused,
    SlideJob,
    SlidePlan,
    Stored,
    TilesRead,
    Unchanged,
)
from storm_clinic.files import storage_errors, sweep_dead_parts
from storm_clinic.progress import Progress
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters

if TYPE_CHECKING:
    from storm_clinic.encoders.batches import BatchEncoder, EncodedBatch
    from storm_clinic.encoders.encoding import LoadedEncoder

PICTURES = "qc"
RUNS = "runs"
# Beside one a reader: so many are being encoded or written.
_SLIDES_BESIDE = 2
# Below this share of readable tiles what is left no longer stands for the slide.
_LEAST_READABLE = 0.5


def extract_slides(
    jobs: Sequence[SlideJob],
    encoder: LoadedEncoder,
    store: FeatureStore,
    *,
    geometry: TileGeometry,
    tissue: TissueParameters,
    n_readers: int,
    batch_size: int,
    limits: TimeLimits | None = None,
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
    geometry, tissue
        How tiles are laid.
    n_readers : int
        Reader processes.
    batch_size : int
        Tiles a batch.
    limits : TimeLimits, optional
        After which a slide's readers are taken to hang.
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
        return extract_known(
            jobs,
            stored_slides(store),
            encoder,
            store,
            geometry=geometry,
            tissue=tissue,
            n_readers=n_readers,
            batch_size=batch_size,
            limits=limits,
            progress=progress,
        )
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
    *,
    geometry: TileGeometry,
    tissue: TissueParameters,
    n_readers: int,
    batch_size: int,
    limits: TimeLimits | None = None,
    progress: Progress | None = None,
) -> list[SlideResult]:
    """As `extract_slides`, of a store whose slides are known, so that its index is not read."""
    from storm_clinic.encoders.batches import BatchEncoder

    settings = ReaderSettings(
        geometry=geometry,
        tissue=tissue,
        n_slots=2 * n_readers + 2,
        batch_size=batch_size,
        pictures=store.folder / PICTURES,
    )
    tally = Tally(len(jobs), progress)
    with (
        storage_errors(store.folder),  # too many open files, whatever they were to be
        ReaderPool(n_readers, settings, limits) as pool,
        BackgroundThreads() as threads,
    ):
        batches = BatchEncoder(encoder, batch_size)
        return _Stage(jobs, stored, batches, store, pool, threads, tally).run()


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


@dataclass(eq=False)
class _Work:
    """A slide whose tiles are being read and encoded."""

    job: SlideJob
    plan: SlidePlan
    features: NDArray[np.float32]
    batch_size: int  # the least that a part of it was encoded in
    n_encoded: int = 0
    failed_rows: list[int] = field(default_factory=list)
    reason: str | None = None


@dataclass(eq=False)
class _Stage:
    """One run: which slides are in work, and what to do when something ends."""

    jobs: Sequence[SlideJob]
    stored: Mapping[str, Stored]
    batches: BatchEncoder
    store: FeatureStore
    pool: ReaderPool
    threads: BackgroundThreads
    tally: Tally

    def __post_init__(self) -> None:
        self._todo = deque(self.jobs)
        self._in_work: dict[str, _Work | None] = {}  # None while it is being opened
        self._unread: deque[tuple[_Work, int]] = deque()
        self._free = list(range(len(self.pool.slots)))
        self._batch_size = self.pool.slots.shape[1]
        self._results: dict[str, SlideResult] = {}

    def run(self) -> list[SlideResult]:
        self.tally.show()
        while len(self._results) < len(self.jobs):
            self._open_slides()
            self._read_batches()
            for outcome in self.pool.wait([self.threads.bell]):
                self._take(outcome)
            for then, future in self.threads.finished():
                then(future)
        return [self._results[job.slide_id] for job in self.jobs]

    def _open_slides(self) -> None:
        most = self.pool.n_readers + _SLIDES_BESIDE
        while self._todo and len(self._in_work) < most:
            job = self._todo.popleft()
            self._in_work[job.slide_id] = None
            # Before waiting batches: without plans there would soon be nothing to read.
            self.pool.submit(PlanTask(job, self.stored.get(job.slide_id)), urgent=True)

    def _read_batches(self) -> None:
        while self._unread and self._free:
            work, first = self._unread.popleft()
            if work.job.slide_id in self._in_work:
                corners = work.plan.corners[first : first + self._batch_size]
                self.pool.submit(ReadTask(work.job, first, corners, self._free.pop()))

    def _take(self, outcome: Outcome) -> None:
        task, reply = outcome.task, outcome.reply
        work = self._in_work.get(task.job.slide_id)
        if isinstance(task, ReadTask) and (work is None or not isinstance(reply, TilesRead)):
            self._free.append(task.slot)  # nothing in it will be encoded
        if task.job.slide_id not in self._in_work:
            return  # the slide failed while this batch was on its way
        if isinstance(reply, SlidePlan):
            self._begin(task.job, reply)
        elif isinstance(reply, Unchanged):
            self._finish(SlideResult(task.job.slide_id, task.job.path, "unchanged"))
        elif isinstance(reply, Crashed | Hung):
            self._fail(task.job, UnreadableSlide(f"{reply}; set aside", where=task.job.path))
        elif isinstance(reply, Refused):
            self._fail(task.job, reply.error, reply.trace)
        elif work is not None and isinstance(task, ReadTask):
            self._encode(work, task, reply)

    def _begin(self, job: SlideJob, plan: SlidePlan) -> None:
        n_tiles = len(plan.corners)
        features = np.zeros((n_tiles, self.store.contract.width), dtype=np.float32)
        work = self._in_work[job.slide_id] = _Work(job, plan, features, self._batch_size)
        self._unread.extend((work, first) for first in range(0, n_tiles, self._batch_size))
        self.tally.planned(n_tiles)

    def _encode(self, work: _Work, task: ReadTask, reply: TilesRead) -> None:
        work.failed_rows += [task.first + row for row in reply.failed]
        work.reason = work.reason or reply.reason
        tiles = self.pool.slots[task.slot, : len(task.corners)]
        self.threads.encode(
            lambda: _start(self.batches, tiles),
            lambda future: self._encoded(work, task, future.result()),
        )

    def _encoded(self, work: _Work, task: ReadTask, batch: EncodedBatch) -> None:
        self._free.append(task.slot)
        if work.job.slide_id not in self._in_work:
            return  # the slide failed meanwhile
        n_tiles = len(batch.embedding)
        work.features[task.first : task.first + n_tiles] = batch.embedding.numpy()
        work.batch_size = min(work.batch_size, batch.batch_size)
        work.n_encoded += n_tiles
        self.tally.encoded(n_tiles)
        if work.n_encoded == len(work.features):
            self._write(work)

    def _write(self, work: _Work) -> None:
        n_failed, n_tiles = len(work.failed_rows), len(work.features)
        if n_failed > (1 - _LEAST_READABLE) * n_tiles:
            problem = f"{n_failed} of {n_tiles} tiles cannot be read; the first: {work.reason}"
            self._fail(work.job, UnreadableSlide(problem, where=work.job.path))
            return
        self.threads.write(
            lambda: self.store.write(_slide_features(work, self.batches.encoder)),
            lambda future: self._written(work, future),
        )

    def _written(self, work: _Work, future: Future[Any]) -> None:
        try:
            future.result()
        except FeatureError as error:
            self._fail(work.job, error)
            return
        self._finish(
            SlideResult(
                work.job.slide_id,
                work.job.path,
                "written",
                n_tiles=len(work.features) - len(work.failed_rows),
                n_failed_tiles=len(work.failed_rows),
                tissue_mm2=work.plan.tissue_mm2,
                reason=work.reason,
            )
        )

    def _fail(self, job: SlideJob, error: StormClinicError, trace: str = "") -> None:
        if isinstance(error, StorageError):
            raise error  # the next slide would meet the same full disk
        self._finish(failed_slide(job.slide_id, job.path, error, trace))

    def _finish(self, result: SlideResult) -> None:
        for task in self.pool.drop(result.slide_id):
            if isinstance(task, ReadTask):
                self._free.append(task.slot)
        work = self._in_work.pop(result.slide_id)
        self._results[result.slide_id] = result
        self.tally.finished(None if work is None else len(work.features) - work.n_encoded)


def _start(batches: BatchEncoder, tiles: Pixels) -> Callable[[], EncodedBatch]:
    import torch

    with _encoder_errors(batches):
        finish = batches.start(torch.from_numpy(tiles))

    def collect() -> EncodedBatch:
        with _encoder_errors(batches):
            return finish()

    return collect


@contextmanager
def _encoder_errors(batches: BatchEncoder) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of CUDA
        raise EncoderError(
            f"a batch of {batches.batch_size} tiles cannot be encoded: {error}",
            where=f"encoder {batches.encoder.card.name}",
            fix="If memory ran out, use smaller batches.",
        ) from error


def _slide_features(work: _Work, encoder: LoadedEncoder) -> SlideFeatures:
    read = np.ones(len(work.features), dtype=np.bool_)
    read[work.failed_rows] = False
    plan = work.plan
    return SlideFeatures(
        slide_id=work.job.slide_id,
        features=work.features if read.all() else work.features[read],
        coords=plan.corners[read],
        tissue=plan.tissue[read],
        failed_coords=plan.corners[~read],
        slide_digest=plan.digest,
        slide_mpp=plan.mpp,
        slide_mpp_source=plan.mpp_source,
        vendor=plan.vendor,
        runtime=encoder.runtime,
        precision=encoder.precision,
        batch_size=work.batch_size,
    )
