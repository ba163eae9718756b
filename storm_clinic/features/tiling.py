"""What is asked of a reader process, how it answers, and the answering itself. Imports no torch."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import MppError, NoTissue, SlideError, StormClinicError, UnreadableSlide
from storm_clinic.slides.checksum import require_checksum
from storm_clinic.slides.quality import draw_qc, write_picture
from storm_clinic.slides.reader import Slide, open_slide
from storm_clinic.slides.tiles import TileGeometry, lay_tissue_tiles
from storm_clinic.slides.tissue import TissueMask, TissueParameters, find_tissue, read_mask

Pixels = NDArray[np.uint8]
Corners = NDArray[np.int64]

# A reader works on one slide and meets the next; a plain image is held decoded, up to 1.5 GB.
_OPEN_SLIDES = 2
_SAME_MPP = 1e-6
_NO_TILES: Corners = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True)
class SlideJob:
    """One slide to be extracted.

    Attributes
    ----------
    slide_id : str
    path : Path
    mpp_override, mpp_manifest : float, optional
        Microns per pixel, see `open_slide`.
    mask : Path, optional
        A tissue mask instead of the tissue finder.
    checksum : str, optional
        MD5 or SHA-256 that the file must have, see `require_checksum`.
    """

    slide_id: str
    path: Path
    mpp_override: float | None = None
    mpp_manifest: float | None = None
    mask: Path | None = None
    checksum: str | None = None

    def open(self) -> Slide:
        """Open the slide under this job's statement of microns per pixel."""
        return open_slide(self.path, mpp_override=self.mpp_override, mpp_manifest=self.mpp_manifest)


@dataclass(frozen=True)
class Stored:
    """What the store already holds of a slide."""

    slide_digest: str | None
    slide_mpp: float | None


@dataclass(frozen=True)
class PlanTask:
    """Open a slide and lay its tiles; ``stored`` if the store has it already."""

    job: SlideJob
    stored: Stored | None = None


@dataclass(frozen=True, eq=False)
class ReadTask:
    """Read the tiles at ``corners`` (n, 2) into a slot of the shared memory."""

    job: SlideJob
    first: int
    corners: Corners
    slot: int


Task = PlanTask | ReadTask


@dataclass(frozen=True, eq=False)
class SlidePlan:
    """The tiles of a slide: ``corners`` (n, 2) in level-0 px, raster order; ``tissue`` (n,)."""

    corners: Corners
    tissue: NDArray[np.float16]
    tissue_mm2: float
    digest: str
    mpp: float
    mpp_source: str
    vendor: str


@dataclass(frozen=True)
class Unchanged:
    """The store has this slide already, and the file is still the same."""


@dataclass(frozen=True)
class TilesRead:
    """Pixels lie in the slot; ``failed`` are the rows that could not be read, and why the first."""

    failed: tuple[int, ...]
    reason: str | None


@dataclass(frozen=True)
class Refused:
    """The task could not be done. ``trace`` is empty unless the program itself is at fault."""

    error: StormClinicError
    trace: str = ""


Reply = SlidePlan | Unchanged | TilesRead | Refused


