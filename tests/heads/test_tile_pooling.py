"""Tiles as one row a patient, against NumPy on each patient's tiles."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.heads import tile_pooling
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.tile_pooling import N_PARTS, pool

SIZES = (7, 1, 0, 30, 2)


@pytest.fixture
def tiles() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(5, 2, size=(n, 4)).astype(np.float16) for n in SIZES]


def test_quantiles_are_numpys_feature_by_feature(tiles):
    pooled = pool(Bags.from_arrays(tiles), "quantiles")
    for row, values in zip(pooled, tiles, strict=True):
        if not len(values):
            assert np.isnan(row).all()
            continue
        expected = np.quantile(values.astype(np.float64), [0.1, 0.5, 0.9], axis=0)
        np.testing.assert_allclose(row, expected.ravel(), rtol=1e-12)


def test_means_come_first_and_then_the_deviations_in_float64(tiles):
    pooled = pool(Bags.from_arrays(tiles), "mean+sd")
    for row, values in zip(pooled, tiles, strict=True):
        exact = values.astype(np.float64)
        if not len(values):
            assert np.isnan(row).all()
            continue
        np.testing.assert_allclose(row, np.r_[exact.mean(axis=0), exact.std(axis=0)], rtol=1e-12)
    assert (pooled[1, 4:] == 0).all()  # a single tile does not vary


def test_the_mean_alone_is_that_of_the_bags(tiles):
    bags = Bags.from_arrays(tiles)
    np.testing.assert_array_equal(pool(bags, "mean"), bags.pooled_mean())


@pytest.mark.parametrize("pooling", list(N_PARTS))
def test_rows_have_as_many_parts_as_is_said(tiles, pooling):
    assert pool(Bags.from_arrays(tiles), pooling).shape == (5, 4 * N_PARTS[pooling])


@pytest.mark.parametrize("pooling", ["mean+sd", "quantiles"])
def test_looking_at_one_feature_after_another_changes_nothing(tiles, pooling, monkeypatch):
    bags = Bags.from_arrays(tiles)
    whole = pool(bags, pooling)
    monkeypatch.setattr(tile_pooling, "_BLOCK_CELLS", 10)
    np.testing.assert_allclose(pool(bags, pooling), whole, rtol=1e-12)
