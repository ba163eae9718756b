"""Where on its array each spot stands: a row and a column, found by coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import SectionError
from storm_clinic.storm.paired import Grid


def grid_places(
    centres_um: NDArray[Any], pitch_um: float, angle: float, *, grid: Grid = "square"
) -> NDArray[np.int64]:
    """Each spot's place (row, column) on its array, from coordinates.

    Spots may stray from their places by nearly half a pitch; where the array starts is taken from
    all of them. On a hexagonal grid every other row is shifted by half a column.

    Parameters
    ----------
    centres_um : float array, shape (n_spots, 2)
        Centres (x, y) in µm.
    pitch_um : float
        Distance of nearest centres.
    angle : float
        Turn of the grid against the x axis in radians; see `neighbourhood.grid_angle`.
    grid : "square" or "hexagonal"
        How spots are packed.

    Returns
    -------
    int64 array, shape (n_spots, 2)
        The smallest row and the smallest column are 0.

    Raises
    ------
    SectionError
        If two spots fall on one place, or a length is none.
    """
    centres = np.asarray(centres_um, dtype=np.float64)
    if not (0 < pitch_um < np.inf and np.isfinite(centres).all()):
        raise SectionError(
            f"centres and a pitch of {pitch_um} µm must be finite", where="places on the array"
        )
    x, y = centres.T / pitch_um
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = cos * x + sin * y, cos * y - sin * x
    if grid == "hexagonal":
        y = y * 2 / np.sqrt(3)
    row = _whole(y)
    column = _whole(x - (row % 2) / 2 if grid == "hexagonal" else x)
    return checked_places(np.stack([row, column], axis=1), len(row))


def _whole(steps: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole steps from the first; the fraction to take off is their mean on a circle."""
    fraction = np.angle(np.exp(2j * np.pi * steps).mean()) / (2 * np.pi)
    whole = np.rint(steps - fraction).astype(np.int64)
    places: NDArray[np.int64] = whole - whole.min()
    return places


def checked_places(places: NDArray[Any], n_spots: int) -> NDArray[np.int64]:
    """Places that are whole numbers, one for each spot, none taken twice.

    Raises
    ------
    SectionError
        If they are not.
    """
    whole = np.asarray(places)
    if whole.shape != (n_spots, 2) or not np.issubdtype(whole.dtype, np.integer):
        raise SectionError(
            f"places must be whole numbers ({n_spots}, 2), are {whole.dtype} {whole.shape}",
            where="places on the array",
        )
    n_places = len(np.unique(whole, axis=0))
    if n_places < n_spots:
        raise SectionError(
            f"{n_spots} spots fall on {n_places} places",
            where="places on the array",
            fix="Check the pitch and the turn of the grid.",
        )
    return whole.astype(np.int64)
