"""Patients' slides read ahead while those before are scored, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor
from numpy.typing import NDArray

from storm_clinic.errors import FeatureError, UnsafeName
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.steps.score_inputs import places_of

Array = NDArray[Any]

BATCH_TILES = 32_768  # 25 MB of 384 float16 numbers, 100 MB of 1,536
BATCH_PATIENTS = 512
READERS = 2
CHUNK = 16  # patients read by one task
# From so many patients on it pays to start processes: HDF5 is parsed by one thread at a time.
WORTH_PROCESSES = 1_000


@dataclass(frozen=True, eq=False)
class ReadPatient:
    """The tiles of one patient.

    Attributes
    ----------
    at : int
        Position among the patients.
    tiles : list of float arrays, each (n_tiles, width)
        One a slide that could be read.
    places : list of float arrays, each (n_tiles, 2), or None
        µm from the middle of each slide, where known of every slide.
    problems : tuple of str
        Slides that could not be read, each with the reason.
    """

    at: int
    tiles: list[Array]
    places: list[Array] | None
    problems: tuple[str, ...]

    @property
    def n_tiles(self) -> int:
        return sum(map(len, self.tiles))


def read_patients(
    store: FeatureStore,
    slides_of_patients: Sequence[Sequence[str]],
    *,
    failed: Mapping[str, str],
) -> Iterator[ReadPatient]:
    """Read patient after patient, some ahead: few by threads, many by processes.

    Parameters
    ----------
    store : FeatureStore
        Where the features lie.
    slides_of_patients : sequence of sequences of str
        For each patient the ids of their slides, in the order in which tiles are laid.
    failed : mapping of str to str
        Slides that are known to have no features, and why.
    """
    many = len(slides_of_patients) >= WORTH_PROCESSES
    here = replace(store, folder=store.folder.resolve())
    waiting: deque[Future[list[ReadPatient]]] = deque()
    with ProcessPoolExecutor(READERS) if many else ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(slides_of_patients), CHUNK):
            of = slides_of_patients[start : start + CHUNK]
            known = {slide: failed[slide] for ids in of for slide in ids if slide in failed}
            waiting.append(pool.submit(_read_chunk, here, known, start, of))
            if len(waiting) > 2 * READERS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def batches(patients: Iterator[ReadPatient]) -> Iterator[list[ReadPatient]]:
    """Neighbours that fit into one batch, all with places or all without.

    A patient with more tiles than a batch holds stands alone. Where places of one patient are
    unknown his neighbours keep theirs, so that nobody's risk depends on his company.
    """
    batch: list[ReadPatient] = []
    n_tiles = 0
    for patient in patients:
        full = n_tiles + patient.n_tiles > BATCH_TILES or len(batch) == BATCH_PATIENTS
        if batch and (full or (patient.places is None) != (batch[0].places is None)):
            yield batch
            batch, n_tiles = [], 0
        batch.append(patient)
        n_tiles += patient.n_tiles
    if batch:
        yield batch


def _read_chunk(
    store: FeatureStore, failed: Mapping[str, str], start: int, of: Sequence[Sequence[str]]
) -> list[ReadPatient]:
    return [_read(store, failed, start + n, slide_ids) for n, slide_ids in enumerate(of)]


def _read(
    store: FeatureStore, failed: Mapping[str, str], at: int, slide_ids: Sequence[str]
) -> ReadPatient:
    slides: list[SlideFeatures] = []
    problems = []
    for slide_id in slide_ids:
        try:
            if slide_id in failed:
                raise FeatureError(failed[slide_id])
            slide = store.read(slide_id)
            if not slide.n_tiles:
                raise FeatureError("holds no tile", where=store.path(slide_id))
            slides.append(slide)
        except (FeatureError, UnsafeName) as error:
            problems.append(f"slide {slide_id}: {error}")
    return ReadPatient(at, [slide.features for slide in slides], places_of(slides), tuple(problems))
