"""The energy distance against R, its definition pair by pair, and closed forms; and its test."""

from __future__ import annotations

import importlib.util
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.energy_distance import energy_test

_GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_R = json.loads((_GOLDEN / "energy.json").read_text())


def _cases() -> Any:
    spec = importlib.util.spec_from_file_location("energy_cases", _GOLDEN / "energy_cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_CASES = _cases()


def by_pairs(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, one pair after another."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.linalg.norm(u - v) for u in a for v in b]))

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


@pytest.mark.parametrize("case", _CASES.CASES)
def test_distance_and_test_are_those_of_r(case):
    x, y = _CASES.samples(case)
    found = energy_test(x, y, seed=3)
    assert found.statistic == pytest.approx(_R[case]["statistic"], rel=1e-10)
    assert found.statistic == pytest.approx(_R[case]["edist"], rel=1e-10)
    # Both p are drawn, from 9,999 permutations each: four standard errors of their difference.
    p = _R[case]["p"]
    assert found.p == pytest.approx(p, abs=4 * np.sqrt(2 * p * (1 - p) / 9999) + 1e-4)


@pytest.mark.parametrize("case", _CASES.CASES)
def test_the_distance_is_its_definition_over_all_pairs(case):
    x, y = _CASES.samples(case)
    found = energy_test(x, y, permutations=19)
    assert found.distance == pytest.approx(by_pairs(x, y), rel=1e-10)
    between = np.mean([np.linalg.norm(u - v) for u in x for v in y])
    assert found.coefficient == pytest.approx(by_pairs(x, y) / (2 * between), rel=1e-10)


def test_of_one_value_it_is_twice_the_squared_gap_between_the_distribution_functions():
    # Székely & Rizzo 2013: in one dimension the distance is 2 ∫ (F - G)².
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=50), rng.normal(0.5, 2, size=35)
    grid = np.sort(np.concatenate([x, y]))
    F = np.searchsorted(np.sort(x), grid[:-1], side="right") / len(x)
    G = np.searchsorted(np.sort(y), grid[:-1], side="right") / len(y)
    expected = 2 * float(((F - G) ** 2 * np.diff(grid)).sum())
    found = energy_test(x[:, None], y[:, None], permutations=19)
    assert found.distance == pytest.approx(expected, rel=1e-10)


def test_of_two_normal_distributions_it_nears_the_value_known_for_them():
    delta = 1.5

    def mean_distance(shift: float) -> float:  # E|Z| of a normal with this mean and variance 2
        s = np.sqrt(2)
        return s * np.sqrt(2 / np.pi) * np.exp(-(shift**2) / 4) + shift * (
            1 - 2 * norm.cdf(-shift / s)
        )

    expected = 2 * mean_distance(delta) - 2 * mean_distance(0.0)
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(1500, 1)), rng.normal(delta, 1, size=(1500, 1))
    assert energy_test(x, y, permutations=19).distance == pytest.approx(expected, rel=0.08)


def test_p_is_the_share_of_all_divisions_that_are_at_least_as_far_apart():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(5, 2)), rng.normal(0.9, 1, size=(6, 2))
    pooled = np.concatenate([x, y])
    observed = by_pairs(x, y)
    far = []
    for chosen in combinations(range(11), 5):
        rest = np.setdiff1d(np.arange(11), chosen)
        far.append(by_pairs(pooled[list(chosen)], pooled[rest]) >= observed - 1e-12)
    found = energy_test(x, y, permutations=20_000, seed=1)
    assert found.p == pytest.approx(np.mean(far), abs=0.01)


def test_samples_of_one_distribution_are_told_apart_as_often_as_the_level_says():
    rng = np.random.default_rng(7)
    p = []
    for seed in range(400):
        pooled = rng.exponential(size=(30, 3))
        p.append(energy_test(pooled[:18], pooled[18:], permutations=99, seed=seed).p)
    # Exact: 5% of 400 is 20, give or take four standard errors.
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 400)


def test_a_spread_that_differs_is_seen_though_means_agree():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(80, 5)), 1.6 * rng.normal(size=(80, 5))
    assert energy_test(x, y - y.mean(0) + x.mean(0), permutations=999).p < 0.01


def test_which_sample_comes_first_and_the_order_of_patients_do_not_matter():
    x, y = _CASES.samples("shifted")
    found, swapped = energy_test(x, y, permutations=19), energy_test(y, x[::-1], permutations=19)
    assert swapped.distance == pytest.approx(found.distance, rel=1e-12)
    assert (swapped.n_first, swapped.n_second) == (found.n_second, found.n_first)


def test_equal_seeds_give_equal_p_and_p_is_never_nought():
    x, y = _CASES.samples("shifted")
    found = energy_test(x, y + 50, permutations=999, seed=2)
    assert found == energy_test(x, y + 50, permutations=999, seed=2)
    assert found.p == 1 / 1000


def test_samples_that_are_all_one_value_are_alike():
    found = energy_test(np.ones((5, 2)), np.ones((7, 2)), permutations=99)
    assert (found.distance, found.coefficient, found.p) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [
        (np.zeros((1, 2)), np.zeros((5, 2)), r"the first sample has shape \(1, 2\)"),
        (np.zeros((5, 2)), np.full((5, 2), np.nan), "the second sample .* not finite"),
        (np.zeros((5, 2)), np.zeros((5, 3)), "2 values a patient in one sample, 3 in the other"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(x, y, problem):
    with pytest.raises(StatisticsError, match=problem):
        energy_test(x, y)
