from __future__ import annotations

import numpy as np
import pytest
from lifelines import CoxPHFitter

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.calibration import (
    calibration_intercept,
    calibration_slope,
    complementary_log_log,
    log_odds,
    observed_expected,
)

exactly = {"rel": 0, "abs": 1e-8}


def classes(golden) -> Classes:
    return Classes(golden.outcome.event.astype(np.int64), ("no", "yes"))


# Against R


@pytest.mark.golden("horizon")
def test_observed_over_expected_and_its_error_are_those_of_survfit(golden):
    r, horizon = golden.r("horizon"), golden.case.horizon_months
    ours = observed_expected(golden.outcome, golden.probability, horizon_months=horizon)
    assert (ours.value, ours.se) == pytest.approx((r["o_e"], r["o_e_se"]), **exactly)


@pytest.mark.golden("cox_slope")
def test_the_cox_slope_and_its_robust_error_are_those_of_coxph(golden):
    r = golden.r("cox_slope", "all")
    ours = calibration_slope(golden.outcome, golden.risk)
    assert (ours.value, ours.se) == pytest.approx((r["value"], r["se"]), **exactly)


@pytest.mark.golden("cox_slope")
def test_the_cox_slope_under_case_weights_is_that_of_coxph(golden):
    r = golden.r("cox_slope", "weighted")["value"]
    weights = golden.case.column("weight").astype(float)
    ours = calibration_slope(golden.outcome, golden.risk).under(weights[None])[0]
    assert ours == pytest.approx(r, **exactly)


@pytest.mark.golden("cox_slope")
def test_the_cox_slope_up_to_a_horizon_is_that_of_coxph(golden):
    r = golden.r("cox_slope", "ended")
    ours = calibration_slope(golden.outcome, golden.risk, horizon_months=golden.case.horizon_months)
    assert ours.value == pytest.approx(r["value"], **exactly)
    if "se" in r:
        assert ours.se == pytest.approx(r["se"], **exactly)


@pytest.mark.golden("classes")
def test_the_logistic_slope_and_its_sandwich_error_are_those_of_glm(golden):
    r = golden.r("classes")
    ours = calibration_slope(classes(golden), log_odds(golden.probability))
    assert (ours.value, ours.se) == pytest.approx((r["slope"], r["slope_se"]), **exactly)


@pytest.mark.golden("classes")
def test_calibration_in_the_large_is_that_of_glm_with_an_offset(golden):
    r = golden.r("classes")
    ours = calibration_intercept(classes(golden), golden.probability)
    expected = (r["intercept"], r["intercept_se"])
    assert (ours.value, ours.se) == pytest.approx(expected, **exactly)


# Against definitions and laws


def test_a_coxs_own_linear_predictor_has_slope_one(cases):
    table = cases["gbsg2"].table
    table = table.assign(x=table["risk"], noise=np.sin(np.arange(len(table))))
    fitted = CoxPHFitter().fit(table[["time", "event", "x", "noise"]], "time", "event")
    predictor = table[["x", "noise"]].to_numpy() @ fitted.params_.to_numpy()
    slope = calibration_slope(cases["gbsg2"].outcome, predictor)
    assert slope.value == pytest.approx(1, abs=1e-5)  # as far as lifelines converges


def test_predictions_twice_as_extreme_have_half_the_slope(random_cohort):
    outcome, risk = random_cohort(3, 80)
    plain, extreme = (calibration_slope(outcome, k * risk + 5) for k in (1, 2))
    assert extreme.value == pytest.approx(plain.value / 2, **exactly)
    assert extreme.se == pytest.approx(plain.se / 2, **exactly)


@pytest.mark.parametrize("entry", [False, True])
def test_influences_are_the_derivatives_by_weight(random_cohort, entry):
    outcome, risk = random_cohort(8, 40, entry=entry, months=False)
    step = 1e-5 * np.eye(40)
    statistics = [calibration_slope(outcome, risk, horizon_months=20)]
    if not entry:
        p = 1 / (1 + np.exp(-risk))
        statistics.append(observed_expected(outcome, p, horizon_months=12))
        binary = Classes(outcome.event.astype(np.int64), ("no", "yes"))
        statistics += [
            calibration_slope(binary, risk),
            calibration_intercept(binary, p),
            observed_expected(binary, p),
        ]
    for statistic in statistics:
        slope = (statistic.under(1 + step) - statistic.under(1 - step)) / 2e-5
        assert statistic.influence == pytest.approx(slope, abs=1e-6), statistic.method


