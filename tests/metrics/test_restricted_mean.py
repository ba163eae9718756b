from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from lifelines.datasets import load_lung

from storm_clinic.cohort.outcome import MONTHS_PER, CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.incidence import Incidence
from storm_clinic.metrics.restricted_mean import difference, restricted_mean, restricted_time_lost

_FILE = Path(__file__).resolve().parents[1] / "golden" / "curves_cases.py"
_SPEC = importlib.util.spec_from_file_location("curves_cases", _FILE)
_CASES = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _CASES
_SPEC.loader.exec_module(_CASES)
_R = _CASES.values()

exactly = {"rel": 0, "abs": 1e-9}


def with_values(*keys):
    return pytest.mark.parametrize("name", [n for n in _R if all(key in _R[n] for key in keys)])


def by_sex():
    lung = load_lung()
    outcome = Survival.from_arrays(lung["time"], lung["status"])
    return [outcome.take(np.flatnonzero(lung["sex"] == sex)) for sex in (1, 2)]


def test_the_anchors_of_the_lung_cohort_by_sex_hold():
    men, women = (restricted_mean(outcome, 730) for outcome in by_sex())
    assert (men.value, women.value) == pytest.approx((311.118, 434.705), abs=5e-4)
    assert (men.se, women.se) == pytest.approx((19.302, 27.248), abs=5e-4)
    r = _R["lung_by_sex"]
    assert [men.value, women.value] == pytest.approx(r["rmean"], **exactly)
    assert [men.se, women.se] == pytest.approx(r["se"], **exactly)


def test_the_difference_adds_the_variances_of_independent_groups():
    men, women = (restricted_mean(outcome, 730) for outcome in by_sex())
    found = difference(women, men)
    assert found.value == pytest.approx(123.587, abs=1e-3)
    assert found.se == pytest.approx(np.hypot(19.302, 27.248), abs=1e-3)
    assert (found.lower, found.upper) == pytest.approx(
        (found.value - 1.959964 * found.se, found.value + 1.959964 * found.se)
    )
    assert found.p == pytest.approx(0.00021508, abs=1e-6)
    assert difference(men, women).p == found.p


@with_values("restricted")
def test_means_by_group_are_those_of_survfit(name):
    data = _CASES.table(name)
    for r in _R[name]["restricted"]:
        outcome = _CASES.survival(data[data["group"] == r["group"]])
        found = restricted_mean(outcome, data["tau"].iloc[0])
        assert (found.value, found.se) == pytest.approx((r["value"], r["se"]), **exactly)


@with_values("time_lost")
def test_time_lost_to_each_cause_is_that_of_survfit(name):
    data = _CASES.table(name)
    for r in _R[name]["time_lost"]:
        outcome = _CASES.competing(data[data["group"] == r["group"]])
        for cause in (1, 2):
            found = restricted_time_lost(outcome, data["tau"].iloc[0], cause=cause)
            expected = (r["value"][cause - 1], r["se"][cause - 1])
            assert (found.value, found.se) == pytest.approx(expected, **exactly)


def test_without_censoring_it_is_the_mean_of_times_cut_at_tau():
    rng = np.random.default_rng(1)
    time = rng.integers(1, 30, 60).astype(float)
    found = restricted_mean(Survival(time, np.ones(60, dtype=bool)), 17.5)
    cut = np.minimum(time, 17.5)
    assert found.value == pytest.approx(cut.mean())
    assert found.se == pytest.approx(cut.std() / np.sqrt(60))


def drawn(seed, n=70, entry=False):
    rng = np.random.default_rng(seed)
    time, cause = np.ceil(rng.exponential(20, n)), rng.integers(0, 3, n)
    start = np.where(rng.random(n) < 0.5, 0.0, np.floor(time * rng.random(n)))
    return CompetingRisks(time, cause, ("relapse", "death"), start if entry else None)


def test_time_lost_to_all_causes_and_time_free_of_them_make_up_tau():
    outcome = drawn(2)
    any_cause = Survival(outcome.time_months, outcome.cause > 0)
    lost = [restricted_time_lost(outcome, 15, cause=cause).value for cause in (1, 2)]
    assert sum(lost) + restricted_mean(any_cause, 15).value == pytest.approx(15)


@pytest.mark.parametrize("entry", [False, True])
def test_an_influence_on_time_lost_is_its_derivative_by_each_weight(entry):
    outcome = drawn(3, entry=entry)
    share, step = Incidence(outcome), 1e-5 * np.eye(70)
    moved = (share.lost(1 + step, 15) - share.lost(1 - step, 15)) / 2e-5
    assert share.lost_influence(np.ones((1, 70)), 15)[0] == pytest.approx(moved, abs=1e-7)


def test_days_give_the_same_number_as_months():
    days = by_sex()[0]
    months = Survival(days.time_months * MONTHS_PER["days"], days.event)
    found = restricted_mean(months, 730 * MONTHS_PER["days"])
    expected = restricted_mean(days, 730)
    assert found.value / MONTHS_PER["days"] == pytest.approx(expected.value)
    assert found.se / MONTHS_PER["days"] == pytest.approx(expected.se)


def test_without_an_event_everybody_is_free_up_to_tau():
    found = restricted_mean(Survival.from_arrays([5, 6, 9], [0, 0, 0]), 8)
    assert (found.value, found.se, found.lower, found.upper) == (8, 0, 8, 8)
    none = restricted_time_lost(CompetingRisks(np.array([5.0, 9]), np.array([2, 0]), ("a", "b")), 8)
    assert (none.value, none.se, none.n_events) == (0, 0, 0)
    assert difference(found, found).p is None


def test_the_interval_stays_between_nothing_and_tau():
    found = restricted_mean(Survival.from_arrays([0.5, 6, 9], [1, 0, 0]), 6)
    assert found.upper == 6
    assert restricted_mean(Survival.from_arrays([0.1, 9], [1, 1]), 9).lower == 0


@pytest.mark.parametrize("tau", [0, -3, 9.1, np.inf, np.nan])
def test_a_tau_beyond_the_follow_up_is_refused_with_the_range(tau):
    with pytest.raises(StatisticsError, match=r"\(0, 9\] months"):
        restricted_mean(Survival.from_arrays([1, 5, 9], [1, 0, 0]), tau)
    with pytest.raises(StatisticsError, match=r"\(0, 9\] months"):
        restricted_time_lost(
            CompetingRisks(np.array([1.0, 5, 9]), np.array([1, 2, 0]), ("a", "b")), tau
        )


def test_once_everybody_had_the_event_any_tau_is_legal():
    assert restricted_mean(Survival.from_arrays([1, 3], [1, 1]), 50).value == 2
