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
    # A tenth is more than any reader lets pass.
    with pytest.raises(SectionError, match=r"off the grid.*said to be 8 µm"):
        merge_bins(replace(section, mpp=MPP * 1.1), 56.0)
    astray = section.centres_px.copy()
    astray[5] += 0.4 * PITCH_UM / MPP
    with pytest.raises(SectionError, match="off the grid"):
        merge_bins(replace(section, centres_px=astray), 56.0)
    twice = section.centres_px.copy()
    twice[0] = twice[1]
    with pytest.raises(SectionError, match="two bins lie in one place"):
        merge_bins(replace(section, centres_px=twice), 56.0)
    with pytest.raises(SectionError, match="least_share must be above 0"):
        merge_bins(section, 56.0, least_share=0.0)
    with pytest.raises(SectionError, match="is filled to 50%"):
        merge_bins(section, 112.0)


@pytest.mark.parametrize("said", [0.98, 0.997, 1.003, 1.02])
def test_rows_too_long_for_the_stated_scale_are_numbered_all_the_same(said):
    """At the end of 600 bins, three parts in a thousand are nearly two bins."""
    section, cells, across, down = binned(602, 14, degrees=1.0, stray_um=1.5)
    merged = merge_bins(replace(section, mpp=MPP * said), 56.0)
    assert merged.n_spots == 86 * 2
    dense = section.counts.toarray()
    for place, name in list(enumerate(merged.spots))[::17]:
        x, y = map(int, name.split("x"))
        inside = (cells[:, 0] // 7 == x) & (cells[:, 1] // 7 == y)
        assert merged.counts[[place]].toarray()[0].tolist() == dense[inside].sum(axis=0).tolist()
        # On the image, which knows nothing of the wrong scale.
        middle = 3000 + PITCH_UM * ((7 * x + 3) * across + (7 * y + 3) * down)
        np.testing.assert_allclose(merged.centres_px[place], middle / MPP, atol=2.0)


def test_islands_of_tissue_share_one_grid():
    section, cells, *_ = binned(280, 14, degrees=-2.0)
    ends = (cells[:, 0] < 28) | (cells[:, 0] >= 252)
    merged = merge_bins(section.subset(ends, why="glass"), 56.0)
    columns = sorted({int(name.split("x")[0]) for name in merged.spots})
    assert columns == [0, 1, 2, 3, 36, 37, 38, 39]


@pytest.mark.parametrize(("pitch_um", "n_columns"), [(2.0, 70), (8.0, 33)])
def test_every_count_is_in_a_large_bin_or_in_a_bin_that_is_counted_as_left_out(pitch_um, n_columns):
    section, cells, *_ = binned(n_columns, n_columns, degrees=4.0)
    # The same places, read as bins of 2 or 8 µm, a quarter of them and a whole corner missing.
    section = replace(section, spot_um=pitch_um, pitch_um=pitch_um, mpp=MPP * pitch_um / PITCH_UM)
    rng = np.random.default_rng(3)
    here = (rng.random(len(cells)) > 0.25) & (cells.sum(axis=1) > n_columns // 2)
    section, cells = section.subset(here, why="holes"), cells[here]
    factor = round(56 / pitch_um)
    sums: dict[tuple[int, int], list[np.ndarray]] = {}
    dense = section.counts.toarray()
    for (x, y), row in zip((cells - cells.min(axis=0)).tolist(), dense, strict=True):
        sums.setdefault((x // factor, y // factor), []).append(row)
    full = {place: rows for place, rows in sums.items() if len(rows) >= factor**2 / 2}
    assert 0 < len(full) < len(sums)
    merged = merge_bins(section, 56.0)
    found = dict(zip(merged.spots, merged.counts.toarray().tolist(), strict=True))
    assert found == {f"{x}x{y}": sum(rows).tolist() for (x, y), rows in full.items()}
    lost = [row for place, rows in sums.items() if place not in full for row in rows]
    assert merged.left_out.pop(f"bins of {pitch_um:g} µm in sparse bins of 56 µm") == len(lost)
    assert merged.counts.sum() + np.sum(lost) == section.counts.sum()
    everything = merge_bins(section, 56.0, least_share=1e-9)
    assert everything.counts.sum() == section.counts.sum()
    assert everything.left_out == section.left_out
