"""Where tiles lie: pure geometry in level-0 pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import InputError
from storm_clinic.slides.tissue import TissueMask

Corners = NDArray[np.int64]


@dataclass(frozen=True)
class TileGeometry:
    """Tiles as the encoder wants them.

    Attributes
    ----------
    tile_px : int
        Side of a tile at ``mpp``.
    mpp : float
        Microns per pixel of the tile.
    overlap_px : int
        By how much neighbours overlap, at ``mpp``; below 0 is the gap between them.

    Raises
    ------
    InputError
        If a value is not positive, or tiles overlap wholly.
    """

    tile_px: int
    mpp: float
    overlap_px: int = 0

    def __post_init__(self) -> None:
        if self.tile_px < 1 or not (math.isfinite(self.mpp) and self.mpp > 0):
            raise InputError(f"tiles of {self.tile_px} px at {self.mpp} µm/px cannot be laid")
        if self.overlap_px >= self.tile_px:
            raise InputError(
                f"an overlap of {self.overlap_px} px does not fit tiles of {self.tile_px} px",
                fix="Overlap must be less than the tile.",
            )

    @property
    def tile_um(self) -> float:
        """Side of a tile in microns."""
        return self.tile_px * self.mpp

    def tile_level0_px(self, slide_mpp: float) -> float:
        """Side of a tile in level-0 pixels of a slide; not rounded."""
        return self.tile_um / slide_mpp

    def step_level0_px(self, slide_mpp: float) -> float:
        """Distance between neighbours in level-0 pixels of a slide; not rounded."""
        return (self.tile_px - self.overlap_px) * self.mpp / slide_mpp


def lay_tiles(level0_size: tuple[int, int], slide_mpp: float, geometry: TileGeometry) -> Corners:
    """All tiles that lie wholly on the slide, from its top-left corner, in raster order.

    Tiles that would hang over the right or lower edge by more than half a level-0 pixel are not
    laid: an encoder sees no invented background. The step is rounded for each tile, not once, so
    that errors do not add up.

    Parameters
    ----------
    level0_size : (width, height)
        Of the slide, level-0 pixels.
    slide_mpp : float
        Microns per level-0 pixel.
    geometry : TileGeometry
        Size, resolution and overlap of the tiles.

    Returns
    -------
    int64 array, shape (n_tiles, 2)
        Top-left corners (x, y) in level-0 pixels, row by row.
    """
    tile, step = geometry.tile_level0_px(slide_mpp), geometry.step_level0_px(slide_mpp)
    columns, rows = (_starts(length, tile, step) for length in level0_size)
    x, y = np.meshgrid(columns, rows)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def tissue_fraction(
    corners: Corners, tile_level0_px: float, mask: TissueMask, slide_mpp: float
) -> NDArray[np.float64]:
    """Share of each tile's area that is tissue.

    Exact also where tile and mask pixels do not align: the mask's summed-area table is
    interpolated, and outside the mask there is no tissue.

    Parameters
    ----------
    corners : int64 array, shape (n_tiles, 2)
        Top-left corners in level-0 pixels.
    tile_level0_px : float
        Side of a tile in level-0 pixels.
    mask : TissueMask
        Where tissue lies, from the slide's top-left corner.
    slide_mpp : float
        Microns per level-0 pixel.

    Returns
    -------
    float64 array, shape (n_tiles,)
        From 0 to 1.
    """
    table = np.zeros(np.add(mask.mask.shape, 1), dtype=np.float64)
    np.cumsum(mask.mask, axis=0, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    per_level0 = slide_mpp / mask.mpp
    left, top = (corners * per_level0).T
    side = tile_level0_px * per_level0
    right, bottom = left + side, top + side
    covered = (
        _interpolate(table, right, bottom)
        - _interpolate(table, left, bottom)
        - _interpolate(table, right, top)
        + _interpolate(table, left, top)
    )
    return np.clip(covered / side**2, 0.0, 1.0)


def lay_tissue_tiles(
    level0_size: tuple[int, int],
    slide_mpp: float,
    geometry: TileGeometry,
    mask: TissueMask,
    min_fraction: float,
) -> tuple[Corners, NDArray[np.float64]]:
    """Tiles of which at least ``min_fraction`` is tissue, and their tissue fractions.

    Returns
    -------
    corners : int64 array, shape (n_kept, 2)
        Level-0 pixels, raster order.
    fraction : float64 array, shape (n_kept,)
    """
    corners = lay_tiles(level0_size, slide_mpp, geometry)
    fraction = tissue_fraction(corners, geometry.tile_level0_px(slide_mpp), mask, slide_mpp)
    # A fraction that equals the limit but for rounding is kept.
    keep = fraction >= min_fraction - 1e-9
    return corners[keep], fraction[keep]


def _starts(length: int, tile: float, step: float) -> Corners:
    n_tiles = max(0, math.floor((length + 0.5 - tile) / step) + 1)
    starts: Corners = np.floor(np.arange(n_tiles) * step + 0.5).astype(np.int64)
    return starts


def _interpolate(
    table: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bilinear value of a summed-area table: exact, as its pixels are constant inside."""
    height, width = (side - 1 for side in table.shape)
    x, y = np.clip(x, 0, width), np.clip(y, 0, height)
    column = np.minimum(x.astype(np.int64), width - 1)
    row = np.minimum(y.astype(np.int64), height - 1)
    part_x, part_y = x - column, y - row
    upper = table[row, column] * (1 - part_x) + table[row, column + 1] * part_x
    lower = table[row + 1, column] * (1 - part_x) + table[row + 1, column + 1] * part_x
    value: NDArray[np.float64] = upper * (1 - part_y) + lower * part_y
    return value
