"""Contact sheets of an extraction: every slide's QC picture, a few dozen to a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storm_clinic.errors import UnsafeName
from storm_clinic.features.shard import Shard
from storm_clinic.features.slide_result import SlideResult
from storm_clinic.slides.quality import CELLS_A_SHEET, SheetCell, contact_sheet, write_picture


def write_contact_sheets(
    folder: Path, slides: Sequence[SlideResult], shard: Shard | None
) -> tuple[Path, ...]:
    """Write ``_contact_sheet_<n>.jpg`` beside the pictures, in place of earlier ones.

    Parameters
    ----------
    folder : Path
        Where ``<slide id>.jpg`` lie.
    slides : sequence of SlideResult
        In the order they are to have.
    shard : Shard or None
        Part of the batch that this is; it becomes part of the names.
    """
    # No slide's picture can have that name: ids start with a letter or digit.
    stem = "_contact_sheet" if shard is None else f"_part_{shard.index}-of-{shard.count}"
    for earlier in folder.glob(f"{stem}_*.jpg"):
        earlier.unlink()
    sheets = []
    for start in range(0, len(slides), CELLS_A_SHEET):
        cells = [_cell(folder, slide) for slide in slides[start : start + CELLS_A_SHEET]]
        path = folder / f"{stem}_{start // CELLS_A_SHEET + 1}.jpg"
        write_picture(contact_sheet(cells), path)
        sheets.append(path)
    return tuple(sheets)


def _cell(folder: Path, slide: SlideResult) -> SheetCell:
    if slide.error == UnsafeName.__name__:
        return SheetCell(slide.slide_id, slide.problem or "", "unusable", None)
    picture = folder / f"{slide.slide_id}.jpg"
    there = picture if picture.is_file() else None
    if slide.status == "failed":
        return SheetCell(slide.slide_id, slide.problem or "", "unusable", there)
    if slide.n_failed_tiles:
        note = f"{slide.n_failed_tiles} tiles cannot be read"
        return SheetCell(slide.slide_id, note, "doubtful", there)
    return SheetCell(slide.slide_id, "" if there else "no picture", "good", there)
