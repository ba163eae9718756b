"""Random effects as metafor pools them, and laws that hold whatever pools them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.meta_analysis import heterogeneity, random_effects

_GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_R = json.loads((_GOLDEN / "shift.json").read_text())["sites"]


def _cases() -> Any:
    spec = importlib.util.spec_from_file_location("shift_cases", _GOLDEN / "shift_cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SITES


_SITES = _cases()


@pytest.mark.parametrize("case", sorted(_SITES))
def test_pools_as_metafor_does(case):
    found, r = random_effects(_SITES[case]["y"], _SITES[case]["se"]), _R[case]
    for name in ("value", "se", "lower", "upper", "tau2", "i2", "q"):
        assert getattr(found, name) == pytest.approx(r[name], abs=1e-8), name
    assert found.q_p == pytest.approx(r["q_p"], rel=1e-8)


@pytest.mark.parametrize("case", [name for name in sorted(_SITES) if name != "two"])
def test_expects_a_new_site_where_metafor_does_with_two_degrees_of_freedom_less(case):
    found, r = random_effects(_SITES[case]["y"], _SITES[case]["se"]), _R[case]
    assert found.prediction_lower == pytest.approx(r["riley_lower"], abs=1e-8)
    assert found.prediction_upper == pytest.approx(r["riley_upper"], abs=1e-8)


def test_two_sites_say_nothing_about_a_third():
    found = random_effects([0.1, 0.9], [0.2, 0.25])
    assert found.prediction_lower is None
    assert found.prediction_upper is None


def test_sites_with_equal_errors_have_the_mean_and_the_variance_in_closed_form():
    y, se = np.array([0.1, 0.5, 0.9, 1.4]), 0.2
    found = random_effects(y, np.full(4, se))
    assert found.value == pytest.approx(y.mean())
    assert found.tau2 == pytest.approx(y.var(ddof=1) - se**2)
    # With equal errors the factor is exactly 1 where there is variance between sites.
    assert found.se == pytest.approx(y.std(ddof=1) / 2)


def test_sites_that_agree_leave_nothing_between_them_and_are_not_surer_than_one_value():
    found = random_effects(**_named(_SITES["agree"]))
    assert (found.tau2, found.i2) == (0, 0)
    common = 1 / np.sqrt((1 / np.array(_SITES["agree"]["se"]) ** 2).sum())
    assert found.se == pytest.approx(common)
    assert found.upper - found.value > norm.ppf(0.975) * common


def test_tau2_is_where_the_restricted_likelihood_is_highest():
    y, se = (np.array(_SITES["spread"][name]) for name in ("y", "se"))

    def likelihood(tau2):
        w = 1 / (se**2 + tau2)
        mean = (w * y).sum() / w.sum()
        return norm.logpdf(y, mean, np.sqrt(1 / w)).sum() - np.log(w.sum()) / 2

    grid = np.linspace(0, 0.6, 6001)
    best = grid[np.argmax([likelihood(tau2) for tau2 in grid])]
    assert random_effects(y, se).tau2 == pytest.approx(best, abs=1e-4)


def test_moving_and_stretching_the_values_moves_and_stretches_the_answer():
    y, se = (np.array(_SITES["bcg"][name]) for name in ("y", "se"))
    plain, moved = random_effects(y, se), random_effects(3 - 2 * y, 2 * se)
    assert moved.value == pytest.approx(3 - 2 * plain.value)
    assert moved.tau2 == pytest.approx(4 * plain.tau2)
    assert moved.lower == pytest.approx(3 - 2 * plain.upper)
    assert moved.i2 == pytest.approx(plain.i2)


def test_the_order_of_sites_does_not_matter():
    y, se = (np.array(_SITES["bcg"][name]) for name in ("y", "se"))
    assert random_effects(y[::-1], se[::-1]).tau2 == pytest.approx(random_effects(y, se).tau2)


def test_the_interval_covers_the_mean_of_sites_about_as_often_as_it_says():
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(400):
        se = rng.uniform(0.1, 0.4, 6)
        found = random_effects(rng.normal(0.7, np.hypot(0.2, se)), se)
        covered += found.lower <= 0.7 <= found.upper
    assert 0.92 <= covered / 400 <= 0.98


def test_q_of_two_sites_is_the_squared_z_of_their_difference():
    q, df, p = heterogeneity([0.1, 0.9], [0.2, 0.25])
    z = 0.8 / np.hypot(0.2, 0.25)
    assert (q, df) == (pytest.approx(z**2), 1)
    assert p == pytest.approx(2 * norm.sf(z))


@pytest.mark.parametrize(
    ("y", "se", "says"),
    [
        ([0.5], [0.1], "two studies"),
        ([], [], "two studies"),
        ([0.5, 0.6], [0.1], "two studies"),
        ([0.5, 0.6], [0.1, 0.0], "above 0"),
        ([0.5, np.nan], [0.1, 0.1], "finite"),
        ([0.5, 0.6], [0.1, np.nan], "above 0"),
    ],
)
def test_refuses_what_cannot_be_pooled(y, se, says):
    with pytest.raises(StatisticsError, match=says):
        random_effects(y, se)


def _named(case):
    return {"estimates": case["y"], "errors": case["se"]}
