"""Open any slide, settle its microns per pixel, and read any region at any of them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import MppError
from storm_clinic.slides.mpp import MppSource, Resolution, settle_mpp
from storm_clinic.slides.resample import (
    NEAREST_RATIO,
    Pixels,
    resample,
    source_span,
    square_side,
)
from storm_clinic.slides.sources import PixelSource, open_source

THUMBNAIL_MPP = 8.0
# Reading twice as fine as the scan is mostly invention; a little (0.69 to 0.5 µm/px) is usual.
MAX_ENLARGEMENT = 1.5
_STRIP_PX = 1 << 24  # source pixels in memory at once, 64 MB as RGBA


class Slide:
    """One open slide. Made by `open_slide`; a context manager.

    Safe in several processes: after a fork it opens the file again, and pickling carries the
    path, not the handle. Coordinates are always pixels of the whole level 0; the area that a
    scanner did not visit reads as background.

    Attributes
    ----------
    path : Path
    vendor : str
        OpenSlide's name of the format, or png, jpeg, tiff.
    size : (width, height)
        Level-0 pixels.
    level_sizes : tuple of (width, height)
    level_downsamples : tuple of float
        Level-0 pixels per pixel of each level.
    """

    def __init__(
        self,
        path: Path,
        *,
        mpp_override: float | None,
        mpp_manifest: float | None,
        require_mpp: bool,
    ) -> None:
        self.path = path
        self._settings: dict[str, Any] = {
            "mpp_override": mpp_override,
            "mpp_manifest": mpp_manifest,
            "require_mpp": require_mpp,
        }
        self._handle: PixelSource = open_source(path)
        self._opened_by = os.getpid()
        self._inherited: list[PixelSource] = []
        self.vendor = self._handle.vendor
        self.level_sizes = self._handle.level_sizes
        self.level_downsamples = self._handle.level_downsamples
        self.size = self.level_sizes[0]
        try:
            self._resolution: Resolution | MppError = settle_mpp(
                override=mpp_override,
                manifest=mpp_manifest,
                slide=self._handle.own_mpp,
                where=path,
            )
        except MppError as error:
            if require_mpp:
                self._handle.close()
                raise
            self._resolution = error

    @property
    def mpp(self) -> float:
        """Microns per pixel of level 0.

        Raises
        ------
        MppError
            If it was opened with ``require_mpp=False`` and none could be settled.
        """
        return self._settled().mpp

    @property
    def mpp_source(self) -> MppSource:
        """Who stated the microns per pixel: "override", "manifest" or "slide"."""
        return self._settled().source

    @property
    def codec(self) -> str:
        """How level 0 is compressed, or "unknown"."""
        return self._source.codec

    @property
    def digest(self) -> str:
        """Identity of the content: OpenSlide's quickhash-1, else "sha256:" of the file."""
        return self._source.digest

    def read(
        self, corner_level0_px: tuple[int, int], size_px: int | tuple[int, int], mpp: float
    ) -> Pixels:
        """Read a region as it looks at ``mpp``.

        The coarsest level that is at least as fine is read and resampled by area, so that the
        same tissue gives the same pixels whatever the scan's magnification was. Levels within 1%
        are taken pixel by pixel. Parts outside the slide are filled with its background.

        Parameters
        ----------
        corner_level0_px : (x, y)
            Top-left corner, level-0 pixels.
        size_px : int or (width, height)
            Pixels of the result.
        mpp : float
            Microns per pixel of the result.

        Returns
        -------
        uint8 array, shape (height, width, 3)
            RGB.

        Raises
        ------
        UnreadableSlide
            If the region cannot be decoded. Other regions can still be read afterwards.
        MppError
            If the scan is more than 1.5 times coarser than ``mpp``.
        """
        width, height = (size_px, size_px) if isinstance(size_px, int) else size_px
        made = np.empty((height, width, 3), dtype=np.uint8)
        self.read_into(made, corner_level0_px, mpp)
        return made

    def read_into(self, out: Pixels, corner_level0_px: tuple[int, int], mpp: float) -> None:
        """Read a region as `read` does, into a uint8 array of shape (height, width, 3)."""
        height, width = out.shape[:2]
        scale = mpp / self.mpp
        level = self._level_for(scale, mpp)
        downsample = self.level_downsamples[level]
        step = scale / downsample
        x, y = (position / downsample for position in corner_level0_px)
        rows = max(1, int(_STRIP_PX / (width * step) / step))
        for first in range(0, height, rows):
            self._read_strip(level, (x, y + first * step), step, out[first : first + rows])

    def thumbnail(self, mpp: float = THUMBNAIL_MPP) -> tuple[Pixels, float]:
        """The whole slide at about ``mpp``, and the exact microns per pixel of it.

        A thumbnail pixel is a whole number of level-0 pixels, so the exact value differs a
        little. The last row and column may reach over the slide's edge, onto background.
        """
        factor = max(1, round(mpp / self.mpp))
        width, height = (math.ceil(side / factor) for side in self.size)
        return self.read((0, 0), (width, height), factor * self.mpp), factor * self.mpp

    def close(self) -> None:
        """Give file handles and memory back."""
        if self._opened_by == os.getpid():
            self._handle.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _open_again, (self.path, self._settings)

    @property
    def _source(self) -> PixelSource:
        if self._opened_by != os.getpid():
            # A forked handle shares its file position with the parent's. It is kept, not closed:
            # a lock inside may have been held by a thread that this process does not have.
            self._inherited.append(self._handle)
            self._handle = open_source(self.path)
            self._opened_by = os.getpid()
        return self._handle

    def _settled(self) -> Resolution:
        if isinstance(self._resolution, MppError):
            raise self._resolution
        return self._resolution

    def _level_for(self, scale: float, mpp: float) -> int:
        if scale * MAX_ENLARGEMENT < 1:
            raise MppError(
                f"its finest pixels are {self.mpp:g} µm, too coarse to be read at {mpp:g}",
                where=self.path,
                fix="Choose an encoder that works at coarser pixels, or another scan.",
            )
        fine_enough = [
            level
            for level, downsample in enumerate(self.level_downsamples)
            if downsample <= scale * (1 + NEAREST_RATIO)
        ]
        return max(fine_enough, key=self.level_downsamples.__getitem__, default=0)

    def _read_strip(
        self, level: int, corner: tuple[float, float], step: float, out: Pixels
    ) -> None:
        size = out.shape[1], out.shape[0]
        left, right = source_span(corner[0], step, size[0])
        top, bottom = source_span(corner[1], step, size[1])
        span = right - left, bottom - top
        side = square_side(span, step, size)
        if side == 1:
            self._read_level(level, (left, top), out)
            return
        across, down = self.level_sizes[level]
        if side is not None and min(left, top) >= 0 and right <= across and bottom <= down:
            self._source.read(level, (left, top), out, side)
            return
        pixels = np.empty((span[1], span[0], 3), dtype=np.uint8)
        self._read_level(level, (left, top), pixels)
        out[:] = resample(pixels, (corner[0] - left, corner[1] - top), step, size)

    def _read_level(self, level: int, corner: tuple[int, int], out: Pixels) -> None:
        """Fill ``out`` with a rectangle of one level; background where it lies outside."""
        size = out.shape[1], out.shape[0]
        spans = [
            _inside(start, length, whole)
            for start, length, whole in zip(corner, size, self.level_sizes[level], strict=True)
        ]
        (left, right), (top, bottom) = spans
        if (right - left, bottom - top) == size:
            self._source.read(level, corner, out, 1)
            return
        out[:] = self._source.background
        if right <= left or bottom <= top:
            return
        x, y = left - corner[0], top - corner[1]
        end = x + right - left, y + bottom - top
        self._source.read(level, (left, top), out[y : end[1], x : end[0]], 1)
        _repeat_rim(out, end)


