from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from storm_clinic.errors import SectionError
from storm_clinic.storm.map_agreement import (
    gene_correlation,
    kept_morans_i,
    map_ssim,
    mean_squared_error,
    morans_i,
)
from storm_clinic.storm.neighbourhood import neighbourhoods


def maps(seed: int = 0, n_spots: int = 90, n_genes: int = 4):
    rng = np.random.default_rng(seed)
    measured = rng.gamma(2.0, size=(n_spots, n_genes))
    return measured, 0.6 * measured + rng.normal(0, 0.7, (n_spots, n_genes))


def scattered(seed: int = 0, n_spots: int = 90, side: int = 13):
    """Places on an array with holes."""
    chosen = np.random.default_rng(seed).permutation(side * side)[:n_spots]
    return np.stack(np.divmod(chosen, side), axis=1)


def test_correlation_and_error_are_those_of_scipy_and_of_the_definition():
    measured, imputed = maps()
    expected = [stats.pearsonr(measured[:, g], imputed[:, g])[0] for g in range(4)]
    np.testing.assert_allclose(gene_correlation(measured, imputed), expected, rtol=1e-12)
    expected = [sum((a - b) ** 2 for a, b in zip(measured[:, g], imputed[:, g], strict=True)) / 90
                for g in range(4)]  # fmt: skip
    np.testing.assert_allclose(mean_squared_error(measured, imputed), expected, rtol=1e-12)


def test_a_gene_without_variation_or_outside_the_panel_has_no_correlation():
    measured, imputed = maps()
    imputed[:, 0] = 0.1  # its mean rounds: a variance would not be 0
    measured[:, 1] = 3.0
    measured[:, 2] = np.nan
    r = gene_correlation(measured, imputed)
    np.testing.assert_array_equal(np.isnan(r), [True, True, True, False])
    # What is constant still has an error.
    np.testing.assert_array_equal(
        np.isnan(mean_squared_error(measured, imputed)), [False, False, True, False]
    )


