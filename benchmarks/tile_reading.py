"""How fast is one tile read? Ours beside OpenSlide's `read_region` and Pillow's `convert`.

    python benchmarks/tile_reading.py [--slide SLIDE] [--megapixels 40] [--repetitions 5]

The slide is a mosaic of the encoded tiles of a real one. Ours is what a reader process of `extract`
does for its tasks: batches of 64 tiles, uint8, into shared memory. The peer is the usual loop over
`read_region(...).convert("RGB")`, with OpenCV's area resampling where tiles are coarser than the
scan, into an array. Each way opens the slide anew in every repetition, and reads tiles row by row.
That all of them give the same pixels is checked. What nobody who decodes with libjpeg-turbo can
pass stands beside: its decoding of the JPEG tiles touched, each once, from and into memory that is
in the cache.

Last comes what decoding at half scale inside JPEG would gain, and what it would do to features; it
is not offered.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import openslide
import simplejpeg
from measuring import Timings, interleaved, section, table
from mosaic_slide import add_slide_option, write_mosaic
from numpy.typing import NDArray

from storm_clinic.features.tiling import ReaderSettings, ReadTask, SlideJob, TileReader, TilesRead
from storm_clinic.slides.jpeg_levels import JpegLevel, find_jpeg_levels
from storm_clinic.slides.tiles import TileGeometry, lay_tiles
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.slides.whole_slide import READ_WITH

Pixels = NDArray[np.uint8]

BATCH = 64
SCAN_MPP = 0.25
PEER, OURS, BOUND = "read_region + convert", "ours", "libjpeg-turbo alone"
CASES = {
    "256 px, as scanned": TileGeometry(256, SCAN_MPP),
    "224 px, 2 to 1 by area": TileGeometry(224, 2 * SCAN_MPP),
    "224 px, 1.98 to 1 by area": TileGeometry(224, 1.98 * SCAN_MPP),
}
PACKAGES = ("storm-clinic", "openslide-python", "openslide-bin", "pillow", "simplejpeg", "numpy")


def plain_loop(path: Path, corners: NDArray[np.int64], geometry: TileGeometry) -> Pixels:
    side = round(geometry.tile_level0_px(SCAN_MPP))
    tiles = np.empty((len(corners), geometry.tile_px, geometry.tile_px, 3), np.uint8)
    with openslide.OpenSlide(path) as slide:
        for row, (x, y) in enumerate(corners.tolist()):
            pixels = np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))
            if side != geometry.tile_px:
                size = (geometry.tile_px, geometry.tile_px)
                pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            tiles[row] = pixels
    return tiles


class OurLoader:
    """A reader process's part, in this process: its shared memory is there before it starts."""

    def __init__(self, path: Path, corners: NDArray[np.int64], geometry: TileGeometry) -> None:
        n_slots = -(-len(corners) // BATCH)
        self._settings = ReaderSettings(geometry, TissueParameters(), n_slots, BATCH, path.parent)
        shared = mmap.mmap(-1, self._settings.n_bytes)
        self._slots = np.frombuffer(shared, np.uint8).reshape(self._settings.shape)
        self._job, self._corners = SlideJob("mosaic", path), corners

    def read(self, read_with: str) -> Pixels:
        os.environ[READ_WITH] = read_with
        reader = TileReader(self._settings, self._slots)
        for slot in range(len(self._slots)):
            first = slot * BATCH
            corners = self._corners[first : first + BATCH]
            reply = reader.answer(ReadTask(self._job, first, corners, slot))
            assert isinstance(reply, TilesRead)
            assert not reply.failed
        return self._slots.reshape(-1, *self._settings.shape[2:])[: len(self._corners)]


class Decoding:
    """Decoding every native tile that some tiles touch, and nothing else."""

    def __init__(self, path: Path, corners: NDArray[np.int64], side: int) -> None:
        with openslide.OpenSlide(path) as slide:
            self._level = find_jpeg_levels(path, "aperio", slide.level_dimensions)[0]
        native = np.array(self._level.tile_size)
        touched = {
            row * self._level.across + column
            for first, last in zip(corners // native, (corners + side - 1) // native, strict=True)
            for row in range(first[1], last[1] + 1)
            for column in range(first[0], last[0] + 1)
        }
        whole = path.read_bytes()
        spans = ((self._level.offsets[k], self._level.byte_counts[k]) for k in sorted(touched))
        self._streams = [whole[start : start + n] for start, n in spans]
        self._pixels = np.empty((native[1], native[0], 3), np.uint8)

    def __call__(self) -> None:
        for stream in self._streams:
            self._level.decode(stream, self._pixels)


def measure(
    path: Path, geometry: TileGeometry, megapixels: float, repetitions: int
) -> tuple[Timings, int]:
    n_tiles = round(megapixels * 1e6 / geometry.tile_level0_px(SCAN_MPP) ** 2)
    with openslide.OpenSlide(path) as slide:
        corners = lay_tiles(slide.dimensions, SCAN_MPP, geometry)[:n_tiles]
    loader = OurLoader(path, corners, geometry)
    calls: dict[str, Callable[[], Pixels]] = {
        PEER: partial(plain_loop, path, corners, geometry),
        OURS: partial(loader.read, ""),
    }
    alone = Decoding(path, corners, round(geometry.tile_level0_px(SCAN_MPP)))
    slow = loader.read("openslide").copy()
    assert np.array_equal(calls[OURS](), slow)
    if float(geometry.mpp / SCAN_MPP).is_integer():  # else the peer rounds the tile's side
        assert np.array_equal(calls[PEER](), slow)
    return interleaved(calls | {BOUND: alone}, repetitions=repetitions, warm_up=0), len(corners)


def half_scale(path: Path, repetitions: int) -> list[str]:
    """Decode real tiles whole and average 2 x 2, and decode them at half scale."""
    with openslide.OpenSlide(path) as slide:
        level = find_jpeg_levels(path, "aperio", slide.level_dimensions)[0]
    width, height = (side // 2 for side in level.tile_size)
    whole = path.read_bytes()
    spans = zip(level.offsets.tolist(), level.byte_counts.tolist(), strict=True)
    streams = [whole[start : start + n] for start, n in list(dict.fromkeys(spans))]
    complete = [level.head + stream[2:] for stream in streams]

    def by_area() -> list[Pixels]:
        return [_halved(level, stream, (width, height)) for stream in streams]

    def by_dct() -> list[Pixels]:
        wanted = {"min_height": height, "min_width": width, "min_factor": 2}
        return [simplejpeg.decode_jpeg(stream, "RGB", **wanted) for stream in complete]

    times = interleaved({"area": by_area, "dct": by_dct}, repetitions=repetitions)
    mean, scaled = np.stack(by_area()), np.stack(by_dct())
    apart = np.abs(mean.astype(int) - scaled)
    return [
        str(times.ratio("area", "dct")),
        f"{apart.mean():.2f}",
        f"{np.percentile(apart, 99):.0f}",
        f"{apart.max()}",
        _centred_cosine(mean, scaled),
    ]


def _halved(level: JpegLevel, stream: bytes, size: tuple[int, int]) -> Pixels:
    pixels = np.empty((level.tile_size[1], level.tile_size[0], 3), np.uint8)
    level.decode(stream, pixels)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _centred_cosine(first: Pixels, second: Pixels) -> str:
    """Least and median cosine of the demo encoder's features, their common mean taken off."""
    import torch

    from storm_clinic.encoders.hub import load_encoder

    torch.set_num_threads(1)
    encoder = load_encoder("efficientnet-lite0", device="cpu")
    side = encoder.card.tile_px
    embedded = []
    for tiles in (first, second):
        whole = np.stack([cv2.resize(tile, (side, side)) for tile in tiles[:64]])
        embedded.append(encoder.encode(torch.from_numpy(whole)).numpy().astype(np.float64))
    centre = embedded[0].mean(axis=0)
    one, other = (rows - centre for rows in embedded)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = (one * other).sum(axis=1) / norms
    return f"{cosine.min():.3f} / {np.median(cosine):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    add_slide_option(parser)
    parser.add_argument("--megapixels", type=float, default=40)
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        path = write_mosaic(Path(scratch) / "mosaic.svs", given.slide, times=5, mpp=SCAN_MPP)
        for name, geometry in CASES.items():
            times, n_tiles = measure(path, geometry, given.megapixels, given.repetitions)
            ways = (PEER, OURS, BOUND)
            per_tile = [f"{times.median(way) / n_tiles * 1e3:.2f}" for way in ways]
            ratios = [times.ratio(PEER, way) for way in (OURS, BOUND)]
            rows.append([name, *per_tile, *ratios])
        scaled = half_scale(path, given.repetitions)
    print(
        section(
            "Reading tiles",
            packages=PACKAGES,
            body=[
                f"Mosaic of {given.slide.name}'s tiles, {given.megapixels:g} million of its pixels "
                "at a time, opening included; "
                "milliseconds a tile; ratios of medians (least..greatest of a repetition).",
                table(["tile", PEER, OURS, BOUND, "peer / ours", "peer / libjpeg-turbo"], rows),
                "Decoding at half scale inside JPEG, instead of whole and 2 x 2 averaged; not "
                "offered, since pixels and features change:",
                table(
                    [
                        "time of area / of half scale",
                        "mean difference (grey values)",
                        "99th percentile",
                        "largest",
                        "centred cosine of features, least / median",
                    ],
                    [scaled],
                ),
            ],
        )
    )


if __name__ == "__main__":
    main()
