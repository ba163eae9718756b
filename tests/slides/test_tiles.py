"""Tile geometry, by literal tables and by counting pixels."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import InputError
from storm_clinic.slides.tiles import (
    TileGeometry,
    lay_tiles,
    lay_tissue_tiles,
    tissue_fraction,
)
from storm_clinic.slides.tissue import TissueMask


@pytest.mark.parametrize(
    ("size", "slide_mpp", "geometry", "corners"),
    [
        # A 40x scan: 224 px at 0.5 µm are 448 px of 0.25 µm.
        ((900, 900), 0.25, (224, 0.5, 0), [(0, 0), (448, 0), (0, 448), (448, 448)]),
        # The same field of view scanned at 20x.
        ((450, 450), 0.5, (224, 0.5, 0), [(0, 0), (224, 0), (0, 224), (224, 224)]),
        # One pixel short of the second column.
        ((895, 448), 0.25, (224, 0.5, 0), [(0, 0)]),
        ((896, 448), 0.25, (224, 0.5, 0), [(0, 0), (448, 0)]),
        # Overlap of 64 px: a step of 160.
        ((400, 224), 0.5, (224, 0.5, 64), [(0, 0), (160, 0)]),
        # Steps of 224.449 px are rounded one by one: 0, 224.4, 448.9, 673.3.
        ((900, 230), 0.499, (224, 0.5, 0), [(0, 0), (224, 0), (449, 0), (673, 0)]),
        # The last tile may reach half a pixel over the edge (448.898), no more (449.5).
        ((449, 230), 0.499, (224, 0.5, 0), [(0, 0), (224, 0)]),
        ((448, 230), 0.499, (224, 0.5, 0), [(0, 0)]),
        # A scan coarser than the encoder wants: 224 px at 0.5 µm are 112 µm = 162.8 px.
        ((330, 163), 0.688, (224, 0.5, 0), [(0, 0), (163, 0)]),
        # Row by row, not column by column.
        ((3, 2), 1.0, (1, 1.0, 0), [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]),
        # Smaller than a tile.
        ((100, 100), 0.5, (224, 0.5, 0), []),
    ],
)
def test_tiles_lie_where_the_table_says(size, slide_mpp, geometry, corners):
    made = lay_tiles(size, slide_mpp, TileGeometry(*geometry))
    assert made.dtype == np.int64
    assert made.shape == (len(corners), 2)
    assert [tuple(corner) for corner in made.tolist()] == corners


def test_a_hundred_thousand_pixels_do_not_add_up_rounding_errors():
    geometry = TileGeometry(256, 0.5)
    corners = lay_tiles((100_000, 600), 0.2527, geometry)
    columns = corners[corners[:, 1] == 0, 0]
    exact = np.arange(len(columns)) * 256 * 0.5 / 0.2527
    assert len(columns) == 197
    assert np.abs(columns - exact).max() <= 0.5


def test_tiles_with_gaps_between_them_lie_a_step_apart():
    corners = lay_tiles((100, 40), 1.0, TileGeometry(20, 1.0, -10))
    assert corners.tolist() == [[0, 0], [30, 0], [60, 0]]


def test_a_tile_knows_its_microns():
    assert TileGeometry(224, 0.5).tile_um == 112.0
    assert TileGeometry(224, 0.5).tile_level0_px(0.25) == 448.0


@pytest.mark.parametrize(
    ("tile_px", "mpp", "overlap_px"),
    [(0, 0.5, 0), (224, 0.0, 0), (224, float("nan"), 0), (224, 0.5, 224)],
)
def test_impossible_tiles_are_refused(tile_px, mpp, overlap_px):
    with pytest.raises(InputError, match="px"):
        TileGeometry(tile_px, mpp, overlap_px)


@pytest.mark.parametrize("slide_mpp", [0.25, 0.2527, 0.499])
@pytest.mark.parametrize("mask_mpp", [8.0, 7.77])
def test_tissue_fraction_equals_counting_level0_pixels(slide_mpp, mask_mpp):
    rng = np.random.default_rng(5)
    mask = TissueMask(rng.random((20, 24)) < 0.5, mask_mpp)
    level0_size = tuple(int(side * mask_mpp / slide_mpp) for side in (24, 20))
    tile = 96
    corners = lay_tiles(level0_size, slide_mpp, TileGeometry(tile, slide_mpp, 32))[::7]
    made = tissue_fraction(corners, tile, mask, slide_mpp)
    for corner, fraction in zip(corners, made, strict=True):
        # Each level-0 pixel as 5 x 5 points.
        points = (np.arange(tile * 5) + 0.5) / 5
        columns = ((corner[0] + points) * slide_mpp / mask_mpp).astype(int)
        rows = ((corner[1] + points) * slide_mpp / mask_mpp).astype(int)
        counted = mask.mask[np.ix_(np.minimum(rows, 19), np.minimum(columns, 23))].mean()
        assert fraction == pytest.approx(counted, abs=0.005)


def test_outside_the_mask_there_is_no_tissue():
    mask = TissueMask(np.ones((10, 10), dtype=bool), 1.0)
    corners = np.array([[0, 0], [5, 0], [5, 5], [10, 0], [-5, 0]])
    made = tissue_fraction(corners, 10, mask, 1.0)
    np.testing.assert_allclose(made, [1.0, 0.5, 0.25, 0.0, 0.5])


def test_tiles_with_enough_tissue_are_kept_with_their_fraction():
    mask = TissueMask(np.zeros((40, 40), dtype=bool), 1.0)
    mask.mask[:, :15] = True
    geometry = TileGeometry(10, 1.0)
    corners, fraction = lay_tissue_tiles((40, 40), 1.0, geometry, mask, 0.5)
    assert [tuple(corner) for corner in corners.tolist()] == [
        (x, y) for y in (0, 10, 20, 30) for x in (0, 10)
    ]
    np.testing.assert_allclose(fraction, [1.0, 0.5] * 4)
    assert len(lay_tissue_tiles((40, 40), 1.0, geometry, mask, 0.51)[0]) == 4
    assert len(lay_tissue_tiles((40, 40), 1.0, geometry, mask, 0.0)[0]) == 16
