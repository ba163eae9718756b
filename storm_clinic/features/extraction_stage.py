"""Slides in work: readers, encoder and writer at work at the same time.

One thread runs the encoder, one collects what a GPU computed, one writes files; this one deals out
work. Every batch holds tiles of one slide in raster order and has one shape, so that a slide's
features do not depend on which other slides were extracted beside it, on how many readers there
were, or on an interruption.
"""

from __future__ import annotations

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
from storm_clinic.features.lost_tasks import Crashed, Hung
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.slide_result import SlideResult, failed_slide
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.tally import Tally
from storm_clinic.features.tiling import (
    Pixels,
    PlanTask,
    ReadTask,
    Refused,
    SlideJob,
    SlidePlan,
    Stored,
    TilesRead,
    Unchanged,
)

if TYPE_CHECKING:
    from storm_clinic.encoders.batches import BatchEncoder, EncodedBatch
    from storm_clinic.encoders.encoding import LoadedEncoder

# Beside one a reader: so many are being encoded or written.
_SLIDES_BESIDE = 2
# Below this share of readable tiles what is left no longer stands for the slide.
_LEAST_READABLE = 0.5


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
class ExtractionStage:
    """One run: which slides are in work, and what to do when something ends.

    Attributes
    ----------
    jobs : sequence of SlideJob
        Each id once.
    stored : mapping of slide id to Stored
        What the store holds already.
    batches : BatchEncoder
    store : FeatureStore
    pool : ReaderPool
    threads : BackgroundThreads
        Both open.
    tally : Tally
        Told what is done.
    """

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
        """Work all jobs off; what became of each, in their order.

        Raises
        ------
        StorageError, EncoderError
            As `storm_clinic.features.extraction.extract_slides`.
        """
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
