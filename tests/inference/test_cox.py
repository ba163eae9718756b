"""Cox models equal R's coxph; what has no maximum is refused in words."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.cox import fit_cox


def fit(golden, **options):
    case = golden.case
    return fit_cox(case.design, case.outcome, names=case.names, **options)


def close(value, expected, rel=1e-6):
    np.testing.assert_allclose(value, expected, rtol=rel, atol=1e-9 * np.abs(expected).max())


@pytest.mark.regression("cox", "plain")
def test_coefficients_errors_and_tests_equal_coxph(regression):
    found = fit(regression)
    close(found.coefficients, regression.r("cox", "plain", "coef"))
    close(found.covariance, regression.r("cox", "plain", "var"))
    null, top = regression.r("cox", "plain", "loglik")
    assert found.null_log_likelihood == pytest.approx(null, rel=1e-10)
    assert found.log_likelihood == pytest.approx(top, rel=1e-10)
    assert found.score_test.statistic == pytest.approx(
        regression.r("cox", "plain", "score")[0], rel=1e-7
    )
    assert found.wald.statistic == pytest.approx(regression.r("cox", "plain", "wald")[0], rel=1e-6)
    assert found.likelihood_ratio.statistic == pytest.approx(2 * (top - null), rel=1e-7)


@pytest.mark.regression("cox", "robust")
def test_robust_errors_equal_those_of_coxph(regression):
    close(fit(regression, robust=True).covariance, regression.r("cox", "robust"))


@pytest.mark.regression("cox", "clustered")
def test_errors_clustered_by_site_equal_those_of_coxph(regression):
    found = fit(regression, clusters=regression.case.column("cluster"))
    close(found.covariance, regression.r("cox", "clustered"))
    close(found.naive_covariance, regression.r("cox", "plain", "var"))


@pytest.mark.regression("cox", "weighted")
def test_case_weights_equal_those_of_coxph(regression):
    found = fit(regression, weights=regression.case.column("weight"), robust=True)
    close(found.coefficients, regression.r("cox", "weighted", "coef"))
    close(found.naive_covariance, regression.r("cox", "weighted", "naive"))
    close(found.covariance, regression.r("cox", "weighted", "robust"))
    close(found.log_likelihood, regression.r("cox", "weighted", "loglik")[1])


@pytest.mark.regression("cox", "stratified")
def test_strata_equal_those_of_coxph(regression):
    found = fit(regression, strata=regression.case.column("stratum"))
    close(found.coefficients, regression.r("cox", "stratified", "coef"))
    close(found.covariance, regression.r("cox", "stratified", "var"))
    close(found.log_likelihood, regression.r("cox", "stratified", "loglik")[1])
    robust = fit(regression, strata=regression.case.column("stratum"), robust=True)
    close(robust.covariance, regression.r("cox", "stratified_robust"))


def test_lung_gives_the_coefficients_of_the_literature(lung):
    found = fit(lung).coefficients
    assert found == pytest.approx([0.0110668, -0.5526124, 0.4637285], abs=5e-8)


def test_units_of_time_and_the_order_of_patients_change_nothing(lung):
    case, order = lung.case, np.random.default_rng(0).permutation(len(lung.case.table))
    shuffled = case.outcome.take(order)
    years = Survival(shuffled.time_months / 12, shuffled.event)
    moved = fit_cox(case.design[order], years, names=case.names)
    np.testing.assert_allclose(moved.coefficients, fit(lung).coefficients, rtol=1e-9)


def test_a_covariate_in_other_units_has_the_coefficient_of_that_unit(lung):
    case = lung.case
    scaled = fit_cox(case.design * [1e6, 1, 1] + [1e9, 0, 0], case.outcome, names=case.names)
    plain = fit(lung)
    np.testing.assert_allclose(scaled.coefficients * [1e6, 1, 1], plain.coefficients, rtol=1e-6)
    np.testing.assert_allclose(scaled.se * [1e6, 1, 1], plain.se, rtol=1e-6)


def test_patients_of_weight_zero_are_absent(lung):
    case, kept = lung.case, np.arange(len(lung.case.table)) % 4 != 0
    without = fit_cox(case.design[kept], case.outcome.take(kept), names=case.names)
    weighted = fit(lung, weights=kept.astype(float))
    np.testing.assert_allclose(weighted.coefficients, without.coefficients, rtol=1e-10)
    assert (weighted.n_patients, weighted.n_events) == (without.n_patients, without.n_events)


def test_whoever_enters_at_zero_is_not_truncated(lung):
    case = lung.case
    entered = Survival(case.outcome.time_months, case.outcome.event, np.zeros(len(case.table)))
    found = fit_cox(case.design, entered, names=case.names)
    np.testing.assert_allclose(found.coefficients, fit(lung).coefficients, rtol=1e-12)


def test_intervals_of_95_percent_hold_the_truth_in_95_percent_of_simulations():
    rng = np.random.default_rng(11)
    held, n = 0, 400
    for _ in range(n):
        x = rng.normal(size=(100, 2))
        time = rng.exponential(np.exp(-x @ [0.5, 0.0]))
        end = rng.exponential(0.6, 100)
        outcome = Survival.from_arrays(np.minimum(time, end), time <= end)
        low, high = fit_cox(x, outcome, names=["a", "b"]).interval(0)[2:4]
        held += low <= 0.5 <= high
    # Three standard errors of a share of 0.95 in 400.
    assert abs(held / n - 0.95) < 0.033


def test_no_event_is_refused():
    outcome = Survival.from_arrays([1.0, 2.0, 3.0], [0, 0, 0])
    with pytest.raises(StatisticsError, match="none of 3 patients had one"):
        fit_cox([[1.0], [2.0], [3.0]], outcome, names=["age"])


def test_a_constant_column_is_named(lung):
    design = np.column_stack([lung.case.design, np.ones(227)])
    with pytest.raises(StatisticsError, match="'site' is the same in all 227 patients"):
        fit_cox(design, lung.case.outcome, names=[*lung.case.names, "site"])


def test_a_column_that_follows_from_others_is_named(lung):
    design = np.column_stack([lung.case.design, lung.case.design @ [2.0, 1.0, 0.0]])
    with pytest.raises(StatisticsError, match=r"^'sum' follows from the other covariates"):
        fit_cox(design, lung.case.outcome, names=[*lung.case.names, "sum"])


def test_more_covariates_than_patients_are_refused():
    rng = np.random.default_rng(0)
    outcome = Survival.from_arrays(np.arange(1, 6), np.ones(5))
    with pytest.raises(StatisticsError, match="follows from the other covariates of 5 patients"):
        fit_cox(rng.normal(size=(5, 7)), outcome, names=list("abcdefg"))


def test_a_missing_value_is_counted_and_its_column_named(lung):
    design = lung.case.design.copy()
    design[3, 1] = np.nan
    with pytest.raises(StatisticsError, match="1 patients lack a value, the first column is 'sex'"):
        fit_cox(design, lung.case.outcome, names=lung.case.names)


def test_a_covariate_that_separates_the_events_is_named(lung):
    # Nobody of this level has an event, so that its hazard ratio falls to 0 without end.
    separating = (~lung.case.outcome.event & (np.arange(227) % 2 == 0)).astype(float)
    design = np.column_stack([lung.case.design, separating])
    with pytest.raises(StatisticsError, match=r"no maximum: 'level' separates"):
        fit_cox(design, lung.case.outcome, names=[*lung.case.names, "level"])


def test_a_level_that_hardly_moves_the_likelihood_is_still_refused():
    rng = np.random.default_rng(7)
    time, event = rng.exponential(10, 2000) + 0.1, rng.random(2000) < 0.2
    # One patient of small weight, at risk at one event: as if a millionth of an event were due.
    time[0], event[0] = np.sort(time[event])[0] + 1e-6, False
    weight = np.where(np.arange(2000) == 0, 0.002, 1.0)
    design = np.column_stack([rng.normal(size=2000), np.arange(2000) == 0])
    with pytest.raises(StatisticsError, match="no maximum: 'level' separates"):
        fit_cox(design, Survival.from_arrays(time, event), names=["age", "level"], weights=weight)


def test_one_event_of_the_patient_with_the_highest_value_has_no_maximum():
    outcome = Survival.from_arrays(np.arange(1.0, 31.0), np.arange(30) == 10)
    value = np.where(np.arange(30) == 10, 5.0, np.arange(30) / 30)
    with pytest.raises(StatisticsError, match="has no maximum: 'age' separates"):
        fit_cox(value[:, None], outcome, names=["age"])


def test_a_covariate_that_differs_only_between_strata_is_refused(lung):
    case = lung.case
    with pytest.raises(StatisticsError, match="cannot tell 'sex' apart"):
        fit_cox(case.design, case.outcome, names=case.names, strata=case.column("sex"))


def test_negative_weights_are_refused(lung):
    with pytest.raises(StatisticsError, match="at least 0"):
        fit(lung, weights=-np.ones(227))


def test_few_events_are_said_in_the_note(regression_cases):
    assert "1 events for 1 coefficients" in fit(regression_cases["one_event"]).note
    assert fit(regression_cases["gbsg2"]).note == ""