def ssim_by_loops(x, y, places):
    """Wang's formula spot by spot, each window's weights made to sum to 1 over measured spots."""
    low, high = x.min(), x.max()
    x, y = (x - low) / (high - low), (y - low) / (high - low)
    found = []
    for place in places:
        away = places - place
        weight = np.exp(-(away**2).sum(axis=1) / (2 * 1.5**2)) * (np.abs(away).max(axis=1) <= 5)
        if (weight > 0).sum() < 2:
            continue
        weight = weight / weight.sum()
        mx, my = weight @ x, weight @ y
        vx, vy = weight @ (x - mx) ** 2, weight @ (y - my) ** 2
        cov = weight @ ((x - mx) * (y - my))
        found.append(
            (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
            / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        )  # fmt: skip
    return np.mean(found)


def test_similarity_is_wangs_formula_over_measured_spots_only():
    measured, imputed = maps()
    places = scattered()
    places[0] = (40, 40)  # far from all: in no window, with no window
    expected = [ssim_by_loops(measured[:, g], imputed[:, g], places) for g in range(4)]
    np.testing.assert_allclose(map_ssim(measured, imputed, places), expected, rtol=1e-9)
    # Where an array starts is of no account.
    np.testing.assert_allclose(map_ssim(measured, imputed, places - 7), expected, rtol=1e-9)


def test_equal_maps_are_fully_similar_and_a_stretched_or_shuffled_one_is_less_so():
    measured, _ = maps()
    places = scattered()
    assert map_ssim(measured, measured, places) == pytest.approx(1.0)
    assert (map_ssim(measured, measured * 2, places) < 0.95).all()
    shuffled = np.random.default_rng(5).permutation(measured)
    assert (map_ssim(measured, shuffled, places) < 0.5).all()


def test_similarity_does_not_depend_on_the_unit_and_is_unknown_for_a_flat_map():
    measured, imputed = maps()
    places = scattered()
    np.testing.assert_allclose(
        map_ssim(10 * measured - 3, 10 * imputed - 3, places), map_ssim(measured, imputed, places)
    )
    measured[:, 0], imputed[:, 1], imputed[:, 2] = 2.0, np.nan, 1.0
    found = map_ssim(measured, imputed, places)
    # A flat imputed map is wrong, and that is known.
    np.testing.assert_array_equal(np.isnan(found), [True, True, False, False])


def test_spots_that_have_no_others_in_reach_have_no_similarity():
    measured, imputed = maps(n_spots=3)
    far = np.array([[0, 0], [0, 9], [9, 0]])
    assert np.isnan(map_ssim(measured, imputed, far)).all()


def morans_by_loops(values, neighbours):
    z = values - values.mean()
    pairs = [(i, j) for i, row in enumerate(neighbours) for j in set(row.tolist()) - {-1, i}]
    return len(z) / len(pairs) * sum(z[i] * z[j] for i, j in pairs) / (z**2).sum()


def test_morans_i_is_the_sum_over_pairs_and_passes_over_the_spot_itself():
    values, _ = maps()
    centres = scattered()[:, ::-1] * 100.0
    rows = neighbourhoods(centres, pitch_um=100.0, side=3, angle=0.0).rows
    expected = [morans_by_loops(values[:, g], rows) for g in range(4)]
    np.testing.assert_allclose(morans_i(values, rows), expected, rtol=1e-10)
    # A neighbour that is listed twice is one neighbour.
    np.testing.assert_allclose(morans_i(values, np.hstack([rows, rows])), expected, rtol=1e-10)


def test_a_checkerboard_has_minus_one_and_an_alternating_ring_of_pairs_has_zero():
    row, column = np.divmod(np.arange(64), 8)
    centres = np.stack([column, row], axis=1) * 100.0
    rows = neighbourhoods(centres, pitch_um=100.0, side=3).rows
    edges = rows[:, [1, 3, 5, 7]]  # above, left, right, below
    board = ((row + column) % 2.0)[:, None]
    assert morans_i(board, edges) == pytest.approx(-1.0)
    # On a ring of + + - - every spot has one like it and one unlike it.
    spot = np.arange(12)
    ring = np.stack([(spot - 1) % 12, (spot + 1) % 12], axis=1)
    assert morans_i((spot // 2 % 2.0)[:, None], ring) == pytest.approx(0.0, abs=1e-12)


def test_morans_i_is_unknown_for_a_flat_map_or_without_neighbours():
    values, _ = maps()
    values[:, 0] = 0.1
    ring = (np.arange(90)[:, None] + 1) % 90
    np.testing.assert_array_equal(np.isnan(morans_i(values, ring)), [True, False, False, False])
    assert np.isnan(morans_i(values, np.full((90, 4), -1))).all()


def test_patterns_are_kept_by_a_monotone_blur_of_patterned_genes_and_not_by_a_shuffle():
    row, column = np.divmod(np.arange(144), 12)
    rows = neighbourhoods(np.stack([column, row], 1) * 100.0, pitch_um=100.0, side=3).rows
    rng = np.random.default_rng(2)
    share = np.linspace(0, 1, 12)
    measured = share * (row[:, None] / 12) + (1 - share) * rng.uniform(size=(144, 12))
    own = morans_i(measured, rows)
    assert kept_morans_i(own, morans_i(3 * measured + 1, rows)) == pytest.approx(1.0)
    assert kept_morans_i(own, own[::-1]) < -0.8
    assert np.isnan(kept_morans_i(own[:2], own[:2]))
    assert kept_morans_i(np.append(own, np.nan), np.append(own, 0.5)) == pytest.approx(1.0)


def test_tables_that_do_not_go_together_are_refused():
    measured, imputed = maps()
    with pytest.raises(SectionError, match="must be one table"):
        gene_correlation(measured, imputed[:, :3])
    with pytest.raises(SectionError, match="whole numbers"):
        map_ssim(measured, imputed, scattered() * 1.0)
    with pytest.raises(SectionError, match="row 90 of 90"):
        morans_i(measured, np.full((90, 2), 90))
    with pytest.raises(SectionError, match="90 spots fall on 1 places"):
        map_ssim(measured, imputed, np.zeros((90, 2), dtype=int))