def test_resamples_do_not_count_absent_patients_as_tied(random_cohort):
    outcome, risk = random_cohort(5, 60)
    present = np.random.default_rng(0).random(60) < 0.7
    weighted = calibration_slope(outcome, risk).under(present[None].astype(float))[0]
    alone = calibration_slope(outcome.take(present), risk[present]).value
    assert weighted == pytest.approx(alone, **exactly)


def test_perfect_predictions_of_classes_have_intercept_zero_on_average():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.95, 20_000)
    outcome = Classes((rng.random(20_000) < p).astype(np.int64), ("no", "yes"))
    for statistic, truth in (
        (calibration_intercept(outcome, p), 0),
        (calibration_slope(outcome, log_odds(p)), 1),
        (observed_expected(outcome, p), 1),
    ):
        interval = statistic.interval(level=0.999)
        assert interval.lower < truth < interval.upper


def test_the_interval_of_observed_over_expected_is_symmetric_on_the_log_scale(lung):
    statistic = observed_expected(
        lung.outcome, lung.probability, horizon_months=lung.case.horizon_months
    )
    interval = statistic.interval()
    assert interval.lower * interval.upper == pytest.approx(statistic.value**2)
    assert "log scale" in interval.method


def test_the_last_follow_up_is_a_legal_horizon_for_kaplan_meier(cases):
    rossi = cases["rossi"]  # all who were not arrested were followed exactly 52 weeks
    end = float(rossi.months(52))
    found = observed_expected(rossi.outcome, np.full(432, 0.25), horizon_months=end)
    assert found.value == pytest.approx(114 / 432 / 0.25)


# Data that cannot give the number


def test_a_prediction_of_certainty_has_no_log_scale():
    for transform in (complementary_log_log, log_odds):
        with pytest.raises(StatisticsError, match=r"row 1 \(1\)"):
            transform([0.5, 1.0, 0.2])
        with pytest.raises(StatisticsError, match="certainty"):
            transform([0.0])


def test_the_complementary_log_log_undoes_a_cox_model():
    predictor = np.array([-3.0, 0.0, 1.5])
    risk = 1 - np.exp(-np.exp(predictor))
    assert complementary_log_log(risk) == pytest.approx(predictor)


def test_a_constant_prediction_has_no_slope(lung):
    with pytest.raises(StatisticsError, match="same prediction"):
        calibration_slope(lung.outcome, np.ones(227))


def test_a_perfect_ranking_has_no_finite_slope():
    outcome = Survival.from_arrays([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])
    with pytest.raises(StatisticsError, match="not defined"):
        calibration_slope(outcome, [5, 4, 3, 2, 1])
    separated = Classes(np.array([0, 0, 1, 1]), ("no", "yes"))
    with pytest.raises(StatisticsError, match="not defined"):
        calibration_slope(separated, [1, 2, 3, 4])


def test_no_event_up_to_the_horizon_is_said():
    outcome = Survival.from_arrays([4, 5, 6], [0, 1, 0])
    with pytest.raises(StatisticsError, match="up to 4 months"):
        calibration_slope(outcome, [1, 2, 3], horizon_months=4)


def test_if_everybody_has_the_event_no_shift_of_predictions_is_right():
    outcome = Survival.from_arrays([1, 2, 3], [1, 1, 1])
    with pytest.raises(StatisticsError, match="not defined"):
        calibration_intercept(outcome, [0.2, 0.5, 0.4], horizon_months=3)


def test_predictions_right_on_average_have_nothing_to_shift(lung):
    at = lung.case.horizon_months
    share = observed_expected(lung.outcome, np.ones(227), horizon_months=at).value
    found = calibration_intercept(lung.outcome, np.full(227, share), horizon_months=at)
    assert found.value == pytest.approx(0, abs=1e-12)
    with pytest.raises(StatisticsError, match="horizon_months"):
        calibration_intercept(lung.outcome, np.full(227, share))


def test_nothing_expected_cannot_divide(lung):
    with pytest.raises(StatisticsError, match="nothing is expected"):
        observed_expected(lung.outcome, np.zeros(227), horizon_months=12)
