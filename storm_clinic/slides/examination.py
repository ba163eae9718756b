"""One slide looked at as extraction would: what it is, its tissue, its tiles, its focus."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from storm_clinic.errors import NoTissue, SlideError, UnreadableSlide
from storm_clinic.slides.checksum import require_checksum
from storm_clinic.slides.quality import BLURRED_BELOW, draw_qc, slide_focus, write_picture
from storm_clinic.slides.reader import Slide, open_slide
from storm_clinic.slides.tiles import Corners, TileGeometry, lay_tissue_tiles
from storm_clinic.slides.tissue import TissueMask, TissueParameters, find_tissue, read_mask

Status = Literal["good", "doubtful", "unusable"]


@dataclass(frozen=True)
class SlideRow:
    """What is known of one slide; None where it could not be found out.

    Attributes
    ----------
    slide_id : str
        The file's name without its suffix, or as the slides table has it.
    path : str
        Empty where the slides table names no file.
    status : {"good", "doubtful", "unusable"}
        Doubtful slides can be used but should be looked at.
    vendor, codec : str or None
    width, height, levels : int or None
        Level-0 pixels; number of levels.
    mpp : float or None
    mpp_source : {"override", "manifest", "slide"} or None
    tissue_mm2 : float or None
    tiles : int or None
        Tiles that would be kept.
    focus : float or None
        0 (blurred) to 1, see `focus_score`.
    digest : str or None
    problems : tuple of str
    picture : str or None
        Its QC picture.
    """

    slide_id: str
    path: str
    status: Status = "good"
    vendor: str | None = None
    width: int | None = None
    height: int | None = None
    levels: int | None = None
    codec: str | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    tissue_mm2: float | None = None
    tiles: int | None = None
    focus: float | None = None
    digest: str | None = None
    problems: tuple[str, ...] = ()
    picture: str | None = None

    def doubted(self, problem: str) -> SlideRow:
        """The same row with one more problem that does not forbid the slide's use."""
        status: Status = "doubtful" if self.status == "good" else self.status
        return replace(self, status=status, problems=(*self.problems, problem))

    def refused(self, problem: str) -> SlideRow:
        """The same row with a problem that forbids the slide's use."""
        return replace(self, status="unusable", problems=(*self.problems, problem))


@dataclass(frozen=True)
class Examination:
    """What is to be looked at, and how; travels to a worker process.

    Attributes
    ----------
    slide_id : str
    path : Path
    mpp_override, mpp_manifest : float or None
        Microns per pixel, see `open_slide`.
    checksum : str or None
        MD5 or SHA-256 that the file must have, see `require_checksum`.
    mask : Path or None
        A tissue mask instead of the tissue finder.
    geometry : TileGeometry
        Tiles to count and draw.
    tissue : TissueParameters
    picture : Path or None
        Where the QC picture goes.
    """

    slide_id: str
    path: Path
    mpp_override: float | None
    mpp_manifest: float | None
    checksum: str | None
    mask: Path | None
    geometry: TileGeometry
    tissue: TissueParameters
    picture: Path | None


def examine_slide(job: Examination) -> SlideRow:
    """Look at one slide; whatever is wrong with it becomes part of its row."""
    row = SlideRow(job.slide_id, str(job.path))
    if job.checksum is not None:
        try:
            require_checksum(job.path, job.checksum)
        except SlideError as error:
            # What else there is to see of it may show whether it is damaged or another one.
            row = row.refused(_say(error))
    try:
        return _examine(job, row)
    except SlideError as error:
        return row.refused(_say(error))
    except Exception as error:  # noqa: BLE001 - a fault met on one slide must not stop the batch
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(at.filename).name}:{at.lineno}"
        return row.refused(f"unexpected {type(error).__name__}: {error} ({place})")


def _examine(job: Examination, row: SlideRow) -> SlideRow:
    with open_slide(
        job.path,
        mpp_override=job.mpp_override,
        mpp_manifest=job.mpp_manifest,
        require_mpp=False,
    ) as slide:
        row = replace(
            row,
            vendor=slide.vendor,
            width=slide.size[0],
            height=slide.size[1],
            levels=len(slide.level_sizes),
            codec=slide.codec,
            digest=slide.digest,
        )
        try:
            row = replace(row, mpp=slide.mpp, mpp_source=slide.mpp_source)
            return _measure(job, slide, row)
        except SlideError as error:
            return row.refused(_say(error))


def _measure(job: Examination, slide: Slide, row: SlideRow) -> SlideRow:
    """Tissue, tiles and focus, and the picture of them."""
    thumbnail, thumbnail_mpp = slide.thumbnail(job.tissue.thumbnail_mpp)
    mask: TissueMask | None = None
    corners: Corners = np.empty((0, 2), dtype=np.int64)
    try:
        if job.mask is not None:
            mask = read_mask(job.mask, slide.size, slide.mpp)
        else:
            mask = find_tissue(thumbnail, thumbnail_mpp, job.tissue, where=job.path)
        corners, _ = lay_tissue_tiles(
            slide.size, slide.mpp, job.geometry, mask, job.tissue.min_tile_fraction
        )
        row = replace(row, tissue_mm2=round(mask.area_mm2, 4), tiles=len(corners))
        if len(corners):
            row = _with_focus(slide, corners, row)
        else:
            row = row.refused(f"no tile of {job.geometry.tile_um:g} µm holds enough tissue")
    except NoTissue as error:
        row = replace(row, tissue_mm2=0.0, tiles=0).refused(_say(error))
    if job.picture is None:
        return row
    row = replace(row, picture=str(job.picture))
    picture = draw_qc(
        thumbnail,
        thumbnail_mpp,
        mask,
        corners * slide.mpp,
        job.geometry.tile_um,
        _caption(row, job.geometry),
    )
    write_picture(picture, job.picture)
    return row


def _with_focus(slide: Slide, corners: Corners, row: SlideRow) -> SlideRow:
    try:
        focus = round(slide_focus(slide, corners), 3)
    except UnreadableSlide as error:
        return row.doubted(f"parts of it are damaged: {_say(error)}")
    row = replace(row, focus=focus)
    if focus >= BLURRED_BELOW:
        return row
    return row.doubted(f"it looks out of focus ({focus:.2f}; sharp scans reach 0.65)")


def _caption(row: SlideRow, geometry: TileGeometry) -> list[str]:
    focus = "" if row.focus is None else f", focus {row.focus:.2f}"
    return [
        f"{row.slide_id}   {row.vendor}, {row.width} x {row.height} px at {row.mpp:g} µm/px "
        f"(stated by the {row.mpp_source})",
        f"{row.tissue_mm2:.3g} mm² of tissue, {row.tiles} tiles of {geometry.tile_um:g} µm{focus}",
        *row.problems,
    ]


def _say(error: SlideError) -> str:
    return error.problem if error.fix is None else f"{error.problem.rstrip('.')}. {error.fix}"
