"""Small bins merged into large ones, against sums made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from storm_clinic.errors import SectionError
from storm_clinic.storm.bins import merge_bins
from storm_clinic.storm.paired import PairedSection

MPP, PITCH_UM = 0.25, 8.0


def binned(columns: int, rows: int, *, degrees: float = 0.0, stray_um: float = 0.0, seed: int = 0):
    """A turned grid of 8 µm bins in random order, and the cell (column, row) of each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    cells = rng.permutation(np.stack([x, y], axis=-1).reshape(-1, 2))
    angle = np.deg2rad(degrees)
    across, down = np.array([np.cos(angle), np.sin(angle)]), np.array(
        [-np.sin(angle), np.cos(angle)]
    )  # fmt: skip
    centres_um = 3000 + PITCH_UM * (cells[:, :1] * across + cells[:, 1:] * down)
    centres_um = centres_um + rng.uniform(-stray_um, stray_um, centres_um.shape)
    counts = rng.poisson(0.5, (len(cells), 3))
    section = PairedSection(
        name="hd",
        patient="p",
        technology="visium_hd",
        grid="square",
        spot_um=PITCH_UM,
        pitch_um=PITCH_UM,
        image=None,
        mpp=MPP,
        centres_px=centres_um / MPP,
        counts=counts,
        symbols=("A", "B", "C"),
        spots=tuple(f"s{k}" for k in range(len(cells))),
    )
    return section, cells, across, down


@pytest.mark.parametrize(("degrees", "stray_um"), [(0.0, 0.0), (0.7, 0.0), (-3.0, 0.5)])
def test_counts_of_seven_by_seven_bins_are_added_up_on_a_grid_turned_any_way(degrees, stray_um):
    section, cells, across, down = binned(28, 21, degrees=degrees, stray_um=stray_um)
    merged = merge_bins(section, 56.0)
    assert merged.n_spots == 12
    assert (merged.pitch_um, merged.spot_um) == (56.0, 56.0)
    assert merged.spots[:5] == ("0x0", "1x0", "2x0", "3x0", "0x1")
    table, dense = merged.counts.toarray(), section.counts.toarray()
    for place, name in enumerate(merged.spots):
        x, y = map(int, name.split("x"))
        inside = (cells[:, 0] // 7 == x) & (cells[:, 1] // 7 == y)
        assert table[place].tolist() == dense[inside].sum(axis=0).tolist()
        expected = 3000 + PITCH_UM * ((7 * x + 3) * across + (7 * y + 3) * down)
        np.testing.assert_allclose(merged.centres_um[place], expected, atol=0.5)


def test_a_large_bin_that_is_mostly_empty_is_left_out_and_its_small_ones_counted():
    section, cells, *_ = binned(14, 7)
    # Of the right large bin 20 of 49 small ones remain; of the left all but its first.
    right = np.flatnonzero(cells[:, 0] >= 7)[:29]
    corner = np.flatnonzero((cells == 0).all(axis=1))
    holed = section.subset(np.setdiff1d(np.arange(98), [*right, *corner]), why="holes")
    merged = merge_bins(holed, 56.0)
    assert merged.spots == ("0x0",)
    assert merged.left_out == {"holes": 30, "bins of 8 µm in sparse bins of 56 µm": 20}
    # The centre is the bin's own, though a corner of it is missing.
    np.testing.assert_allclose(merged.centres_um[0], 3000 + 3 * PITCH_UM, atol=1e-6)
    assert merge_bins(holed, 56.0, least_share=0.4).n_spots == 2


def test_what_cannot_be_merged_is_refused():
    section, *_ = binned(7, 7)
    with pytest.raises(SectionError, match="no whole multiple"):
        merge_bins(section, 50.0)
    with pytest.raises(SectionError, match="hexagonal"):
        merge_bins(replace(section, grid="hexagonal"), 56.0)
    # One µm per pixel in fifty wrong: over 28 bins that is half a bin.
    long, *_ = binned(28, 7)
    with pytest.raises(SectionError, match="off the grid"):
        merge_bins(replace(long, mpp=MPP * 1.02), 56.0)