def open_slide(
    path: str | Path,
    *,
    mpp_override: float | None = None,
    mpp_manifest: float | None = None,
    require_mpp: bool = True,
) -> Slide:
    """Open a slide or a plain image.

    Parameters
    ----------
    path : str or Path
        Anything OpenSlide opens, or a PNG, JPEG or flat TIFF.
    mpp_override : float, optional
        Microns per pixel that hold whatever others state.
    mpp_manifest : float, optional
        Microns per pixel that the cohort's slides table states.
    require_mpp : bool
        With False a slide whose microns per pixel cannot be settled is opened all the same; the
        error comes when ``Slide.mpp`` is asked for, or a region is read.

    Raises
    ------
    UnreadableSlide
        If the file is missing, damaged, or no slide.
    MppError
        If microns per pixel are unknown, contradictory or absurd; see `settle_mpp`.
    """
    return Slide(
        Path(path),
        mpp_override=mpp_override,
        mpp_manifest=mpp_manifest,
        require_mpp=require_mpp,
    )


def _open_again(path: Path, settings: dict[str, Any]) -> Slide:
    return Slide(path, **settings)


def _inside(start: int, length: int, whole: int) -> tuple[int, int]:
    return max(0, start), min(whole, start + length)


def _repeat_rim(canvas: NDArray[np.uint8], end: tuple[int, int]) -> None:
    """Repeat the last column and row once, where a level ends within the pixel that was asked for.

    A level's size is rounded down; without this the slide's last half pixel would be background.
    """
    x, y = end
    if 0 < x == canvas.shape[1] - 1:
        canvas[:y, x] = canvas[:y, x - 1]
    if 0 < y == canvas.shape[0] - 1:
        canvas[y] = canvas[y - 1]
