"""Packed bags: views, micro-batches, pooling, and the cache of a cohort."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest

from storm_clinic.errors import ContractMismatch, InputError
from storm_clinic.heads import bags as bags_module
from storm_clinic.heads import kept_rows, row_sums
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData
from storm_clinic.heads.tile_pooling import pool

SIZES = (3, 1, 7, 4, 20, 2)


@pytest.fixture
def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(loc=5, size=(n, 4)).astype(np.float16) for n in SIZES]


@pytest.fixture
def bags(arrays) -> Bags:
    return Bags.from_arrays(arrays)


def test_every_bag_holds_its_patients_tiles(bags, arrays):
    assert bags.sizes.tolist() == list(SIZES)
    assert all((bags.bag(i) == array).all() for i, array in enumerate(arrays))


def test_a_view_reorders_and_repeats_without_copying(bags, arrays):
    view = bags.take([4, 0, 4]).take(np.array([False, True, True]))
    assert view.sizes.tolist() == [3, 20]
    assert (view.bag(1) == arrays[4]).all()
    assert np.shares_memory(view.bag(1), bags.sources[0])


def test_cohorts_are_joined_without_copying(arrays):
    first, second = Bags.from_arrays(arrays[:4]), Bags.from_arrays(arrays[4:])
    joined = Bags.concat([first, second]).take([5, 0, 4])
    assert [(joined.bag(i) == arrays[j]).all() for i, j in enumerate([5, 0, 4])] == [True] * 3
    assert np.shares_memory(joined.bag(2), second.sources[0])
    values, sizes = joined.gather(slice(0, 3))
    assert (values == np.concatenate([arrays[5], arrays[0], arrays[4]])).all()
    assert sizes.tolist() == [2, 3, 20]


def test_cohorts_of_different_encoders_are_not_joined(arrays):
    wider = Bags.from_arrays([np.zeros((2, 9), dtype=np.float32)])
    with pytest.raises(ContractMismatch, match="different widths: 4 and 9"):
        Bags.concat([Bags.from_arrays(arrays), wider])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]])
@pytest.mark.parametrize("budget", [1, 8, 10, 1000])
def test_micro_batches_are_whole_bags_within_the_budget(bags, arrays, order, budget):
    view = bags.take(order)
    batches = view.micro_batches(budget)
    assert [i for batch in batches for i in range(batch.start, batch.stop)] == list(range(6))
    for batch in batches:
        values, sizes = view.gather(batch)
        assert sizes.sum() <= budget or len(sizes) == 1
        assert (
            values == np.concatenate([arrays[order[i]] for i in range(batch.start, batch.stop)])
        ).all()


def test_adjacent_bags_are_read_as_one_slice(bags):
    values, _ = bags.take([1, 2, 3]).gather(slice(0, 3))
    assert np.shares_memory(values, bags.sources[0])


def test_pooling_is_the_mean_of_each_bag_however_bags_are_batched(bags, arrays, monkeypatch):
    expected = np.stack([array.astype(np.float64).mean(axis=0) for array in arrays])
    np.testing.assert_allclose(bags.pooled_mean(), expected, rtol=1e-12)


class Counted(np.ndarray):
    """Counts how often rows are asked for."""

    n_reads = 0

    def __getitem__(self, key):
        Counted.n_reads += 1
        return np.asarray(super().__getitem__(key))


@pytest.mark.parametrize("pooling", ["mean", "mean+sd", "quantiles"])
def test_each_bag_is_read_once_however_often_folds_take_it(arrays, pooling, monkeypatch):
    plain = Bags.from_arrays(arrays)
    counted = replace(plain, sources=(plain.sources[0].view(Counted),))
    monkeypatch.setattr(Counted, "n_reads", 0)
    expected = pool(plain, pooling)
    fold = counted.take([3, 1, 4])
    np.testing.assert_array_equal(pool(fold, pooling), expected[[3, 1, 4]])
    n_reads = Counted.n_reads
    assert n_reads > 0
    np.testing.assert_array_equal(pool(counted.take([4, 4, 3]), pooling), expected[[4, 4, 3]])
    assert Counted.n_reads == n_reads
    # A caller may change what it was given.
    pool(fold, pooling)[:] = 0
    np.testing.assert_array_equal(pool(counted, pooling), expected)
    assert Counted.n_reads > n_reads


def test_rows_that_are_kept_are_bounded_and_stay_in_their_process(arrays, monkeypatch):
    bags = Bags.from_arrays(arrays)
    expected = bags.pooled_mean()
    sent = copy.deepcopy(bags)  # by way of what a pickle to another process would hold
    assert sent.kept.find(("mean", 0, int(bags.start[0]), int(bags.stop[0]))) is None
    np.testing.assert_array_equal(sent.pooled_mean(), expected)
    monkeypatch.setattr(kept_rows, "MOST_BYTES", 2 * expected[0].nbytes)
    few = Bags.from_arrays(arrays)
    few.pooled_mean()
    keys = [("mean", 0, int(a), int(b)) for a, b in zip(few.start, few.stop, strict=True)]
    assert sum(few.kept.find(key) is not None for key in keys) == 2
    np.testing.assert_array_equal(few.pooled_mean(), expected)


def test_rows_of_other_arrays_are_not_taken_for_these(arrays):
    bags = Bags.from_arrays([array.astype(np.float32) for array in arrays])
    means = bags.pooled_mean()
    other = replace(bags, sources=(bags.sources[0] + 1,))
    np.testing.assert_allclose(other.pooled_mean(), means + 1, rtol=1e-6)


def test_tile_moments_are_those_of_all_tiles_also_with_large_means():
    rng = np.random.default_rng(1)
    tiles = rng.normal(loc=1e4, scale=0.1, size=(30_000, 2)).astype(np.float32)
    bags = Bags.pack(tiles, np.arange(0, 30_001, 300))
    mean, deviation = bags.tile_moments()
    np.testing.assert_allclose(mean, tiles.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, tiles.astype(np.float64).std(axis=0), rtol=1e-8)


def test_a_feature_that_never_varies_may_be_divided_by():
    tiles = np.full((10_000, 1), 0.1, dtype=np.float32)
    assert Bags.pack(tiles, np.array([0, 9_000, 10_000])).tile_moments()[1].tolist() == [1.0]


@pytest.mark.parametrize("offsets", [[0, 3], [1, 5], [0, 4, 3, 5], []])
def test_offsets_that_do_not_divide_the_tiles_are_refused(offsets):
    with pytest.raises(InputError, match="offsets must ascend from 0 to the number of tiles"):
        Bags.pack(np.zeros((5, 2), dtype=np.float32), np.array(offsets, dtype=np.int64))


def test_a_patient_without_tiles_has_no_mean_and_is_not_present():
    tiles = [np.ones((2, 3), np.float32), np.ones((0, 3), np.float32), np.full((1, 3), 4.0)]
    data = PatientData(("a", "b", "c"), Bags.from_arrays(tiles))
    assert data.present("image").tolist() == [True, False, True]
    means = data.bags.pooled_mean()
    assert means[[0, 2]].tolist() == [[1, 1, 1], [4, 4, 4]]
    assert np.isnan(means[1]).all()
    assert np.isnan(data.take(np.array([1])).bags.pooled_mean()).all()
    centre, _ = data.bags.tile_moments()
    np.testing.assert_allclose(centre, [2, 2, 2])
    with pytest.raises(InputError, match="none of these patients has a tile"):
        data.bags.take([1]).tile_moments()


def test_places_go_with_their_tiles(bags):
    where = [np.full((size, 2), at, dtype=np.float32) for at, size in enumerate(bags.sizes)]
    placed = Bags.pack(bags.sources[0], np.append(0, np.cumsum(bags.sizes)), np.concatenate(where))
    both = Bags.concat([placed, bags]).take([4, 1, 8])
    assert placed.take([4, 1]).gather_places(slice(0, 2))[:, 0].tolist() == (
        [4.0] * bags.sizes[4] + [1.0] * bags.sizes[1]
    )
    assert placed.has_places
    assert not both.has_places
    with pytest.raises(InputError, match="nobody knows where"):
        both.gather_places(slice(0, 3))
    with pytest.raises(InputError, match="places of shape"):
        Bags.pack(np.zeros((5, 2)), [0, 5], np.zeros((4, 2), np.float32))


def test_parts_of_different_length_are_refused(bags):
    with pytest.raises(InputError, match="2 patients, but 6 image bags"):
        PatientData(("a", "b"), bags)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_means_summed_in_blocks_are_those_of_exact_sums(dtype, monkeypatch):
    rng = np.random.default_rng(3)
    tiles = rng.normal(3, 5, size=(105, 3)).astype(dtype)
    monkeypatch.setattr(row_sums, "_BLOCK_VALUES", 30)  # blocks of ten tiles
    monkeypatch.setattr(row_sums, "_WIDENED_VALUES", 30)
    monkeypatch.setattr(row_sums, "_FEWEST_VALUES", 1)
    sizes = (20, 0, 1, 31, 53)
    means = Bags.pack(tiles, np.concatenate([[0], np.cumsum(sizes)])).pooled_mean()
    for row, part in zip(means, np.split(tiles, np.cumsum(sizes)[:-1]), strict=True):
        exact = [math.fsum(column) / len(part) if len(part) else math.nan for column in part.T]
        np.testing.assert_allclose(row, exact, rtol=1e-14)


def test_moments_of_a_bag_above_the_budget_are_taken_piece_by_piece(monkeypatch):
    tiles = np.random.default_rng(4).normal(9, 2, size=(1000, 3)).astype(np.float32)
    bags = Bags.pack(tiles, np.array([0, 10, 950, 1000]))
    monkeypatch.setattr(bags_module, "TILE_BUDGET", 64)
    pieces = list(bags._float64_batches())
    assert max(map(len, pieces)) == 64
    mean, deviation = bags.tile_moments()
    exact = tiles.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, exact.std(axis=0), rtol=1e-12)
