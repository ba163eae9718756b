"""Is it in focus, and what will be cut out: a score, a picture a slide, a sheet a batch."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from storm_clinic.files import atomic_write
from storm_clinic.slides.reader import Slide
from storm_clinic.slides.resample import Pixels
from storm_clinic.slides.tiles import Corners
from storm_clinic.slides.tissue import TissueMask

FOCUS_MPP = 0.5
# Sharp scans score 0.65 to 0.75 (Aperio 20x, camera JPEGs), the same blurred by 1 µm 0.46.
BLURRED_BELOW = 0.45
_FOCUS_TILE_PX = 256
_FOCUS_TILES = 25
_REBLUR_PX = 11  # Crete's filter length

_PICTURE_PX = 1400
_CELL_PX = 320
_COLUMNS = 6
CELLS_A_SHEET = 48
_PAPER, _INK = (255, 255, 255), (30, 30, 30)
# Okabe-Ito colours: told apart also by people who do not see red or green.
_CONTOUR, _TILE = (0, 158, 115), (0, 114, 178)
_STATUS_COLOURS = {"good": (0, 114, 178), "doubtful": (230, 159, 0), "unusable": (213, 94, 0)}


@dataclass(frozen=True, eq=False)
class SheetCell:
    """One slide on a contact sheet.

    Attributes
    ----------
    label : str
        Its id.
    note : str
        What is wrong, or empty.
    status : {"good", "doubtful", "unusable"}
        Gives the frame its colour.
    picture : Path or None
        Its QC picture, if one could be made.
    """

    label: str
    note: str
    status: str
    picture: Path | None


def focus_score(tile: Pixels) -> float:
    """Sharpness from 0 (blurred or blank) to 1, independent of contrast and stain.

    One minus the blur metric of Crete: how much of the difference between neighbouring pixels a
    further blur takes away. A sharp picture loses most of it, a blurred one little.

    Parameters
    ----------
    tile : uint8 array, shape (height, width, 3)
        RGB at about 0.5 µm/px.

    References
    ----------
    Crete et al., Proc. SPIE 6492 (2007) 64920I.
    """
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY).astype(np.float32)
    scores = []
    for axis, kernel in ((1, (_REBLUR_PX, 1)), (0, (1, _REBLUR_PX))):
        before = np.abs(np.diff(grey, axis=axis))
        after = np.abs(np.diff(cv2.blur(grey, kernel), axis=axis))
        total = float(before.sum())
        lost = float(np.maximum(before - after, 0).sum())
        scores.append(lost / total if total > 0 else 0.0)
    return min(scores)


def slide_focus(slide: Slide, corners: Corners) -> float:
    """Median focus score of up to 25 tiles, evenly spread over those given.

    Parameters
    ----------
    slide : Slide
        Open.
    corners : int64 array, shape (n_tiles, 2)
        Tiles on tissue, level-0 pixels; at least one.

    Raises
    ------
    UnreadableSlide
        If one of these tiles cannot be decoded.
    """
    mpp = max(FOCUS_MPP, slide.mpp)
    chosen = np.linspace(0, len(corners) - 1, min(_FOCUS_TILES, len(corners))).round().astype(int)
    tiles = (slide.read((x, y), _FOCUS_TILE_PX, mpp) for x, y in corners[chosen].tolist())
    return float(np.median([focus_score(tile) for tile in tiles]))


def draw_qc(
    thumbnail: Pixels,
    thumbnail_mpp: float,
    mask: TissueMask | None,
    corners_um: NDArray[np.floating[Any]],
    tile_um: float,
    caption: Sequence[str],
) -> Pixels:
    """A slide's thumbnail with the contour of its tissue and the tiles that are kept.

    Parameters
    ----------
    thumbnail : uint8 array, shape (height, width, 3)
        Of the whole slide.
    thumbnail_mpp : float
        Microns per pixel of it.
    mask : TissueMask or None
        None if there is no tissue.
    corners_um : float array, shape (n_kept, 2)
        Top-left corners of kept tiles, microns from the slide's corner.
    tile_um : float
        Side of a tile.
    caption : sequence of str
        Lines written under the picture.

    Returns
    -------
    uint8 array, shape (height, width, 3)
        At most 1400 px on its longer side, without the caption.
    """
    zoom = _PICTURE_PX / max(thumbnail.shape[:2])
    way = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    size = tuple(max(1, round(side * zoom)) for side in thumbnail.shape[1::-1])
    picture = np.asarray(cv2.resize(thumbnail, size, interpolation=way), dtype=np.uint8).copy()
    px_per_um = zoom / thumbnail_mpp
    for x, y in np.rint(corners_um * px_per_um).astype(int).tolist():
        side = round(tile_um * px_per_um)
        cv2.rectangle(picture, (x, y), (x + side, y + side), _TILE, 1)
    if mask is not None:
        contours, _ = cv2.findContours(
            mask.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        # A contour runs through the centres of its pixels.
        scaled = [np.rint((c + 0.5) * (mask.mpp * px_per_um)).astype(np.int32) for c in contours]
        cv2.drawContours(picture, scaled, -1, _CONTOUR, 2)
    return _with_caption(picture, caption)


def write_picture(picture: Pixels, path: Path) -> None:
    """Write a picture as JPEG, atomically.

    Raises
    ------
    StorageError
        If the disk is full or the folder may not be written.
    """
    with atomic_write(path) as part:
        Image.fromarray(picture).save(part, format="JPEG", quality=88)


def contact_sheet(cells: Sequence[SheetCell]) -> Pixels:
    """QC pictures side by side, framed by status; slides without a picture have their note.

    Parameters
    ----------
    cells : sequence of SheetCell
        At least one, at most `CELLS_A_SHEET` for a picture of sensible size.

    Returns
    -------
    uint8 array, shape (height, width, 3)
    """
    rows = math.ceil(len(cells) / _COLUMNS)
    columns = min(_COLUMNS, len(cells))
    sheet = Image.new("RGB", (columns * _CELL_PX, rows * (_CELL_PX + 40)), _PAPER)
    for number, cell in enumerate(cells):
        row, column = divmod(number, _COLUMNS)
        sheet.paste(_draw_cell(cell), (column * _CELL_PX, row * (_CELL_PX + 40)))
    return np.asarray(sheet)


def _draw_cell(cell: SheetCell) -> Image.Image:
    canvas = Image.new("RGB", (_CELL_PX, _CELL_PX + 40), _PAPER)
    draw = ImageDraw.Draw(canvas)
    font = _font(12)
    if cell.picture is not None:
        with Image.open(cell.picture) as picture:
            small = picture.convert("RGB")
        small.thumbnail((_CELL_PX - 16, _CELL_PX - 16))
        canvas.paste(small, ((_CELL_PX - small.width) // 2, (_CELL_PX - small.height) // 2))
    else:
        draw.multiline_text((14, 14), _wrapped(cell.note, 40, 14), fill=_INK, font=font)
    colour = _STATUS_COLOURS[cell.status]
    draw.rectangle((4, 4, _CELL_PX - 5, _CELL_PX - 5), outline=colour, width=4)
    draw.text((8, _CELL_PX), _wrapped(cell.label, 42, 1), fill=_INK, font=font)
    draw.text((8, _CELL_PX + 18), _wrapped(cell.note or cell.status, 42, 1), fill=colour, font=font)
    return canvas


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font has no µ; matplotlib brings one that has nearly everything.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size_px)


def _with_caption(picture: Pixels, caption: Sequence[str]) -> Pixels:
    font = _font(17)
    width = max([picture.shape[1], *(math.ceil(font.getlength(line)) + 20 for line in caption)])
    height = picture.shape[0] + 26 * len(caption) + 14
    canvas = Image.new("RGB", (width, height), _PAPER)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(caption):
        draw.text((10, picture.shape[0] + 8 + 26 * number), line, fill=_INK, font=font)
    return np.asarray(canvas)


def _wrapped(text: str, width: int, n_lines: int) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=n_lines, placeholder=" …"))
