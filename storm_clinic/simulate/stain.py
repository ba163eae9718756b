"""Colours of a section from how much haematoxylin and eosin each pixel holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Stain:
    """How a laboratory stains.

    Attributes
    ----------
    haematoxylin, eosin : triple of float
        Optical density in red, green and blue, up to a factor.
    strength : (haematoxylin, eosin)
        Optical density of a full value of 255.
    glass : triple of int
        Colour of nothing.
    """

    haematoxylin: Triple
    eosin: Triple
    strength: tuple[float, float]
    glass: tuple[int, int, int]

    def varied(self, rng: np.random.Generator, spread: float) -> Stain:
        """The same stain on another day: its strengths differ by about ``spread``."""
        first, second = np.exp(rng.normal(0, spread, 2)).tolist()
        strength = (self.strength[0] * first, self.strength[1] * second)
        return Stain(self.haematoxylin, self.eosin, strength, self.glass)


def colour_section(haematoxylin: Grey, eosin: Grey, stain: Stain) -> Grey:
    """RGB of a section by the law of Beer and Lambert.

    Parameters
    ----------
    haematoxylin, eosin : uint8 array, shape (height, width)
        Amount of each dye.
    stain : Stain
        Colours and strengths of the dyes.

    Returns
    -------
    uint8 array, shape (height, width, 3)

    References
    ----------
    Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23 (2001) 291-299.
    """
    table = _colours(stain)
    index = cv2.addWeighted(haematoxylin, 256.0, eosin, 1.0, 0.0, dtype=cv2.CV_32S)
    packed = table[np.asarray(index, dtype=np.int32)]
    rgbx = packed.view(np.uint8).reshape(*packed.shape, 4)
    return np.asarray(cv2.cvtColor(rgbx, cv2.COLOR_RGBA2RGB), dtype=np.uint8)


@lru_cache(maxsize=8)
def _colours(stain: Stain) -> NDArray[np.uint32]:
    """Colour of each pair of amounts, four bytes in one number: one look-up a pixel."""
    amount = np.arange(256) / 255
    density = amount[:, None, None] * stain.strength[0] * np.array(
        _unit(stain.haematoxylin)
    ) + amount[None, :, None] * stain.strength[1] * np.array(_unit(stain.eosin))
    rgb = np.rint(np.array(stain.glass) * np.exp(-density))
    padded = np.concatenate([rgb, np.zeros((256, 256, 1))], axis=-1).astype(np.uint8)
    return np.ascontiguousarray(padded).view(np.uint32).reshape(-1)


def _unit(vector: Triple) -> Triple:
    length = float(np.linalg.norm(vector))
    red, green, blue = (part / length for part in vector)
    return red, green, blue
