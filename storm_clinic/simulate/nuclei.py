"""Nuclei: what they look like, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from storm_clinic.simulate.regions import LOW, PLANTED, STROMA

Grey = NDArray[np.uint8]
_VARIANTS = 48


@dataclass(frozen=True)
class Kind:
    """One kind of nucleus.

    Attributes
    ----------
    region : int
        Class of pixels in which it lies.
    radius_um, radius_spread : float
        Median radius, and its spread on a logarithmic scale.
    elongation : float
        Long over short radius.
    roughness : float
        How far its outline leaves the ellipse.
    amount : (lowest, highest)
        Haematoxylin.
    clumping : float
        Texture of its chromatin, 0 to 1.
    spacing_um : float
        Distance to its neighbours, about.
    """

    region: int
    radius_um: float
    radius_spread: float
    elongation: float
    roughness: float
    amount: tuple[int, int]
    clumping: float
    spacing_um: float


# The planted morphology: large, dark, crowded and unequal, against small, round and even.
PLEOMORPHIC = Kind(PLANTED, 4.9, 0.24, 1.35, 0.12, (165, 240), 0.45, 10.0)
EVEN = Kind(LOW, 3.0, 0.06, 1.08, 0.02, (105, 140), 0.20, 12.5)
SPINDLE = Kind(STROMA, 2.6, 0.12, 4.2, 0.03, (110, 160), 0.15, 24.0)
# Lymphocytes mean nothing here: they are scattered over everything, more or fewer by slide.
LYMPHOCYTE = Kind(-1, 2.4, 0.05, 1.05, 0.02, (205, 235), 0.15, 30.0)
KINDS = (PLEOMORPHIC, EVEN, SPINDLE, LYMPHOCYTE)


def draw_variants(kind: Kind, mpp: float, rng: np.random.Generator) -> list[Grey]:
    """Pictures of one kind of nucleus, each (side, side), haematoxylin from 0 to 255."""
    return [_draw(kind, mpp, rng) for _ in range(_VARIANTS)]


def scatter(kind: Kind, size_um: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Centres (n, 2) in microns: a grid, every second row moved, each place disturbed."""
    step = kind.spacing_um
    y, x = np.mgrid[0 : size_um[1] : step * 0.87, 0 : size_um[0] : step]
    x = x + (np.arange(len(x)) % 2)[:, None] * step / 2
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    return places + rng.normal(0, step * 0.22, places.shape)


def stamp(canvas: Grey, variants: list[Grey], centres_px: NDArray[np.int64], seed: int) -> None:
    """Put a nucleus at each centre (x, y) into ``canvas``; where two overlap the darker stays."""
    chosen = np.random.default_rng(seed).integers(len(variants), size=len(centres_px))
    height, width = canvas.shape
    for number, (x, y) in zip(chosen.tolist(), centres_px.tolist(), strict=True):
        variant = variants[number]
        half = len(variant) // 2
        left, top = x - half, y - half
        if left < 0 or top < 0 or left + len(variant) > width or top + len(variant) > height:
            continue  # the slide's rim is glass
        place = canvas[top : top + len(variant), left : left + len(variant)]
        np.maximum(place, variant, out=place)


def _draw(kind: Kind, mpp: float, rng: np.random.Generator) -> Grey:
    radius = kind.radius_um * np.exp(rng.normal(0, kind.radius_spread))
    long, short = radius * np.sqrt(kind.elongation), radius / np.sqrt(kind.elongation)
    half = int(np.ceil(long * (1 + 3 * kind.roughness) / mpp)) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1] * mpp
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    angle = np.arctan2(across, along)
    outline = 1 + sum(
        kind.roughness / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5)
    )
    depth = outline - np.hypot(along / long, across / short)  # 0 at the rim, 1 in the middle
    inside = np.clip(depth * short / 0.6, 0, 1)  # a rim of 0.6 µm
    chromatin = cv2.GaussianBlur(rng.standard_normal(x.shape), (0, 0), max(0.7 / mpp, 0.8))
    chromatin = chromatin / max(float(chromatin.std()), 1e-6)
    amount = rng.uniform(*kind.amount) * (1 + 0.35 * kind.clumping * chromatin)
    return np.asarray(np.clip(inside * amount, 0, 255), dtype=np.uint8)
