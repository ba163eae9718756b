"""Which spots surround each spot: a 5 x 5 neighbourhood, found by coordinates."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from storm_clinic.errors import SectionError
from storm_clinic.storm.paired import Grid

Side = Literal[1, 3, 5]
# Hand-placed arrays stray by a quarter of their pitch; below half of it no spot fits two places.
TOLERANCE = 0.45
_SYMMETRY = {"square": 4, "hexagonal": 6}


class Neighbourhood(NamedTuple):
    """Neighbours of each spot in one fixed order.

    Attributes
    ----------
    rows : int64 array, shape (n_spots, side * side)
        Row of the neighbour, -1 where there is none. In raster order: upper row first, left to
        right; the spot itself is in the middle.
    valid : bool array, shape (n_spots, side * side)
        Where there is one.
    """

    rows: NDArray[np.int64]
    valid: NDArray[np.bool_]


def neighbourhoods(
    centres_um: NDArray[Any],
    *,
    pitch_um: float,
    grid: Grid = "square",
    side: Side = 5,
    tolerance: float = TOLERANCE,
    angle: float | None = None,
) -> Neighbourhood:
    """Find the neighbourhood of every spot.

    On a hexagonal grid a row is 0.87 pitches below the one above and shifted by half a pitch, to
    the right below the centre and to the left above it, so that being neighbours is mutual: the
    spot in place k has this one in place side² - 1 - k.

    Parameters
    ----------
    centres_um : float array, shape (n_spots, 2)
        Centres (x, y) in µm.
    pitch_um : float
        Distance of nearest centres.
    grid : "square" or "hexagonal"
        How spots are packed.
    side : 1, 3 or 5
        Spots along an edge of the neighbourhood.
    tolerance : float
        How far, in pitches, a neighbour may lie from its place; below 0.5.
    angle : float, optional
        Turn of the grid against the image's x axis in radians; measured by default. Grids that we
        lay ourselves have 0.

    Raises
    ------
    SectionError
        If two spots are nearer than the tolerance lets them be told apart, or an argument cannot
        be.
    """
    centres = np.asarray(centres_um, dtype=np.float64)
    _check(centres, pitch_um, grid, side, tolerance)
    tree = cKDTree(centres)
    _refuse_coincident(tree, centres, pitch_um * tolerance)
    if angle is None:
        angle = grid_angle(centres, pitch_um=pitch_um, grid=grid)
    places = centres[:, None] + _offsets(grid, side, angle) * pitch_um
    # n_spots stands for "none" in cKDTree.
    _, index = tree.query(places, distance_upper_bound=pitch_um * tolerance)
    index = np.where(index == len(centres), -1, index).astype(np.int64)
    return Neighbourhood(index, index >= 0)


def grid_angle(centres_um: NDArray[Any], *, pitch_um: float, grid: Grid) -> float:
    """Turn of a grid against the x axis in radians, from its nearest neighbours.

    A square grid looks the same after a quarter turn, a hexagonal one after a sixth; the result is
    the smallest turn, at most half of that either way. 0 where no spot has a neighbour.
    """
    centres = np.asarray(centres_um, dtype=np.float64)
    pairs = cKDTree(centres).query_pairs(pitch_um * 1.25, output_type="ndarray")
    fold = _SYMMETRY[grid]
    steps = centres[pairs[:, 1]] - centres[pairs[:, 0]]
    mean = np.exp(1j * fold * np.arctan2(steps[:, 1], steps[:, 0])).sum()
    return float(np.angle(mean) / fold) if len(pairs) else 0.0


def _offsets(grid: Grid, side: int, angle: float) -> NDArray[np.float64]:
    """Places (x, y) of neighbours around a spot, in pitches, in raster order."""
    reach = np.arange(side) - side // 2
    y, x = np.meshgrid(reach.astype(float), reach.astype(float), indexing="ij")
    if grid == "hexagonal":
        x = x + np.where(y % 2 == 1, 0.5 * np.sign(y), 0.0)
        y = y * np.sqrt(3) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1).reshape(-1, 2)


def _check(
    centres: NDArray[np.float64], pitch_um: float, grid: str, side: int, tolerance: float
) -> None:
    problem = None
    if centres.ndim != 2 or centres.shape[1] != 2 or not np.isfinite(centres).all():
        problem = f"centres must be finite (n, 2), are {centres.shape}"
    elif not 0 < pitch_um < np.inf:
        problem = f"pitch must be a length, is {pitch_um} µm"
    elif grid not in _SYMMETRY:
        problem = f"grid must be square or hexagonal, is {grid!r}"
    elif side not in (1, 3, 5):
        problem = f"side must be 1, 3 or 5, is {side}"
    elif not 0 < tolerance < 0.5:
        problem = f"tolerance must be between 0 and 0.5 pitches, is {tolerance}"
    if problem:
        raise SectionError(problem, where="neighbourhood")


def _refuse_coincident(tree: cKDTree, centres: NDArray[np.float64], radius_um: float) -> None:
    if len(centres) < 2:
        return
    nearest = tree.query(centres, k=2)[0][:, 1]
    if nearest.min() < radius_um:
        row = int(nearest.argmin())
        raise SectionError(
            f"spot {row} has another {nearest[row]:.1f} µm away, nearer than {radius_um:.1f} µm",
            where="neighbourhood",
            fix="Check the pitch, and that no spot is listed twice.",
        )
