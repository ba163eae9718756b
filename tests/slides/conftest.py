"""Slides that tests write themselves: lossless pyramids whose every pixel is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile


def _halve(pixels: np.ndarray, times: int) -> np.ndarray:
    height, width = (side // times * times for side in pixels.shape[:2])
    blocks = pixels[:height, :width].astype(float)
    blocks = blocks.reshape(height // times, times, width // times, times, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


@pytest.fixture(scope="session")
def shrink() -> Callable[[np.ndarray, int], np.ndarray]:
    """Area mean over blocks of n x n pixels, by brute force."""
    return _halve


@pytest.fixture(scope="session")
def write_slide() -> Callable[..., Path]:
    """Write a tiled TIFF that OpenSlide opens as generic-tiff (or aperio, by its description)."""

    def write(
        path: Path,
        pixels: np.ndarray,
        *,
        mpp: float | tuple[float, float] | None = None,
        downsamples: tuple[int, ...] = (1,),
        description: str | None = None,
        compression: str | None = None,
        unit: str = "CENTIMETER",
    ) -> Path:
        x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        resolution = None if x is None else (10_000 / x, 10_000 / y)
        with tifffile.TiffWriter(path) as writer:
            for number, downsample in enumerate(downsamples):
                writer.write(
                    _halve(pixels, downsample),
                    tile=(128, 128),
                    compression=compression,
                    photometric="rgb",
                    resolution=resolution,
                    resolutionunit=unit if resolution else None,
                    metadata=None,
                    subfiletype=1 if number else 0,
                    description=description if number == 0 else None,
                )
        return path

    return write


@pytest.fixture(scope="session")
def texture() -> np.ndarray:
    """Smooth coloured texture, 900 x 1200 px: any shift or wrong scale changes every pixel."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:900, 0:1200]
    channels = []
    for _ in range(3):
        wave = np.zeros(x.shape)
        for length in (11.0, 23.0, 57.0, 190.0):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            along = x * np.cos(angle) + y * np.sin(angle)
            wave += np.sin(2 * np.pi * along / length + phase)
        channels.append(128 + 28 * wave)
    return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def paint_tissue() -> Callable[..., np.ndarray]:
    """A thumbnail: white glass with the given stained discs (x, y, radius, colour).

    ``grain`` is the texture inside the discs, in grey values.
    """

    def paint(
        size: tuple[int, int],
        *discs: tuple[int, int, int, tuple[int, int, int]],
        glass: tuple[int, int, int] = (243, 242, 244),
        grain: float = 0.0,
    ) -> np.ndarray:
        rng = np.random.default_rng(3)
        picture = np.full((size[1], size[0], 3), glass, dtype=float)
        y, x = np.mgrid[0 : size[1], 0 : size[0]]
        for centre_x, centre_y, radius, colour in discs:
            inside = (x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2
            picture[inside] = colour
            picture[inside] += rng.normal(0, grain, (int(inside.sum()), 1))
        picture += rng.normal(0, 1.5, picture.shape)
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8)

    return paint