@dataclass(frozen=True)
class ReaderSettings:
    """What all tasks of a run have in common; QC pictures go into the folder ``pictures``."""

    geometry: TileGeometry
    tissue: TissueParameters
    n_slots: int
    batch_size: int
    pictures: Path

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Of the shared memory: slot, tile, row, column, colour."""
        side = self.geometry.tile_px
        return self.n_slots, self.batch_size, side, side, 3

    @property
    def n_bytes(self) -> int:
        """Size of the shared memory."""
        return math.prod(self.shape)


class TileReader:
    """Answers tasks, keeping the slides it works on open."""

    def __init__(self, settings: ReaderSettings, slots: Pixels) -> None:
        self._settings = settings
        self._slots = slots
        self._open: OrderedDict[SlideJob, Slide] = OrderedDict()

    def answer(self, task: Task) -> Reply:
        """Do a task.

        Raises
        ------
        SlideError
            If the slide cannot be used.
        """
        return self._plan(task) if isinstance(task, PlanTask) else self._read(task)

    def _plan(self, task: PlanTask) -> Reply:
        if task.stored is None and task.job.checksum is not None:
            require_checksum(task.job.path, task.job.checksum)
        slide = self._slide(task.job)
        if task.stored is not None:
            _require_unchanged(slide, task.stored)
            return Unchanged()
        view = slide.thumbnail(self._settings.tissue.thumbnail_mpp)
        try:
            mask = self._tissue(task.job, slide, view)
        except NoTissue as error:
            self._draw(task.job, slide, view, None, _NO_TILES, [error.problem])
            raise
        corners, fraction = lay_tissue_tiles(
            slide.size,
            slide.mpp,
            self._settings.geometry,
            mask,
            self._settings.tissue.min_tile_fraction,
        )
        tile_um = self._settings.geometry.tile_um
        facts = f"{mask.area_mm2:.3g} mm² of tissue, {len(corners)} tiles of {tile_um:g} µm"
        self._draw(task.job, slide, view, mask, corners, [facts])
        if not len(corners):
            raise NoTissue(
                f"{facts}: none is {self._settings.tissue.min_tile_fraction:.0%} tissue",
                where=slide.path,
                fix="Lower the least tissue fraction of a tile, or give a mask.",
            )
        return SlidePlan(
            corners=corners,
            tissue=fraction.astype(np.float16),
            tissue_mm2=mask.area_mm2,
            digest=slide.digest,
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            vendor=slide.vendor,
        )

    def _tissue(self, job: SlideJob, slide: Slide, view: tuple[Pixels, float]) -> TissueMask:
        if job.mask is not None:
            return read_mask(job.mask, slide.size, slide.mpp)
        return find_tissue(*view, self._settings.tissue, where=slide.path)

    def _draw(
        self,
        job: SlideJob,
        slide: Slide,
        view: tuple[Pixels, float],
        mask: TissueMask | None,
        corners: Corners,
        facts: list[str],
    ) -> None:
        width, height = slide.size
        title = f"{job.slide_id}   {slide.vendor}, {width} x {height} px at {slide.mpp:g} µm/px"
        caption = [f"{title} (stated by the {slide.mpp_source})", *facts]
        tile_um = self._settings.geometry.tile_um
        picture = draw_qc(*view, mask, corners * slide.mpp, tile_um, caption)
        write_picture(picture, self._settings.pictures / f"{job.slide_id}.jpg")

    def _read(self, task: ReadTask) -> TilesRead:
        slide = self._slide(task.job)
        batch = self._slots[task.slot]
        failed: list[int] = []
        reason = None
        for row, (x, y) in enumerate(task.corners.tolist()):
            try:
                slide.read_into(batch[row], (x, y), self._settings.geometry.mpp)
            except UnreadableSlide as error:
                batch[row] = 0
                failed.append(row)
                reason = reason or error.problem
        return TilesRead(tuple(failed), reason)

    def _slide(self, job: SlideJob) -> Slide:
        if job in self._open:
            self._open.move_to_end(job)
            return self._open[job]
        while len(self._open) >= _OPEN_SLIDES:
            self._open.popitem(last=False)[1].close()
        slide = self._open[job] = job.open()
        return slide


def _require_unchanged(slide: Slide, stored: Stored) -> None:
    if stored.slide_digest != slide.digest:
        raise SlideError(
            f"the file has changed: features were extracted from another one (its digest was "
            f"{_short(stored.slide_digest)}, now it is {_short(slide.digest)})",
            where=slide.path,
            fix="Delete the feature file to extract it again, or give the slide another id.",
        )
    before = stored.slide_mpp or math.nan
    if not abs(before / slide.mpp - 1) <= _SAME_MPP:
        raise MppError(
            f"features were extracted at {before:g} µm per level-0 pixel, now "
            f"{slide.mpp:g} is stated ({slide.mpp_source})",
            where=slide.path,
            fix="Delete the feature file to extract it again, or take the statement back.",
        )


def _short(digest: str | None) -> str:
    return "unknown" if digest is None else f"{digest.removeprefix('sha256:')[:12]}…"
