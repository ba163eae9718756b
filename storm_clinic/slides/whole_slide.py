"""A slide that OpenSlide opens."""

from __future__ import annotations

import itertools
import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile

from storm_clinic.errors import UnreadableSlide
from storm_clinic.files import digest_file
from storm_clinic.slides.jpeg_levels import find_jpeg_levels
from storm_clinic.slides.mpp import ome_mpp
from storm_clinic.slides.native_tiles import NativeTiles
from storm_clinic.slides.resample import average_squares
from storm_clinic.slides.transparency import Pixels, blend, without_rim

Size = tuple[int, int]

# Set to "openslide", nothing is decoded but by OpenSlide: to see that it makes no difference.
READ_WITH = "STORM_CLINIC_READ_WITH"
_SCANNED_PAGES = 64  # a slide's TIFF has a dozen pages; do not walk through a z-stack of thousands


class WholeSlide:
    """A slide that OpenSlide opens.

    Where a level is a plain grid of JPEG tiles, these are decoded here, to the same pixels and
    several times faster. For each such level the first tile is read in both ways, and only if
    no pixel differs the level is read so. What is missing or damaged, and every other slide, is
    left to OpenSlide.

    Raises
    ------
    UnreadableSlide
        If OpenSlide knows no such format or finds the file damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise UnreadableSlide(f"OpenSlide cannot open it: {error}", where=path) from error
        properties = _properties(self._slide)
        self.vendor = str(properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"))
        self.level_sizes = tuple(self._slide.level_dimensions)
        self.level_downsamples = tuple(
            self._true_downsample(k) for k in range(len(self.level_sizes))
        )
        self.own_mpp = _openslide_mpp(properties)
        colour = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR) or "FFFFFF"
        red, green, blue = bytes.fromhex(colour)
        self.background = (red, green, blue)
        self._proven: set[int] = set()

    def _true_downsample(self, level: int) -> float:
        """The factor that made a level; its rounded size would suggest a slightly other one."""
        stated = float(self._slide.level_downsamples[level])
        whole = round(stated)
        fits = all(
            size in (math.floor(full / whole), math.ceil(full / whole))
            for full, size in zip(self.level_sizes[0], self.level_sizes[level], strict=True)
        )
        return float(whole) if fits else stated

    @cached_property
    def codec(self) -> str:
        return _tiff_codec(self._path, self.level_sizes[0]) or _property_codec(
            _properties(self._slide)
        )

    @cached_property
    def digest(self) -> str:
        quickhash = self._slide.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
        return str(quickhash) if quickhash else f"sha256:{digest_file(self._path)}"

    def read(self, level: int, corner: Size, out: Pixels, side: int) -> None:
        if self._read_natively(level, corner, out, side):
            return
        height, width = out.shape[:2]
        pixels = self._read_by_openslide(level, corner, (width * side, height * side))
        out[:] = pixels if side == 1 else average_squares(pixels, (width, height))

    @cached_property
    def _tiles(self) -> NativeTiles:
        if os.environ.get(READ_WITH) == "openslide":
            return NativeTiles(self._path, {})
        levels = find_jpeg_levels(self._path, self.vendor, self.level_sizes)
        # Between a level's pixels OpenSlide interpolates; only a whole factor keeps it on them.
        stated = self._slide.level_downsamples
        return NativeTiles(
            self._path, {k: level for k, level in levels.items() if stated[k].is_integer()}
        )

    def _read_natively(self, level: int, corner: Size, out: Pixels, side: int) -> bool:
        """Whether it could be done; if not, ``out`` holds anything."""
        if level not in self._tiles.levels:
            return False
        if level not in self._proven:
            self._prove(level, corner)
        return level in self._proven and self._tiles.read(level, corner, out, side)

    def _prove(self, level: int, corner: Size) -> None:
        """Hold one tile of a level against OpenSlide's; one that differs settles it for good."""
        start, (width, height) = self._tiles.tile_around(level, corner)
        native = np.empty((height, width, 3), dtype=np.uint8)
        if not self._tiles.read(level, start, native, 1):
            return  # says nothing of the others
        if np.array_equal(native, self._read_by_openslide(level, start, (width, height))):
            self._proven.add(level)
        else:
            self._tiles.levels.pop(level, None)

    def _read_by_openslide(self, level: int, corner: Size, size: Size) -> Pixels:
        # OpenSlide wants level-0 coordinates and divides them by the downsample that it states.
        stated = self._slide.level_downsamples[level]
        location = (round(corner[0] * stated), round(corner[1] * stated))
        try:
            region = self._slide.read_region(location, level, size)
        except openslide.OpenSlideError as error:
            self._reopen()
            raise UnreadableSlide(
                f"the {size[0]} x {size[1]} px at {location} of level {level} cannot be decoded "
                f"({error})",
                where=self._path,
            ) from error
        return blend(without_rim(np.asarray(region)), self.background)

    def _reopen(self) -> None:
        # After one failure an OpenSlide handle refuses everything, also what is undamaged. The
        # old one is dropped, not closed: another thread may be reading from it.
        self._slide = openslide.OpenSlide(self._path)

    def close(self) -> None:
        self._slide.close()
        if "_tiles" in self.__dict__:
            self._tiles.close()


def _properties(slide: openslide.OpenSlide) -> dict[str, str]:
    """What a slide states; a name that damage made unreadable cannot be asked for, and is left."""
    given = {name: slide.properties.get(name) for name in slide.properties}
    return {name: value for name, value in given.items() if value is not None}


def _openslide_mpp(properties: dict[str, str]) -> tuple[str | float, str | float] | None:
    x = properties.get(openslide.PROPERTY_NAME_MPP_X)
    y = properties.get(openslide.PROPERTY_NAME_MPP_Y)
    ome = ome_mpp(properties.get("tiff.ImageDescription"))
    if ome is not None:  # says microns in words; the TIFF tag beside it is often a print setting
        return ome
    return None if x is None or y is None else (x, y)


def _tiff_codec(path: Path, size: Size) -> str | None:
    """Compression of the TIFF page that is level 0; None if the file is no TIFF."""
    try:
        with tifffile.TiffFile(path) as tiff:
            for page in itertools.islice(tiff.pages, _SCANNED_PAGES):
                key: Any = page.keyframe
                if (key.imagewidth, key.imagelength) == size:
                    return str(getattr(key.compression, "name", key.compression))
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError):
        return None  # not a TIFF, or one that only OpenSlide can walk through
    return None


def _property_codec(properties: dict[str, str]) -> str:
    for name, value in properties.items():
        if name.endswith(".IMAGE_FORMAT") or name == "dicom.TransferSyntaxUID":
            return value
    return "unknown"
