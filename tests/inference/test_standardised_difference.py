"""Distances of two cohorts in standard deviations: R by definition, closed forms, edges."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.standardised_difference import (
    categorical_difference,
    continuous_difference,
)

_GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_R = json.loads((_GOLDEN / "shift.json").read_text())


def _cases() -> Any:
    spec = importlib.util.spec_from_file_location("shift_cases", _GOLDEN / "shift_cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_CASES = _cases()


@pytest.mark.parametrize("case", sorted(_CASES.LEVELS))
def test_levels_differ_as_in_r(case):
    counts, other = _CASES.LEVELS[case]
    assert categorical_difference(counts, other) == pytest.approx(_R["levels"][case], abs=1e-9)


@pytest.mark.parametrize("case", sorted(_CASES.MOMENTS))
def test_means_differ_as_in_r(case):
    mean, sd, other_mean, other_sd = _CASES.MOMENTS[case]
    found = continuous_difference(other_mean, other_sd, mean, sd)
    assert found == pytest.approx(_R["moments"][case], abs=1e-9)


def test_two_levels_are_the_difference_of_proportions_without_its_sign():
    p, q = 0.4, 0.75
    by_hand = abs(p - q) / np.sqrt((p * (1 - p) + q * (1 - q)) / 2)
    assert categorical_difference([60, 40], [25, 75]) == pytest.approx(by_hand)


def test_the_order_of_levels_and_of_cohorts_does_not_matter():
    a, b = np.array([120, 40, 90, 50]), np.array([30, 35, 60, 75])
    swapped = [2, 0, 3, 1]
    assert categorical_difference(a, b) == pytest.approx(categorical_difference(b, a))
    assert categorical_difference(a, b) == pytest.approx(
        categorical_difference(a[swapped], b[swapped])
    )


def test_more_of_the_same_patients_changes_nothing():
    assert categorical_difference([40, 60, 9], [20, 30, 44]) == pytest.approx(
        categorical_difference([400, 600, 90], [20, 30, 44])
    )


def test_a_level_that_nobody_has_changes_nothing():
    assert categorical_difference([40, 0, 60], [75, 0, 25]) == pytest.approx(
        categorical_difference([40, 60], [75, 25])
    )


def test_equal_shares_do_not_differ():
    assert categorical_difference([10, 20, 30], [1, 2, 3]) == pytest.approx(0, abs=1e-12)


def test_a_higher_mean_is_positive():
    assert continuous_difference(66, 10, 60, 10) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("own", "other"), [([10, 0], [0, 10]), ([10, 5, 0, 0], [0, 0, 3, 7]), ([1, 0, 0], [0, 1, 5])]
)
def test_cohorts_without_a_common_level_are_not_called_alike(own, other):
    with pytest.raises(StatisticsError, match="infinitely far"):
        categorical_difference(own, other)


def test_a_variable_that_does_not_vary_has_no_distance():
    with pytest.raises(StatisticsError, match="varies in neither"):
        categorical_difference([10], [20])
    with pytest.raises(StatisticsError, match="varies in neither"):
        continuous_difference(1, 0, 2, 0)


@pytest.mark.parametrize("counts", [[0, 0], [-1, 5], [np.nan, 5], [1, 2, 3]])
def test_refuses_counts_that_are_none(counts):
    with pytest.raises(StatisticsError):
        categorical_difference(counts, [5, 5])


@pytest.mark.parametrize("moments", [(np.nan, 1, 0, 1), (0, -1, 0, 1), (0, 1, np.inf, 1)])
def test_refuses_moments_that_are_none(moments):
    with pytest.raises(StatisticsError, match="finite"):
        continuous_difference(*moments)
