from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import CompetingRisks
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.incidence import cumulative_incidence, incidence_at

_FILE = Path(__file__).resolve().parents[1] / "golden" / "curves_cases.py"
_SPEC = importlib.util.spec_from_file_location("curves_cases", _FILE)
_CASES = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _CASES
_SPEC.loader.exec_module(_CASES)
_R = _CASES.values()


@pytest.mark.parametrize("name", [name for name in _R if "incidence" in _R[name]])
def test_shares_by_group_are_those_of_cmprsk_whose_errors_differ_by_little(name):
    data, r = _CASES.table(name), _R[name]["incidence"]
    for group, (value, se) in enumerate(zip(r["value"], r["se"], strict=True)):
        outcome = _CASES.competing(data[data["group"] == group])
        found = incidence_at(outcome, data["horizon"].iloc[0])
        assert found.value == pytest.approx(value, abs=1e-9)
        # cmprsk: delta method; here, as survfit: infinitesimal jackknife.
        assert found.se == pytest.approx(se, rel=0.06)


def drawn(seed, n=60):
    rng = np.random.default_rng(seed)
    time, cause = np.ceil(rng.exponential(12, n)), rng.integers(0, 3, n)
    entry = np.where(rng.random(n) < 0.5, 0.0, np.floor(time * rng.random(n)))
    return CompetingRisks(time, cause, ("relapse", "death"), entry)


@pytest.mark.parametrize("months", [0, 0.5, 6, 11.5])
def test_one_time_gives_what_the_whole_curve_gives_there(months):
    for seed in range(5):
        outcome = drawn(seed)
        found = incidence_at(outcome, months)
        expected = cumulative_incidence(outcome).at(months)
        assert (found.value, found.lower, found.upper) == pytest.approx(expected, abs=1e-12)


def test_a_share_that_has_reached_one_keeps_the_bound_before():
    outcome = CompetingRisks(np.array([1.0, 2, 3]), np.array([1, 1, 1]), ("relapse", "death"))
    found = incidence_at(outcome, 5)
    assert (found.value, found.upper) == (1, 1)
    assert 0 < found.lower == incidence_at(outcome, 2).lower


def test_a_time_beyond_the_follow_up_is_refused():
    outcome = CompetingRisks(np.array([1.0, 2]), np.array([1, 0]), ("relapse", "death"))
    for months in (2.1, -1):
        with pytest.raises(StatisticsError, match=r"\[0, 2\]"):
            incidence_at(outcome, months)


def test_with_one_cause_the_band_is_that_of_kaplan_meier_upside_down():
    outcome = drawn(7)
    whole = CompetingRisks(
        outcome.time_months, (outcome.cause == 1).astype(np.int64), outcome.causes
    )
    event = whole.cause_specific()
    ours, free = incidence_at(whole, 8), kaplan_meier(event).at(8)
    assert ours.value == pytest.approx(1 - free.value)
    # Greenwood's error and the jackknife's differ a little under censoring.
    assert (ours.lower, ours.upper) == pytest.approx((1 - free.upper, 1 - free.lower), abs=0.02)
