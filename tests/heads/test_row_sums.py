"""Sums of float16 rows by integers: to the last bit those of adding row after row in float64."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from storm_clinic.heads import row_sums
from storm_clinic.heads.row_sums import RowSums

EVERY_FINITE = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
EVERY_FINITE = EVERY_FINITE[np.isfinite(EVERY_FINITE)]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(row_sums, "_BLOCK_VALUES", 60)
    monkeypatch.setattr(row_sums, "_WIDENED_VALUES", 90)
    monkeypatch.setattr(row_sums, "_FEWEST_VALUES", 1)


def added_in_order(rows):
    """What it stands for, row by row."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total = total + row.astype(np.float64)
    return total


def test_every_float16_is_widened_to_itself():
    found = RowSums(EVERY_FINITE.size)._exact(EVERY_FINITE[None])
    np.testing.assert_array_equal(found, EVERY_FINITE.astype(np.float64))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_rows", [1, 2, 29, 30, 31, 200])
def test_sums_of_any_float16_are_those_of_every_row_in_turn(small_blocks, seed, n_rows):
    rng = np.random.default_rng(seed)
    rows = rng.choice(EVERY_FINITE, size=(n_rows, 3))
    sums = RowSums(3)
    assert sums._exact(rows).tobytes() == added_in_order(rows).tobytes()
    assert sums.of(rows).tobytes() == added_in_order(rows).tobytes()
    exact = [float(sum(Fraction(float(x)) for x in column)) for column in rows.T]
    assert sums.of(rows).tolist() == exact


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 30.0])
def test_means_of_embeddings_keep_their_bits(scale):
    rng = np.random.default_rng(5)
    rows = (scale * rng.standard_normal((700, 384))).astype(np.float16)
    assert RowSums(384)._exact(rows).tobytes() == added_in_order(rows).tobytes()


def test_zeros_of_either_sign_add_up_to_zero():
    rows = np.array([[-0.0, -0.0, 1.5], [-0.0, 0.0, -1.5]], np.float16)
    found = RowSums(3)._exact(rows)
    assert found.tolist() == [0, 0, 0]
    assert not np.signbit(found).any()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
def test_what_is_not_finite_is_added_as_numpy_does(small_blocks, value):
    rows = np.ones((70, 3), np.float16)
    rows[65, 1] = value
    sums = RowSums(3)
    assert sums._exact(rows) is None
    expected = [70, np.nan if math.isnan(value) else value, 70]
    np.testing.assert_array_equal(sums.of(rows), expected)


def test_where_float64_rounds_rows_are_added_one_after_the_other(small_blocks):
    # 8,193 times 65,504 is beyond 2**29, where a sum no longer holds the last bits of 2**-24.
    rows = np.full((9_000, 3), np.finfo(np.float16).max)
    rows[1::2] = np.float16(2**-24)
    rows[::7, 1:] *= -1
    sums = RowSums(3)
    assert sums._exact(rows[:8_100]) is not None
    tall = np.vstack([rows[::2], rows[::2], rows])
    assert sums._exact(tall) is None
    assert sums.of(tall).tobytes() == added_in_order(tall).tobytes()


def test_a_total_stays_when_the_next_is_made(small_blocks):
    sums = RowSums(2)
    for dtype in (np.float16, np.float32):
        first = sums.of(np.ones((3, 2), dtype))
        sums.of(np.full((5, 2), 7, dtype))
        assert first.tolist() == [3, 3]


@pytest.mark.parametrize("dtype", [">f2", "<f2", "<f4", ">f4", "<f8"])
def test_other_types_and_strided_rows_are_added_too(small_blocks, dtype):
    values = np.random.default_rng(2).normal(size=(140, 6)).astype(dtype)
    for rows in (values[:, :3], values[::2, 3:], values[:, ::2]):
        assert RowSums(3).of(rows).tobytes() == added_in_order(rows).tobytes()


@pytest.mark.parametrize("n_rows", [127, 128])
def test_few_rows_and_many_are_added_to_the_same_bits(n_rows):
    rows = np.random.default_rng(4).normal(size=(n_rows, 128)).astype(np.float16)
    assert RowSums(128).of(rows).tobytes() == added_in_order(rows).tobytes()


def test_a_memory_map_is_only_read(small_blocks, tmp_path):
    rows = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert RowSums(4).of(mapped).tobytes() == added_in_order(rows).tobytes()


def test_a_processor_told_to_drop_subnormals_changes_nothing(small_blocks):
    torch = pytest.importorskip("torch")
    rows = np.full((40, 3), np.float16(2**-24))
    expected = added_in_order(rows)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot be told")
    try:
        found = RowSums(3).of(rows)
    finally:
        torch.set_flush_denormal(False)
    assert found.tobytes() == expected.tobytes()
    assert found.tolist() == [40 * 2**-24] * 3
