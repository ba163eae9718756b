"""Rectangles of a slide put together from its own tiles, each of them decoded once.

Where output pixels are means of squares that no tile cuts, a tile is averaged as soon as it is
decoded, while it is in the processor's cache, and only the means are kept.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storm_clinic.slides.jpeg_levels import JpegLevel
from storm_clinic.slides.resample import average_squares

Size = tuple[int, int]
Pixels = NDArray[np.uint8]

# Decoded tiles that are kept at most, so that output tiles side by side, and mostly those one row
# further down, find them again: three rows of 256-px tiles across 40,000 px.
_KEPT_BYTES = 96 << 20
# Memory is taken in large pieces: the system hands these out in large pages, far more quickly.
_PIECE_BYTES = 8 << 20
_MOST_IN_A_PIECE = 1024  # tiles; of means of large squares very many would fit in
# Bytes of a stream for each of its tile's values; more is damage, and memory is not spent on it.
_LARGEST_STREAM = 4


class NativeTiles:
    """The tiles of some levels of one file, decoded where a rectangle touches them, not elsewhere.

    For threads it is one reader: they wait for one another. A forked process needs its own.

    Parameters
    ----------
    path : Path
    levels : mapping of int to JpegLevel
        The levels that can be read.
    """

    def __init__(self, path: Path, levels: Mapping[int, JpegLevel]) -> None:
        self.levels = dict(levels)
        self._path = path
        self._file: int | None = None
        self._kept: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._unused: dict[Size, list[Pixels]] = {}
        self._whole: dict[Size, Pixels] = {}  # where tiles are decoded that are averaged then
        self._n_bytes = 0
        self._lock = threading.Lock()

    def tile_around(self, level: int, corner: Size) -> tuple[Size, Size]:
        """Corner and size of the tile that a pixel lies in; only its part inside the level."""
        layout = self.levels[level]
        start = [at // side * side for at, side in zip(corner, layout.tile_size, strict=True)]
        size = [
            min(side, whole - first)
            for side, whole, first in zip(layout.tile_size, layout.size, start, strict=True)
        ]
        return (start[0], start[1]), (size[0], size[1])

    def read(self, level: int, corner: Size, out: Pixels, side: int) -> bool:
        """Fill ``out``, uint8 (h, w, 3), with what one level shows from ``corner`` on.

        Each pixel is the mean of a square of ``side`` x ``side`` of the level's. The rectangle, in
        the level's own coordinates, lies wholly inside it. False if one of its tiles is missing,
        damaged or of an unusual kind; ``out`` then holds anything.
        """
        layout = self.levels[level]
        height, width = out.shape[:2]
        if any(length % side for length in (*corner, *layout.tile_size)):
            pixels = np.empty((height * side, width * side, 3), dtype=np.uint8)
            is_read = self.read(level, corner, pixels, 1)
            out[:] = average_squares(pixels, (width, height))
            return is_read
        x, y, across, down = (length // side for length in (*corner, *layout.tile_size))
        with self._lock:
            for row in range(y // down, (y + height - 1) // down + 1):
                top, bottom = max(y, row * down), min(y + height, (row + 1) * down)
                for column in range(x // across, (x + width - 1) // across + 1):
                    left, right = max(x, column * across), min(x + width, (column + 1) * across)
                    number = row * layout.across + column
                    tile = self._tile(level, number, side, passed=y // down * layout.across)
                    if tile is None:
                        return False
                    out[top - y : bottom - y, left - x : right - x] = tile[
                        top - row * down : bottom - row * down,
                        left - column * across : right - column * across,
                    ]
        return True

    def close(self) -> None:
        """Give the file and the memory back."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None
            self._n_bytes = 0
            self._kept.clear()
            self._unused.clear()
            self._whole.clear()

    def _tile(self, level: int, number: int, side: int, *, passed: int) -> Pixels | None:
        """One tile; those of lower numbers than ``passed`` lie above what is read now."""
        key = level, number, side
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        layout = self.levels[level]
        stream = self._stream(layout, number)
        if stream is None:
            return None
        width, height = layout.tile_size
        size = width // side, height // side
        tile = self._room(size, (level, passed))
        if side == 1:
            whole = tile
        elif layout.tile_size in self._whole:
            whole = self._whole[layout.tile_size]
        else:
            whole = self._whole[layout.tile_size] = np.empty((height, width, 3), dtype=np.uint8)
        try:
            layout.decode(stream, whole)
        except ValueError:
            self._unused[size].append(tile)
            return None
        if side != 1:
            tile[:] = average_squares(whole, size)
        self._kept[key] = tile
        return tile

    def _stream(self, layout: JpegLevel, number: int) -> bytes | None:
        width, height = layout.tile_size
        start, n_bytes = int(layout.offsets[number]), int(layout.byte_counts[number])
        if not 0 < n_bytes <= _LARGEST_STREAM * width * height * 3:
            return None
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDONLY)
            stream = os.pread(self._file, n_bytes, start)
        except OSError:
            return None  # OpenSlide will meet the same, and say so
        return stream if len(stream) == n_bytes else None

    def _room(self, tile_size: Size, passed: tuple[int, int]) -> Pixels:
        """Memory for one tile; that of the one used longest ago if it is passed, or memory is full.

        A slide is read row by row, so what lies above the row that is read is hardly asked for
        again, and its memory is still in the processor's cache.
        """
        unused = self._unused.setdefault(tile_size, [])
        width, height = tile_size
        n_new = min(max(1, _PIECE_BYTES // (width * height * 3)), _MOST_IN_A_PIECE)
        n_bytes = n_new * width * height * 3
        while not unused:
            if self._n_bytes + n_bytes > _KEPT_BYTES:
                self._free_other_sizes(tile_size)
            is_full = self._n_bytes + n_bytes > _KEPT_BYTES
            level, number, _ = next(iter(self._kept), (-1, 0, 0))
            is_passed = level == passed[0] and number < passed[1]
            if self._kept and (is_full or is_passed):
                oldest = self._kept.popitem(last=False)[1]
                self._unused.setdefault((oldest.shape[1], oldest.shape[0]), []).append(oldest)
            else:
                unused.extend(np.empty((n_new, height, width, 3), dtype=np.uint8))
                self._n_bytes += n_bytes
        return unused.pop()

    def _free_other_sizes(self, tile_size: Size) -> None:
        """Give back what was kept for tiles of other sizes, as thumbnails want them."""
        for width, height in [size for size in self._unused if size != tile_size]:
            self._n_bytes -= len(self._unused.pop((width, height))) * width * height * 3
