"""What lies where on a section: tissue, tumour, fat, and the planted morphology."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

REGION_MPP = 8.0  # regions are drawn this coarse, then enlarged
_TISSUE_SHARE = 0.72
_TUMOUR_SHARE = 0.68


@dataclass(frozen=True, eq=False)
class Regions:
    """Fields at 8 µm/px that are positive inside and smooth, so that they can be enlarged.

    Attributes
    ----------
    tissue, tumour, planted, fat : float32 array, shape (height, width)
        Tumour counts only in tissue, planted only in tumour; fat is neither.
    """

    tissue: Field
    tumour: Field
    planted: Field
    fat: Field

    @property
    def planted_mask(self) -> NDArray[np.bool_]:
        """Where the planted morphology is, at 8 µm/px."""
        return (self.tissue > 0) & (self.fat <= 0) & (self.tumour > 0) & (self.planted > 0)

    def classes(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Class of each pixel at a size (width, height): `GLASS`, `STROMA`, `LOW`, ...."""
        tissue, tumour, planted, fat = (
            cv2.resize(field, size, interpolation=cv2.INTER_LINEAR) > 0
            for field in (self.tissue, self.tumour, self.planted, self.fat)
        )
        classes = np.full(tissue.shape, STROMA, dtype=np.uint8)
        classes[tumour] = LOW
        classes[tumour & planted] = PLANTED
        classes[fat] = FAT
        classes[~tissue] = GLASS
        return classes


GLASS, STROMA, LOW, PLANTED, FAT = range(5)


def lay_regions(
    size_um: tuple[int, int], planted_share: float, rng: np.random.Generator
) -> Regions:
    """Draw the regions of one section at random.

    Parameters
    ----------
    size_um : (width, height)
        Of the slide, microns.
    planted_share : float
        Share of the tumour with the planted morphology.
    rng : Generator
        Source of randomness.
    """
    shape = (round(size_um[1] / REGION_MPP), round(size_um[0] / REGION_MPP))
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    outline = 0.9 - (x**4 + y**4) ** 0.25 + 0.10 * _noise(shape, 90.0, rng)
    tissue = _with_share(outline, np.ones(shape, bool), _TISSUE_SHARE)
    fat = _with_share(_noise(shape, 70.0, rng), tissue > 0, rng.uniform(0.0, 0.12))
    tumour = _with_share(_noise(shape, 75.0, rng), (tissue > 0) & (fat <= 0), _TUMOUR_SHARE)
    inside = (tissue > 0) & (fat <= 0) & (tumour > 0)
    planted = _with_share(_noise(shape, 60.0, rng), inside, planted_share)
    return Regions(tissue, tumour, planted, fat)


def _noise(shape: tuple[int, int], scale_um: float, rng: np.random.Generator) -> Field:
    """Smooth noise of standard deviation 1 with structures of about ``scale_um``."""
    white = rng.standard_normal(shape).astype(np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), scale_um / 2 / REGION_MPP)
    return np.asarray(smooth / smooth.std(), dtype=np.float32)


def _with_share(field: NDArray[np.floating], inside: NDArray[np.bool_], share: float) -> Field:
    """Shift a field so that it is positive on ``share`` of the pixels ``inside``."""
    level = np.quantile(field[inside], 1 - share) if inside.any() else np.inf
    return np.asarray(field - level, dtype=np.float32)
