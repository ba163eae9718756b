from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import NoComparablePairs, StatisticsError
from storm_clinic.metrics.competing import wolbers_concordance
from storm_clinic.metrics.landmark import at_landmark, landmark_concordance

_FILE = Path(__file__).resolve().parents[1] / "golden" / "curves_cases.py"
_SPEC = importlib.util.spec_from_file_location("curves_cases", _FILE)
_CASES = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _CASES
_SPEC.loader.exec_module(_CASES)
_R = _CASES.values()

exactly = {"rel": 0, "abs": 1e-9}


def with_values(*keys):
    return pytest.mark.parametrize("name", [n for n in _R if all(key in _R[n] for key in keys)])


@with_values("landmark")
def test_the_c_index_after_a_landmark_is_that_of_r_on_those_left(name):
    data, r = _CASES.table(name), _R[name]["landmark"]
    found = landmark_concordance(
        _CASES.survival(data), data["risk"], r["at"], tau_months=data["tau"].iloc[0]
    )
    assert (found.value, found.se) == pytest.approx((r["c"], r["se"]), **exactly)
    assert (found.n_patients, found.n_events) == (r["n"], r["events"])


def test_who_had_an_event_or_was_censored_by_the_landmark_is_out():
    outcome = Survival.from_arrays([3, 6, 6, 7, 9], [1, 1, 0, 1, 0])
    left = at_landmark(outcome, 6)
    assert left.patients.tolist() == [3, 4]
    assert left.outcome.time_months.tolist() == [1, 3]
    assert left.outcome.event.tolist() == [True, False]


def test_who_enters_after_the_landmark_is_out_and_nobody_enters_late_from_there():
    outcome = Survival.from_arrays([8, 9, 9], [1, 1, 0], [0, 5, 6])
    left = at_landmark(outcome, 5)
    assert left.patients.tolist() == [0, 1]
    assert left.outcome.entry_months is None


def test_a_competing_event_before_the_landmark_ends_a_patient_too():
    time, cause = np.array([2.0, 4, 6, 8, 9]), np.array([2, 1, 2, 1, 0])
    left = at_landmark(CompetingRisks(time, cause, ("relapse", "death")), 3)
    assert left.outcome.cause.tolist() == [1, 2, 1, 0]
    assert left.outcome.causes == ("relapse", "death")


def test_with_competing_risks_it_is_wolbers_c_of_those_left():
    data = _CASES.table("competing_lung_monthly")
    outcome, risk = _CASES.competing(data), data["risk"].to_numpy()
    left = at_landmark(outcome, 6)
    found = landmark_concordance(outcome, risk, 6, tau_months=24.5)
    expected = wolbers_concordance(left.outcome, risk[left.patients], tau_months=18.5)
    assert found.value == expected.value


def test_at_a_landmark_of_zero_it_is_the_whole_cohort():
    outcome = Survival.from_arrays([3, 6, 7, 9], [1, 1, 1, 0])
    left = at_landmark(outcome, 0)
    assert left.patients.tolist() == [0, 1, 2, 3]


def test_folds_follow_their_patients():
    outcome = Survival.from_arrays([1, 4, 5, 6, 7], [1, 1, 1, 1, 0])
    # After 2 months: 4 > 5 within the first fold, 6 < 7 within the second.
    found = landmark_concordance(outcome, [9, 4, 3, 1, 2], 2, within=np.array([0, 0, 0, 1, 1]))
    assert found.value == 0.5


def test_landmarks_where_nobody_or_no_event_is_left_are_refused():
    outcome = Survival.from_arrays([3, 6, 7, 9], [1, 1, 0, 0])
    with pytest.raises(StatisticsError, match="before 9 months"):
        at_landmark(outcome, 9)
    with pytest.raises(StatisticsError, match="from 0 on"):
        at_landmark(outcome, -1)
    with pytest.raises(NoComparablePairs):
        landmark_concordance(outcome, [1, 2, 3, 4], 6)
    with pytest.raises(StatisticsError, match="from 6 months on"):
        landmark_concordance(outcome, [1, 2, 3, 4], 6, tau_months=6)
