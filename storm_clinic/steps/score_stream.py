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
from storm_clinic.features.storm_expression import mean_over_slides
from storm_clinic.steps.score_inputs import places_of
from storm_clinic.steps.score_storm import StormFiles, StormSlide
from storm_clinic.study import TILES

Array = NDArray[Any]

BATCH_TILES = 32_768  # 25 MB of 384 float16 numbers, 100 MB of 1,536
BATCH_PATIENTS = 512
READERS = 2
CHUNK = 16  # patients read by one task
# From so many patients on it pays to start processes: HDF5 is parsed by one thread at a time.
WORTH_PROCESSES = 1_000


@dataclass(frozen=True, eq=False)
class ReadStorm:
    """What STORM made of one patient's slides, as far as the model sees it.

    Attributes
    ----------
    tiles : dict of str to list of float arrays, each (n_tiles, width)
        By input, ``storm`` and ``virtual_expression``; one a slide whose STORM file could be read.
    places : dict of str to list of float arrays, each (n_tiles, 2), or None
        As `ReadPatient.places`.
    expression : float64 array, shape (n_genes,), optional
        Mean over the slides by their tiles; None where there is no slide, or the model sees none.
    n_slides, n_tiles : int
    warnings : tuple of str
        Slides that look unlike the checkpoint's training data, each with what was seen.
    """

    tiles: Mapping[str, list[Array]]
    places: Mapping[str, list[Array] | None]
    expression: Array | None
    n_slides: int
    n_tiles: int
    warnings: tuple[str, ...]


NO_STORM = ReadStorm({}, {}, None, 0, 0, ())


@dataclass(frozen=True, eq=False)
class ReadPatient:
    """The tiles of one patient.

    Attributes
    ----------
    at : int
        Position among the patients.
    tiles : list of float arrays, each (n_tiles, width)
        Tile features; one a slide that could be read.
    places : list of float arrays, each (n_tiles, 2), or None
        µm from the middle of each slide, where known of every slide.
    problems : tuple of str
        Slides that could not be read, each with the reason.
    storm : ReadStorm
        What STORM made of the slides.
    n_slides : int
        Slides of which anything was read.
    """

    at: int
    tiles: list[Array]
    places: list[Array] | None
    problems: tuple[str, ...]
    storm: ReadStorm = NO_STORM
    n_slides: int = 0

    @property
    def n_tiles(self) -> int:
        """Tiles with features."""
        return sum(map(len, self.tiles))

    @property
    def n_rows(self) -> int:
        """Rows of all inputs of tiles together: what memory goes into."""
        return self.n_tiles + sum(len(part) for of in self.storm.tiles.values() for part in of)

    @property
    def placed(self) -> dict[str, bool]:
        """Whether it is known where the tiles lie, by input of which there are any."""
        known: dict[str, bool] = {"image": self.places is not None} if self.n_tiles else {}
        return known | {
            name: self.storm.places[name] is not None
            for name, of in self.storm.tiles.items()
            if any(map(len, of))
        }


@dataclass(frozen=True, eq=False)
class SlideFiles:
    """Where what a model sees of slides lies.

    Attributes
    ----------
    store : FeatureStore, optional
        Tile features; None where the model sees no images.
    storm : StormFiles, optional
        None where it sees nothing that STORM made.
    failed, without_storm : mapping of str to str
        Slides that are known to have no features, and no STORM file, and why.
    """

    store: FeatureStore | None
    storm: StormFiles | None
    failed: Mapping[str, str]
    without_storm: Mapping[str, str]

    def resolved(self) -> SlideFiles:
        """The same for a process that works in another folder."""
        store, storm = self.store, self.storm
        return replace(
            self,
            store=None if store is None else replace(store, folder=store.folder.resolve()),
            storm=None if storm is None else replace(storm, folder=storm.folder.resolve()),
        )

    def of(self, slide_ids: set[str]) -> SlideFiles:
        """The same, knowing of these slides alone."""
        failed = {slide: self.failed[slide] for slide in slide_ids & self.failed.keys()}
        without = {s: self.without_storm[s] for s in slide_ids & self.without_storm.keys()}
        return replace(self, failed=failed, without_storm=without)


