"""Rectangles of a slide put together from its own tiles, each of them decoded once."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storm_clinic.slides.jpeg_levels import JpegLevel

Size = tuple[int, int]
Pixels = NDArray[np.uint8]

# Decoded tiles that are kept, so that output tiles side by side, and mostly those one row further
# down, find them again: three rows of 256-px tiles across 40,000 px.
_KEPT_BYTES = 96 << 20
# Memory is taken in large pieces: the system hands these out in large pages, far more quickly.
_PIECE_BYTES = 8 << 20
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
        self._kept: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._unused: dict[Size, list[Pixels]] = {}
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

    def read(self, level: int, corner: Size, out: Pixels) -> bool:
        """Fill ``out``, uint8 (h, w, 3), with what one level shows from ``corner`` on.

        The rectangle, in the level's own coordinates, lies wholly inside it. False if one of its
        tiles is missing, damaged or of an unusual kind; ``out`` then holds anything.
        """
        layout = self.levels[level]
        (x, y), (height, width) = corner, out.shape[:2]
        across, down = layout.tile_size
        with self._lock:
            for row in range(y // down, (y + height - 1) // down + 1):
                top, bottom = max(y, row * down), min(y + height, (row + 1) * down)
                for column in range(x // across, (x + width - 1) // across + 1):
                    left, right = max(x, column * across), min(x + width, (column + 1) * across)
                    tile = self._tile(level, row * layout.across + column)
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
            self._kept.clear()
            self._unused.clear()

    def _tile(self, level: int, number: int) -> Pixels | None:
        key = level, number
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        layout = self.levels[level]
        stream = self._stream(layout, number)
        if stream is None:
            return None
        tile = self._room(layout.tile_size)
        try:
            layout.decode(stream, tile)
        except ValueError:
            self._unused[layout.tile_size].append(tile)
            return None
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

    def _room(self, tile_size: Size) -> Pixels:
        """Memory for one tile; that of the one used longest ago if there are enough."""
        unused = self._unused.setdefault(tile_size, [])
        width, height = tile_size
        n_new = max(1, _PIECE_BYTES // (width * height * 3))
        while not unused:
            if not self._kept or self._n_bytes + n_new * width * height * 3 <= _KEPT_BYTES:
                unused.extend(np.empty((n_new, height, width, 3), dtype=np.uint8))
                self._n_bytes += n_new * width * height * 3
            else:
                oldest = self._kept.popitem(last=False)[1]
                self._unused[oldest.shape[1], oldest.shape[0]].append(oldest)
        return unused.pop()
