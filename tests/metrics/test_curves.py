from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.curves import at_risk, follow_up, kaplan_meier

_FILE = Path(__file__).resolve().parents[1] / "golden" / "curves_cases.py"
_SPEC = importlib.util.spec_from_file_location("curves_cases", _FILE)
_CASES = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _CASES
_SPEC.loader.exec_module(_CASES)
_R = _CASES.values()

exactly = {"rel": 0, "abs": 1e-9}


def with_values(key):
    return pytest.mark.parametrize("name", [name for name in _R if _R[name].get(key)])


def at_times(curve, months):
    return np.searchsorted(curve.times_months, np.asarray(months) - 1e-9)


@pytest.mark.parametrize(
    ("key", "band", "weighted"),
    [("loglog", "log-log", False), ("log", "log", False), ("weighted", "log-log", True)],
)
@pytest.mark.golden("curves")
def test_the_curve_and_its_band_are_those_of_survfit(golden, key, band, weighted):
    r = golden.r("curves", key)
    weights = golden.case.column("weight") if weighted else None
    curve = kaplan_meier(golden.outcome, band=band, weights=weights)
    k = at_times(curve, golden.months(r["time"]))
    for ours, theirs in (
        (curve.at_risk, "n_risk"),
        (curve.events, "n_event"),
        (curve.censored, "n_censor"),
        (curve.survival, "survival"),
    ):
        assert ours[k] == pytest.approx(np.array(r[theirs], dtype=float), **exactly)
    # R has no band where the curve is 1 (log-log only) or 0, and no error where it is 0.
    survival = np.array(r["survival"])
    inside = (survival > 0) & (survival < 1)
    for ours, theirs in ((curve.se, "se"), (curve.lower, "lower"), (curve.upper, "upper")):
        expected = np.array(r[theirs], dtype=float)[inside]
        assert ours[k][inside] == pytest.approx(expected, **exactly)


@pytest.mark.golden("curves")
def test_quantiles_and_their_intervals_are_those_of_survfit(golden):
    r = golden.r("curves", "quantiles")
    ours = [kaplan_meier(golden.outcome).quantile(share) for share in (0.25, 0.5, 0.75)]
    for position, name in enumerate(("quantile", "lower", "upper")):
        for found, expected in zip(ours, golden.months(r[name]), strict=True):
            assert found[position] == (None if expected is None else pytest.approx(expected))


@pytest.mark.golden("curves", "follow_up")
def test_follow_up_is_the_reverse_kaplan_meier_of_r(golden):
    r = golden.r("curves", "follow_up")
    ours = follow_up(golden.outcome)
    found = (ours.lower_quartile, ours.median, ours.upper_quartile, ours.lower, ours.upper)
    expected = [*r["quantile"], r["lower"][1], r["upper"][1]]
    for mine, theirs in zip(found, golden.months(expected), strict=True):
        assert mine == (None if theirs is None else pytest.approx(theirs))


@pytest.mark.golden("curves", "at_risk")
def test_numbers_at_risk_are_those_of_r(golden):
    r = golden.r("curves", "at_risk")
    groups = np.unique(golden.case.column("group"), return_inverse=True)[1]
    ours = at_risk(golden.outcome, np.array(golden.months(r["time"])) - 1e-9, groups)
    assert ours.tolist() == r["n"]


@with_values("at_risk")
def test_numbers_at_risk_of_groups_are_those_of_survfit_also_with_entry_times(name):
    data = _CASES.table(name)
    outcome = _CASES.survival(data)
    for r in _R[name]["at_risk"]:
        found = at_risk(outcome, r["time"], data["group"])
        assert found[r["group"]].tolist() == r["n"]


@with_values("follow_up")
def test_follow_up_is_that_of_r_with_entry_times_and_competing_risks_too(name):
    data, r = _CASES.table(name), _R[name]["follow_up"]
    ended = Survival.from_arrays(data["time"], data["cause"] > 0, data.get("entry"))
    ours = follow_up(ended)
    found = [ours.lower_quartile, ours.median, ours.upper_quartile, ours.lower, ours.upper]
    expected = [*r["quantile"], r["lower"], r["upper"]]
    assert found == [None if value is None else pytest.approx(value) for value in expected]


def test_between_times_nobody_is_counted_who_has_not_entered():
    outcome = Survival.from_arrays([5, 9, 9], [1, 1, 0], [0, 0, 4])
    assert at_risk(outcome, [3, 5]).tolist() == [[2, 3]]


def test_numbers_at_risk_count_who_has_entered_and_not_left():
    outcome = Survival.from_arrays([5, 5, 8], [1, 0, 1], [0, 3, 5])
    assert at_risk(outcome, [0, 3, 4, 5, 6, 9]).tolist() == [[1, 1, 2, 2, 1, 0]]


def test_a_curve_that_reaches_zero_keeps_a_band():
    curve = kaplan_meier(Survival.from_arrays([1, 2, 3], [1, 1, 1]))
    assert curve.survival[-1] == 0
    # The bound of the step before: whoever was alive then may be no longer.
    assert (curve.lower[-1], curve.upper[-1]) == (0, curve.upper[1])
    assert np.isfinite(curve.upper).all()


def test_without_events_the_curve_is_one_with_nothing_around_it():
    curve = kaplan_meier(Survival.from_arrays([1, 2, 3], [0, 0, 0]))
    assert set(curve.survival) | set(curve.lower) | set(curve.upper) == {1.0}
    assert curve.quantile() == (None, None, None)


def test_a_step_level_at_one_half_has_the_median_in_its_middle():
    curve = kaplan_meier(Survival.from_arrays([1, 2, 5, 9], [1, 1, 1, 1]))
    assert curve.quantile()[0] == pytest.approx(3.5)


def test_the_value_at_a_time_holds_from_the_step_before():
    curve = kaplan_meier(Survival.from_arrays([1, 2, 5, 9], [1, 0, 1, 0]))
    assert curve.at(0).value == 1
    assert curve.at(4.9).value == pytest.approx(0.75)
    assert curve.at(5).value == pytest.approx(0.375)
    with pytest.raises(StatisticsError, match=r"\[0, 9\]"):
        curve.at(9.1)


def test_beyond_the_last_death_of_everybody_the_curve_stays_zero():
    assert kaplan_meier(Survival.from_arrays([1, 2], [1, 1])).at(50).value == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 60))
def test_without_censoring_the_curve_is_the_share_still_alive(seed, n):
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 10, n).astype(float)
    curve = kaplan_meier(Survival(time, np.ones(n, dtype=bool)))
    expected = [(time > t).mean() for t in curve.times_months]
    assert curve.survival == pytest.approx(np.array(expected), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 60))
def test_weights_repeat_patients(random_cohort, seed, n):
    outcome, _ = random_cohort(seed, n)
    counts = np.random.default_rng(seed).integers(1, 4, n)
    weighted = kaplan_meier(outcome, weights=counts)
    repeated = kaplan_meier(outcome.take(np.repeat(np.arange(n), counts)))
    assert weighted.survival == pytest.approx(repeated.survival, abs=1e-12)
    assert weighted.upper == pytest.approx(repeated.upper, abs=1e-12)


@pytest.mark.parametrize("weights", [[1, -1, 1], [1, np.nan, 1], [1, 1]])
def test_illegal_weights_are_refused(weights):
    with pytest.raises(StatisticsError, match="weights"):
        kaplan_meier(Survival.from_arrays([1, 2, 3], [1, 0, 1]), weights=weights)
