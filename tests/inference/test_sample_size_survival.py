"""Precision with censored times: R's information, brute force and simulated validations."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.sample_size_survival import (
    cox_slope_error,
    event_share,
    expected_survival_c,
    horizon_risk,
    known_by,
    size_for,
    survival_c_error,
)
from storm_clinic.inference.sample_size_validation import c_error
from storm_clinic.metrics.calibration import calibration_slope
from storm_clinic.metrics.discrimination import concordance

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "design.json").read_text(encoding="utf-8"))


def load_cases():
    spec = importlib.util.spec_from_file_location("design_golden_cases", FOLDER / "cases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.CASES


CASES = load_cases()


@pytest.mark.parametrize("name", ["lung", "lung_monthly", "gbsg2", "heart"])
def test_the_slopes_information_is_that_of_coxph_held_at_slope_1(name):
    case = CASES[name]()
    found = cox_slope_error(case.outcome, case.column("risk"))
    assert found == pytest.approx(GOLDEN[name]["slope_error"], rel=1e-9)


def simulated(rng, n: int, sd: float = 0.8, last: float = 60.0) -> tuple[Survival, np.ndarray]:
    lp = rng.normal(0, sd, n)
    time, end = rng.exponential(50 / np.exp(lp)), rng.uniform(5, last, n)
    return Survival.from_arrays(np.minimum(time, end), time <= end), lp


def test_errors_are_those_of_simulated_validations():
    rng = np.random.default_rng(2)
    n, slopes, cs, slope_errors, c_errors = 300, [], [], [], []
    for draw in range(400):
        outcome, lp = simulated(rng, n)
        slopes.append(calibration_slope(outcome, lp).value)
        cs.append(concordance(outcome, lp).value)
        slope_errors.append(cox_slope_error(outcome, lp))
        if draw < 15:
            c_errors.append(survival_c_error(outcome, lp, seed=draw, draws=20))
    assert np.mean(slope_errors) == pytest.approx(np.std(slopes), rel=0.1)
    assert np.mean(c_errors) == pytest.approx(np.std(cs), rel=0.1)
    # Newcombe's formula knows no pairs of two events.
    newcombe = c_error(expected_survival_c(lp), n, event_share(outcome))
    assert 1.1 < newcombe / np.std(cs) < 1.6


def test_a_simulated_c_does_not_know_who_had_the_event():
    outcome, lp = simulated(np.random.default_rng(1), 400)
    found = survival_c_error(outcome, lp, seed=3)
    # The same times with the predictions handed to other patients: the true C is lost, not this.
    other = survival_c_error(outcome, np.random.default_rng(8).permutation(lp), seed=3)
    assert other == pytest.approx(found, rel=0.1)
    assert found == survival_c_error(outcome, lp, seed=3)


def test_c_is_promised_by_the_spread_of_predictions():
    rng = np.random.default_rng(5)
    lp = rng.normal(0, 1, 20_000)
    time = rng.exponential(np.exp(-lp))
    seen = concordance(Survival.from_arrays(time + 1e-9, np.ones(20_000, bool)), lp).value
    assert expected_survival_c(lp) == pytest.approx(seen, abs=0.01)
    assert expected_survival_c(lp[:2000]) == pytest.approx(expected_survival_c(lp), abs=0.01)


def test_an_error_is_halved_by_four_times_the_patients():
    assert size_for(0.2, 0.1, 150) == 600
    assert size_for(0.1, 0.1, 150) == 150


def test_observed_risk_is_kaplan_meier_or_aalen_johansen():
    time, cause = np.array([1.0, 2, 3, 4, 5]), np.array([1, 0, 1, 0, 1])
    risk, error = horizon_risk(Survival.from_arrays(time, cause), 3.5)
    assert risk == pytest.approx(1 - 4 / 5 * 2 / 3)
    assert error == pytest.approx(4 / 5 * 2 / 3 * np.sqrt(1 / 20 + 1 / 6))
    both = CompetingRisks(time, np.array([1, 0, 2, 0, 1]), ("a", "b"))
    assert horizon_risk(both, 3.5)[0] == pytest.approx(1 / 5)
    with pytest.raises(StatisticsError, match="Legal are"):
        horizon_risk(both, 9.0)


def test_a_state_is_known_unless_the_patient_left_before():
    time = np.array([1.0, 2, 3, 9, 9])
    assert known_by(Survival.from_arrays(time, [1, 0, 1, 0, 1]), 5) == (4, 2)
    assert known_by(CompetingRisks(time, np.array([1, 0, 2, 0, 1]), ("a", "b")), 5) == (4, 1)


def test_no_event_all_events_and_equal_predictions_are_refused():
    time, lp = np.arange(1.0, 6.0), np.arange(5.0)
    with pytest.raises(StatisticsError, match="no event"):
        cox_slope_error(Survival.from_arrays(time, np.zeros(5)), lp)
    with pytest.raises(StatisticsError, match="had the event"):
        event_share(Survival.from_arrays(time, np.ones(5)))
    with pytest.raises(StatisticsError, match="same prediction"):
        cox_slope_error(Survival.from_arrays(time, np.ones(5)), np.ones(5))
    with pytest.raises(StatisticsError, match="no event"):
        survival_c_error(Survival.from_arrays(time, np.zeros(5)), lp, seed=1)
    with pytest.raises(StatisticsError, match="entry times"):
        survival_c_error(Survival.from_arrays(time, np.ones(5), time - 1), lp, seed=1)
    last_alone = Survival.from_arrays(time, [0, 0, 0, 0, 1])
    with pytest.raises(StatisticsError, match="at risk"):
        cox_slope_error(last_alone, lp)


def test_one_event_gives_one_risk_sets_information():
    outcome = Survival.from_arrays([1.0, 2, 3, 4], [0, 1, 0, 0])
    lp = np.array([5.0, 0.0, 1.0, -1.0])
    w = np.exp(lp[1:])
    variance = np.average(lp[1:] ** 2, weights=w) - np.average(lp[1:], weights=w) ** 2
    assert cox_slope_error(outcome, lp) == pytest.approx(variance**-0.5)
