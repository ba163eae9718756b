"""A stained section: regions filled with texture and nuclei, coloured, now and then inked."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from storm_clinic.simulate.nuclei import KINDS, LYMPHOCYTE, Kind, draw_variants, scatter, stamp
from storm_clinic.simulate.regions import FAT, GLASS, LOW, PLANTED, STROMA, Regions
from storm_clinic.simulate.stain import Stain, colour_section

Grey = NDArray[np.uint8]

_INKS = ((35, 60, 160), (30, 120, 70), (35, 35, 40))
_ATLAS_SEED = 20261123  # textures and nuclei are the same on every slide; their places are not
_MARGIN_PX = 256  # by which an atlas is larger than a slide


def draw_section(
    regions: Regions,
    size_px: tuple[int, int],
    mpp: float,
    stain: Stain,
    *,
    inked: bool,
    rng: np.random.Generator,
) -> Grey:
    """Draw one section.

    Parameters
    ----------
    regions : Regions
        What lies where.
    size_px : (width, height)
        Of the picture.
    mpp : float
        Microns per pixel.
    stain : Stain
        Of the laboratory, that day.
    inked : bool
        Whether somebody marked it with a pen.
    rng : Generator
        Source of randomness.

    Returns
    -------
    uint8 array, shape (height, width, 3)
        RGB.
    """
    classes = regions.classes(size_px)
    eosin, haematoxylin = _ground(classes, size_px, mpp, rng)
    size_um = (round(size_px[0] * mpp), round(size_px[1] * mpp))
    infiltrate = rng.uniform(0.0, 0.8)
    for kind in KINDS:
        centres = np.rint(scatter(kind, size_um, rng) / mpp).astype(np.int64)
        centres = centres[_belongs(kind, classes, centres, infiltrate, rng)]
        stamp(haematoxylin, _variants(kind, mpp), centres, int(rng.integers(2**31)))
    picture = colour_section(haematoxylin, eosin, stain)
    if inked:
        _ink(picture, mpp, rng)
    return picture


def _ground(
    classes: Grey, size_px: tuple[int, int], mpp: float, rng: np.random.Generator
) -> tuple[Grey, Grey]:
    """Eosin and haematoxylin between the nuclei."""
    fibres, grain, fat = _atlas(size_px, mpp)
    eosin = np.zeros(classes.shape, dtype=np.uint8)
    for region, texture in ((STROMA, fibres), (LOW, grain), (PLANTED, grain), (FAT, fat)):
        cv2.copyTo(_somewhere(texture, size_px, rng), (classes == region).view(np.uint8), eosin)
    base = np.zeros(256, dtype=np.uint8)
    base[[STROMA, LOW, PLANTED]] = 6, 22, 38
    return eosin, np.asarray(cv2.LUT(classes, base), dtype=np.uint8)


def _belongs(
    kind: Kind,
    classes: Grey,
    centres: NDArray[np.int64],
    infiltrate: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Which centres lie in the region of their kind."""
    height, width = classes.shape
    x, y = np.clip(centres[:, 0], 0, width - 1), np.clip(centres[:, 1], 0, height - 1)
    there = classes[y, x]
    if kind is LYMPHOCYTE:
        belongs = (there != GLASS) & (there != FAT) & (rng.random(len(centres)) < infiltrate)
    else:
        belongs = there == kind.region
    return np.asarray(belongs, dtype=np.bool_)


@lru_cache(maxsize=16)
def _variants(kind: Kind, mpp: float) -> list[Grey]:
    return draw_variants(kind, mpp, np.random.default_rng(_ATLAS_SEED))


@lru_cache(maxsize=2)
def _atlas(size_px: tuple[int, int], mpp: float) -> tuple[Grey, Grey, Grey]:
    """Textures a little larger than a slide: fibres, grain of cytoplasm, and fat."""
    rng = np.random.default_rng(_ATLAS_SEED)
    shape = (size_px[1] + _MARGIN_PX, size_px[0] + _MARGIN_PX)
    coarse = (round(shape[0] * mpp), round(shape[1] * mpp))  # one pixel a micron
    y, _ = np.mgrid[0 : coarse[0], 0 : coarse[1]].astype(np.float32)
    bend = cv2.GaussianBlur(rng.standard_normal(coarse).astype(np.float32), (0, 0), 60)
    waves = np.sin((y + 45 * bend / bend.std()) * (2 * np.pi / 9))
    streaks = cv2.GaussianBlur(rng.standard_normal(coarse).astype(np.float32), (0, 0), 6, sigmaY=1)
    fibres = 118 + 22 * waves + 30 * streaks / streaks.std()
    rough = cv2.GaussianBlur(rng.standard_normal(coarse).astype(np.float32), (0, 0), 1.5)
    grain = 84 + 14 * rough / rough.std()
    pictures = (fibres, grain, _fat(coarse, rng))
    fibres, grain, fat = (
        cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_CUBIC) for picture in pictures
    )
    # Noise of single pixels, or a finer scan would look blurred.
    noise = rng.normal(0, 6, shape)
    return tuple(  # type: ignore[return-value]
        np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)
        for picture in (fibres + noise, grain + noise, fat)
    )


def _fat(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Thin walls around empty cells: borders between the regions nearest to scattered points."""
    cell_um = 45
    y, x = np.mgrid[0 : shape[0] : cell_um, 0 : shape[1] : cell_um]
    seeds = np.stack([x.ravel(), y.ravel()], axis=1) + rng.integers(-14, 15, (x.size, 2))
    empty = np.full(shape, 255, dtype=np.uint8)
    empty[np.clip(seeds[:, 1], 0, shape[0] - 1), np.clip(seeds[:, 0], 0, shape[1] - 1)] = 0
    _, nearest = cv2.distanceTransformWithLabels(
        empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    walls = np.zeros(shape, dtype=np.float32)
    walls[:, 1:] += nearest[:, 1:] != nearest[:, :-1]
    walls[1:] += nearest[1:] != nearest[:-1]
    return np.asarray(cv2.GaussianBlur(np.minimum(walls, 1), (0, 0), 1.0) * 190, dtype=np.float32)


def _somewhere(atlas: Grey, size_px: tuple[int, int], rng: np.random.Generator) -> Grey:
    left, top = rng.integers(0, _MARGIN_PX, 2).tolist()
    piece = atlas[top : top + size_px[1], left : left + size_px[0]]
    return np.ascontiguousarray(cv2.flip(piece, int(rng.integers(-1, 2))))


def _ink(picture: Grey, mpp: float, rng: np.random.Generator) -> None:
    """A stroke of a pen along one side, now over glass, now over tissue."""
    height, width = picture.shape[:2]
    down = np.linspace(0, 1, 60)
    y = (0.06 + 0.88 * down) * height
    wobble = np.sin(2 * np.pi * (down * rng.uniform(0.5, 1.5) + rng.random()))
    x = width * rng.uniform(0.06, 0.16) + 30 / mpp * wobble
    if rng.random() < 0.5:
        x = width - x
    points = np.stack([x, y], axis=1).astype(np.int32).reshape(-1, 1, 2)
    colour = _INKS[int(rng.integers(len(_INKS)))]
    cv2.polylines(picture, [points], False, colour, thickness=round(45 / mpp), lineType=cv2.LINE_AA)
