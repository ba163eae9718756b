"""Files of simulated slides: tiled pyramids, and beside them where the planted morphology is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from storm_clinic.files import atomic_write
from storm_clinic.simulate.regions import REGION_MPP, Regions
from storm_clinic.slides.tissue import TissueMask

Pixels = NDArray[np.uint8]

_DOWNSAMPLES = (1, 4)
_TILE_PX = 256
_QUALITY = 85
_DESCRIPTION = "SIMULATED by storm_clinic. No tissue and no patient stands behind this picture."


def write_slide(path: Path, pixels: Pixels, mpp: float, *, kept_share: float = 1.0) -> None:
    """Write a pyramidal tiled JPEG TIFF, as OpenSlide reads it.

    Parameters
    ----------
    path : Path
        Replaced if it exists.
    pixels : uint8 array, shape (height, width, 3)
        RGB of level 0.
    mpp : float
        Microns per pixel, stated in the resolution tag.
    kept_share : float
        Below 1 the file is cut there, like a broken transfer.
    """
    per_cm = 10_000 / mpp
    with atomic_write(path) as part:
        with tifffile.TiffWriter(part) as writer:
            for number, downsample in enumerate(_DOWNSAMPLES):
                size = (pixels.shape[1] // downsample, pixels.shape[0] // downsample)
                level = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
                writer.write(
                    level,
                    tile=(_TILE_PX, _TILE_PX),
                    compression="jpeg",
                    compressionargs={"level": _QUALITY},
                    photometric="rgb",
                    resolution=(per_cm / downsample, per_cm / downsample),
                    resolutionunit="CENTIMETER",
                    metadata=None,
                    subfiletype=1 if number else 0,
                    description=None if number else _DESCRIPTION,
                    software="storm_clinic",
                    maxworkers=1,
                )
        if kept_share < 1:
            with part.open("rb+") as handle:
                handle.truncate(int(part.stat().st_size * kept_share))


def write_truth(path: Path, regions: Regions) -> None:
    """Write where the planted morphology is: a PNG of the whole slide at 8 µm/px, 255 = planted."""
    with atomic_write(path) as part:
        Image.fromarray(regions.planted_mask.astype(np.uint8) * 255).save(part, format="PNG")


def read_truth(path: Path) -> TissueMask:
    """Read where the planted morphology is; all False where a slide has none.

    `storm_clinic.slides.tiles.tissue_fraction` gives each tile's share of it.
    """
    with Image.open(path) as image:
        return TissueMask(np.asarray(image) > 0, REGION_MPP)
