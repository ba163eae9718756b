"""Microns per pixel: which of several statements holds. Never a guess from magnification."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from storm_clinic.errors import MppError

MppSource = Literal["override", "manifest", "slide"]

SMALLEST_MPP = 0.05
LARGEST_MPP = 20.0
_DISAGREEMENT = 0.05
# Stage calibration differs by a fraction of a percent between axes; beyond this shapes are wrong.
_ANISOTROPY = 0.02
_MICRONS_PER = {"": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3}
_OME_SIZE = re.compile(r'\bPhysicalSize([XY])(Unit)?="([^"]*)"')
_FIX = "Give the right value with --mpp, or in the manifest's mpp column."


@dataclass(frozen=True)
class Resolution:
    """Microns per pixel of level 0, and who says so."""

    mpp: float
    source: MppSource


def settle_mpp(
    *,
    override: float | None,
    manifest: float | None,
    slide: tuple[str | float, str | float] | None,
    where: str | Path,
) -> Resolution:
    """Choose between the explicit override, the manifest and the slide's own statement.

    The override wins over everything. Without it the manifest is used, then the slide; where both
    speak they must agree within 5%.

    Parameters
    ----------
    override, manifest : float, optional
        Microns per pixel.
    slide : pair of str or float, optional
        What the file itself states for x and y.
    where : str or Path
        The slide, for messages.

    Raises
    ------
    MppError
        If nobody states it, two statements contradict, a value lies outside 0.05 to 20 µm, or
        the slide's pixels are not square.
    """
    if override is not None:
        return Resolution(_plausible(override, "the override", where), "override")
    stated = None if manifest is None else _plausible(manifest, "the manifest", where)
    own = None if slide is None else _own_mpp(slide, where)
    if stated is not None and own is not None and _differ(stated, own, _DISAGREEMENT):
        raise MppError(
            f"the manifest states {stated:g} µm/px, the slide itself {own:g}",
            where=where,
            fix="Say which holds with --mpp, or correct the manifest.",
        )
    if stated is not None:
        return Resolution(stated, "manifest")
    if own is not None:
        return Resolution(own, "slide")
    raise MppError(
        "nothing states its microns per pixel, and magnification is not proof",
        where=where,
        fix=_FIX,
    )


def ome_mpp(description: str | None) -> tuple[float, float] | None:
    """Pixel size in µm from the OME-XML in a TIFF's description, if there is one.

    The first image of the document counts. Attributes are read by pattern: an XML parser would
    expand entities of a file nobody vouches for.
    """
    if not description or "<OME" not in description:
        return None
    found: dict[tuple[str, str], str] = {}
    for axis, unit, value in _OME_SIZE.findall(description):
        found.setdefault((axis, unit), value)
    sizes = []
    for axis in "XY":
        factor = _MICRONS_PER.get(found.get((axis, "Unit"), ""))
        try:
            value = float(found.get((axis, ""), ""))
        except ValueError:
            return None
        if factor is None:
            return None
        sizes.append(value * factor)
    return sizes[0], sizes[1]


def is_plausible(mpp: float) -> bool:
    """Whether a microscope slide can have this many microns per pixel."""
    return math.isfinite(mpp) and SMALLEST_MPP <= mpp <= LARGEST_MPP


def _own_mpp(slide: tuple[str | float, str | float], where: str | Path) -> float:
    x, y = (_plausible(value, "the slide", where) for value in slide)
    if _differ(x, y, _ANISOTROPY):
        raise MppError(
            f"its pixels are not square: {x:g} µm across, {y:g} µm down", where=where, fix=_FIX
        )
    return math.sqrt(x * y)


def _plausible(value: str | float, who: str, where: str | Path) -> float:
    try:
        mpp = float(value)
    except ValueError:
        mpp = math.nan
    if not is_plausible(mpp):
        stated = value if math.isnan(mpp) else f"{mpp:g}"
        raise MppError(
            f"{who} states {stated} µm/px; possible are {SMALLEST_MPP:g} to {LARGEST_MPP:g}",
            where=where,
            fix=_FIX,
        )
    return mpp


def _differ(first: float, second: float, tolerance: float) -> bool:
    return max(first, second) / min(first, second) - 1 > tolerance