def read_patients(
    files: SlideFiles, slides_of_patients: Sequence[Sequence[str]]
) -> Iterator[ReadPatient]:
    """Read patient after patient, some ahead: few by threads, many by processes.

    Parameters
    ----------
    files : SlideFiles
        Where features and STORM files lie.
    slides_of_patients : sequence of sequences of str
        For each patient the ids of their slides, in the order in which tiles are laid.
    """
    many = len(slides_of_patients) >= WORTH_PROCESSES
    here = files.resolved()
    waiting: deque[Future[list[ReadPatient]]] = deque()
    with ProcessPoolExecutor(READERS) if many else ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(slides_of_patients), CHUNK):
            of = slides_of_patients[start : start + CHUNK]
            known = here.of({slide for ids in of for slide in ids})
            waiting.append(pool.submit(_read_chunk, known, start, of))
            if len(waiting) > 2 * READERS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def batches(patients: Iterator[ReadPatient]) -> Iterator[list[ReadPatient]]:
    """Neighbours that fit into one batch, of each input all with places or all without.

    A patient with more tiles than a batch holds stands alone. Where places of one patient are
    unknown his neighbours keep theirs, so that nobody's risk depends on his company.
    """
    batch: list[ReadPatient] = []
    n_rows, placed = 0, dict[str, bool]()
    for patient in patients:
        full = n_rows + patient.n_rows > BATCH_TILES or len(batch) == BATCH_PATIENTS
        alike = all(placed.get(name, known) == known for name, known in patient.placed.items())
        if batch and (full or not alike):
            yield batch
            batch, n_rows, placed = [], 0, {}
        batch.append(patient)
        n_rows += patient.n_rows
        placed |= patient.placed
    if batch:
        yield batch


def _read_chunk(files: SlideFiles, start: int, of: Sequence[Sequence[str]]) -> list[ReadPatient]:
    return [_read(files, start + n, slide_ids) for n, slide_ids in enumerate(of)]


def _read(files: SlideFiles, at: int, slide_ids: Sequence[str]) -> ReadPatient:
    slides: dict[str, SlideFeatures] = {}
    made: dict[str, StormSlide] = {}
    problems: list[str] = []
    for slide_id in slide_ids:
        if files.store is not None:
            try:
                slides[slide_id] = _features(files.store, files.failed, slide_id)
            except (FeatureError, UnsafeName) as error:
                problems.append(f"slide {slide_id}: {error}")
        if files.storm is not None:
            try:
                made[slide_id] = _storm_file(files.storm, files.without_storm, slide_id)
            except (FeatureError, UnsafeName) as error:
                problems.append(f"slide {slide_id}: {error}")
    return ReadPatient(
        at,
        [slide.features for slide in slides.values()],
        places_of(list(slides.values())),
        tuple(dict.fromkeys(problems)),  # what lost the tiles is why there is no STORM file either
        NO_STORM if files.storm is None else _together(files.storm, made),
        len(slides.keys() | made.keys()),
    )


def _features(store: FeatureStore, failed: Mapping[str, str], slide_id: str) -> SlideFeatures:
    if slide_id in failed:
        raise FeatureError(failed[slide_id])
    slide = store.read(slide_id)
    if not slide.n_tiles:
        raise FeatureError("holds no tile", where=store.path(slide_id))
    return slide


def _storm_file(storm: StormFiles, without: Mapping[str, str], slide_id: str) -> StormSlide:
    if slide_id in without:
        raise FeatureError(without[slide_id])
    return storm.read(slide_id)


def _together(storm: StormFiles, slides: Mapping[str, StormSlide]) -> ReadStorm:
    """A patient's slides as one: tiles slide after slide, expression as their mean."""
    of = list(slides.values())
    tiles = {name: [s.tiles[name] for s in of] for name in TILES if name in storm.inputs}
    expression = [slide.expression for slide in of if slide.expression is not None]
    weights = [slide.n_tiles for slide in of]
    return ReadStorm(
        {name: [part.features for part in parts] for name, parts in tiles.items()},
        {name: places_of(parts) for name, parts in tiles.items()},
        mean_over_slides(expression, weights) if expression else None,
        len(of),
        sum(weights),
        tuple(f"slide {s}: {w}" for s, made in slides.items() if (w := made.domain_warning)),
    )
