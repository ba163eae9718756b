"""A large slide for benchmarks, put together from the encoded tiles of a small real one.

A whole slide is too large to keep for a benchmark, and an invented one would decode at an invented
speed. So the JPEG tiles of a real region are laid side by side, unchanged, as often as is wanted;
below lie levels 4 and 16 times smaller, as scanners write them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

REAL = "slides/CMU-1-Small-Region.svs"
_DOWNSAMPLES = (4, 16)


def add_slide_option(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("STORM_CLINIC_DATA")
    parser.add_argument(
        "--slide",
        type=Path,
        default=Path(data) / REAL if data else None,
        required=data is None,
        help=f"a small tiled JPEG slide; by default {REAL} below $STORM_CLINIC_DATA",
    )


def write_mosaic(path: Path, real: Path, *, times: int, mpp: float) -> Path:
    """Lay the whole tiles of ``real``'s level 0 ``times`` by ``times``; state ``mpp``."""
    with tifffile.TiffFile(real) as tiff:
        page: Any = tiff.pages[0]
        side, columns, rows = page.tilewidth, *_whole_tiles(page)
        across = -(-page.imagewidth // side)
        numbers = [[row * across + column for column in range(columns)] for row in range(rows)]
        streams = dict(_streams(tiff, page, {n for row in numbers for n in row}))
        pixels = page.asarray()[: rows * side, : columns * side]
        tables = page.jpegtables
    mosaic = (streams[n] for _ in range(times) for row in numbers for n in row * times)
    height, width = rows * side * times, columns * side * times
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            mosaic,
            shape=(height, width, 3),
            dtype=np.uint8,
            tile=(side, side),
            compression="jpeg",
            jpegtables=tables,
            photometric="rgb",
            metadata=None,
            description=f"Aperio Image Library v11.2.1\r\nJPEG/RGB|AppMag = 20|MPP = {mpp}",
        )
        for factor in _DOWNSAMPLES:
            size = columns * side // factor, rows * side // factor
            small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            writer.write(
                np.tile(small, (times, times, 1)),
                tile=(side // 16 * 16, side // 16 * 16),
                compression="jpeg",
                photometric="rgb",
                metadata=None,
                subfiletype=1,
            )
    return path


def _whole_tiles(page: Any) -> tuple[int, int]:
    return page.imagewidth // page.tilewidth, page.imagelength // page.tilelength


def _streams(tiff: Any, page: Any, numbers: set[int]) -> Iterator[tuple[int, bytes]]:
    for number in numbers:
        tiff.filehandle.seek(page.dataoffsets[number])
        yield number, tiff.filehandle.read(page.databytecounts[number])
