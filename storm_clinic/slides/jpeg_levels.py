"""Levels of a TIFF slide whose tiles are JPEG streams of their own, and the decoding of one.

What OpenSlide does with such a tile is done here with the same library, libjpeg-turbo, in the same
way: shared tables from the directory, the kind of colours from the directory and not from the
stream's own markers, exact DCT, smooth upsampling, and any warning an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

Size = tuple[int, int]

# Formats whose levels OpenSlide lays as one plain grid of tiles from the top-left corner. Others
# shift, overlap or crop theirs; a Hamamatsu NDPI has no tiles but one stream a level.
_PLAIN_GRIDS = ("aperio", "generic-tiff")
_MOST_PAGES = 64  # a slide's TIFF has a dozen; do not walk through a z-stack of thousands
_LARGEST_TILE_PX = 1 << 24
_JPEG, _CONTIGUOUS, _RGB, _YCBCR = 7, 1, 2, 6  # values of TIFF tags
_REDUCED = 1

_START = b"\xff\xd8"
_DHT, _DQT, _DRI, _SOS, _EOI, _COMMENT = 0xC4, 0xDB, 0xDD, 0xDA, 0xD9, 0xFE
_SEQUENTIAL = (0xC0, 0xC1)
_APPLICATION = range(0xE0, 0xF0)


@dataclass(frozen=True, eq=False)
class JpegLevel:
    """One level, tile by tile.

    Attributes
    ----------
    size, tile_size : (width, height)
        Pixels. Tiles of the last column and row reach over the level's edge.
    across : int
        Tiles in a row.
    offsets, byte_counts : int64 array, shape (n_tiles,)
        Where in the file each tile's stream lies, row by row; 0 for a tile that is missing.
    head : bytes
        Begins every stream: how colours are stored, and the tables that all tiles share.
    """

    size: Size
    tile_size: Size
    across: int
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    head: bytes

    def decode(self, stream: bytes, out: NDArray[np.uint8]) -> None:
        """Decode one tile's stream into ``out``, uint8 (tile_height, tile_width, 3), RGB.

        Raises
        ------
        ValueError
            If it is damaged or cut, or not of the plain kind that is decoded here. What stands in
            ``out`` is then of no use.
        """
        simplejpeg.decode_jpeg(
            b"".join((self.head, *_needed_parts(stream, self.tile_size))), "RGB", buffer=out
        )


def find_jpeg_levels(
    path: Path, vendor: str, level_sizes: tuple[Size, ...]
) -> dict[int, JpegLevel]:
    """Levels whose tiles can be decoded one by one.

    Parameters
    ----------
    path : Path
        A file that OpenSlide opens.
    vendor : str
        OpenSlide's name of the format.
    level_sizes : tuple of (width, height)
        As OpenSlide states them.

    Returns
    -------
    dict
        By level. Without an entry are levels of other compressions or layouts, and those that
        are not found without doubt.
    """
    if vendor not in _PLAIN_GRIDS:
        return {}
    try:
        with tifffile.TiffFile(path) as tiff:
            pages: list[Any] = list(itertools.islice(tiff.pages, _MOST_PAGES + 1))
            if len(pages) > _MOST_PAGES:
                return {}
            tiled = [page for page in pages if page.keyframe.is_tiled]
            if vendor == "aperio" and any(0 in page.databytecounts for page in tiled):
                return {}  # OpenSlide paints such tiles, and coarser ones, from finer levels
            return dict(_matched(tiled, level_sizes))
    except Exception:  # noqa: BLE001 - on a damaged directory tifffile raises nearly anything
        return {}  # OpenSlide opened it and has the last word


def _matched(pages: list[Any], level_sizes: tuple[Size, ...]) -> Iterator[tuple[int, JpegLevel]]:
    for level, size in enumerate(level_sizes):
        fitting = [page for page in pages if (page.imagewidth, page.imagelength) == size]
        if len(fitting) == 1 and level_sizes.count(size) == 1 and _is_plain_jpeg(fitting[0]):
            yield level, _jpeg_level(fitting[0])


def _is_plain_jpeg(page: Any) -> bool:
    across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    return (
        page.compression == _JPEG
        and page.photometric in (_RGB, _YCBCR)
        and page.planarconfig == _CONTIGUOUS
        and (page.bitspersample, page.samplesperpixel, page.imagedepth) == (8, 3, 1)
        and page.tilewidth * page.tilelength <= _LARGEST_TILE_PX
        and len(page.dataoffsets) == len(page.databytecounts) == across * down
    )


def _jpeg_level(page: Any) -> JpegLevel:
    shared = b"" if page.jpegtables is None else bytes(page.jpegtables)
    tables = [
        shared[start:end]
        for marker, start, end in (_segments(shared) if shared else ())
        if marker in (_DHT, _DQT)
    ]
    return JpegLevel(
        size=(page.imagewidth, page.imagelength),
        tile_size=(page.tilewidth, page.tilelength),
        across=-(-page.imagewidth // page.tilewidth),
        offsets=np.array(page.dataoffsets, dtype=np.int64),
        byte_counts=np.array(page.databytecounts, dtype=np.int64),
        head=b"".join([_START, _adobe(is_ycbcr=page.photometric == _YCBCR), *tables]),
    )


def _adobe(*, is_ycbcr: bool) -> bytes:
    """An Adobe APP14 segment: it tells a decoder whether colours are YCbCr or RGB."""
    version, flags = 100, 0
    body = b"Adobe" + b"".join(n.to_bytes(2, "big") for n in (version, flags, flags))
    return b"\xff\xee" + (len(body) + 3).to_bytes(2, "big") + body + bytes([is_ycbcr])


def _segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment; from the start of scan on all is one segment.

    Raises
    ------
    ValueError
        If something else lies between or before them.
    """
    if not stream.startswith(_START):
        raise ValueError("does not begin as JPEG does")
    at = len(_START)
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == _SOS:
            end = len(stream)
        yield marker, at, end
        at = end
    if stream[at : at + 2] not in (b"", b"\xff\xd9"):
        raise ValueError(f"no JPEG segment begins at byte {at}")


def _needed_parts(stream: bytes, tile_size: Size) -> Iterator[bytes]:
    """What of a tile's stream decides on its pixels, without its own statement of colours."""
    for marker, start, end in _segments(stream):
        if marker in _SEQUENTIAL:
            height, width = (
                int.from_bytes(stream[k : k + 2], "big") for k in (start + 5, start + 7)
            )
            if (width, height, stream[start + 9]) != (*tile_size, 3):
                raise ValueError(f"holds {width} x {height} px, not {tile_size}, or other colours")
        elif marker in _APPLICATION or marker == _COMMENT:
            continue
        elif marker not in (_DHT, _DQT, _DRI, _SOS):
            raise ValueError(f"holds a segment {marker:#x} of another kind of JPEG")
        yield stream[start:end]
