"""Where pixels come from: OpenSlide for whole slides, Pillow for plain images.

Both answer the same questions in the same way; nothing above this module asks which one it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import openslide

from storm_clinic.errors import UnreadableSlide
from storm_clinic.slides.plain_image import IMAGE_SUFFIXES, PlainImage
from storm_clinic.slides.transparency import Pixels
from storm_clinic.slides.whole_slide import WholeSlide

Size = tuple[int, int]


class PixelSource(Protocol):
    """An open slide, before anybody has settled its microns per pixel."""

    @property
    def vendor(self) -> str:
        """Name of the format."""

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Width and height of each level."""

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level."""

    @property
    def own_mpp(self) -> tuple[str | float, str | float] | None:
        """What the file states about x and y, unchecked."""

    @property
    def background(self) -> tuple[int, int, int]:
        """Colour of what was never scanned."""

    @property
    def codec(self) -> str:
        """How level 0 is compressed, or "unknown"."""

    @property
    def digest(self) -> str:
        """Identity of the content."""

    def read(self, level: int, corner: Size, out: Pixels, side: int) -> None:
        """Fill ``out``, uint8 (h, w, 3), with what one level shows from ``corner`` on.

        Each pixel is the mean of a square of ``side`` x ``side`` of the level's pixels. Coordinates
        are the level's own; the rectangle that is read lies wholly inside it.
        """

    def close(self) -> None:
        """Give file handles and memory back."""


def open_source(path: Path) -> WholeSlide | PlainImage:
    """Open a file by what it holds, not by its name alone.

    Raises
    ------
    UnreadableSlide
        If it is missing, empty, or neither a slide nor an image.
    """
    try:
        is_empty = path.is_file() and path.stat().st_size == 0
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise UnreadableSlide("there is no such file", where=path) from None
    except OSError as error:
        raise UnreadableSlide(f"cannot be read: {error.strerror}", where=path) from error
    if is_empty:
        raise UnreadableSlide("the file is empty", where=path)
    if openslide.OpenSlide.detect_format(path) is not None:
        return WholeSlide(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return PlainImage(path)
    if _is_text(path):
        raise UnreadableSlide("it holds text, not a slide", where=path)
    raise UnreadableSlide(
        "it is no slide that OpenSlide knows, or its beginning is damaged",
        where=path,
        fix="Compare its size and checksum with the scanner's copy.",
    )


def _is_text(path: Path) -> bool:
    with path.open("rb") as handle:
        beginning = handle.read(1024)
    return all(byte >= 32 or byte in b"\t\r\n" for byte in beginning) and beginning.isascii()
