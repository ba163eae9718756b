"""Proportional hazards as R's cox.zph tests them, and effects over time as it draws them."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.proportional_hazards import proportional_hazards, time_varying


def checked(golden, *, transform="km", **options):
    case = golden.case
    fit = fit_cox(case.design, case.outcome, names=case.names, **options)
    return proportional_hazards(
        fit, case.design, case.outcome, terms=case.terms, transform=transform, **options
    )


def assert_equal_tests(found, golden, key):
    tests = [*found.terms.values(), found.overall]
    np.testing.assert_allclose(
        [test.statistic for test in tests],
        golden.r("cox", "zph", key, "chisq"),
        rtol=1e-6,
        atol=1e-7,
    )
    assert [test.df for test in tests] == golden.r("cox", "zph", key, "df").tolist()
    np.testing.assert_allclose([t.p for t in tests], golden.r("cox", "zph", key, "p"), rtol=1e-6)


@pytest.mark.parametrize("transform", ["km", "identity", "log"])
@pytest.mark.regression("cox", "zph")
def test_each_term_and_all_together_equal_cox_zph(regression, transform):
    assert_equal_tests(checked(regression, transform=transform), regression, transform)


@pytest.mark.regression("cox", "zph")
def test_case_weights_are_those_of_cox_zph(regression):
    found = checked(regression, weights=regression.case.column("weight"))
    assert_equal_tests(found, regression, "weighted")


@pytest.mark.regression("cox", "zph")
def test_strata_are_those_of_cox_zph(regression):
    found = checked(regression, strata=regression.case.column("stratum"))
    assert_equal_tests(found, regression, "stratified")


def test_lung_gives_the_global_p_of_the_literature(lung):
    assert checked(lung).overall.p == pytest.approx(0.21555, abs=5e-6)


@pytest.mark.regression("cox", "smooth")
def test_the_effect_over_time_is_the_curve_that_cox_zph_draws(regression):
    found = checked(regression)
    expected = regression.r("cox", "smooth", "value")
    curve = time_varying(found, 0)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(curve.log_hazard_ratio, expected, rtol=1e-6, atol=1e-8 * scale)
    se = (curve.upper - curve.lower) / 2 / 1.959963984540054
    np.testing.assert_allclose(se, regression.r("cox", "smooth", "se"), rtol=1e-6)
    assert (np.diff(curve.months) >= 0).all()
    np.testing.assert_allclose(found.variance, regression.r("cox", "smooth", "var"), rtol=1e-6)


def test_scaled_residuals_equal_those_of_cox_zph(lung):
    found = checked(lung)
    np.testing.assert_allclose(found.residuals[:5], lung.r("cox", "smooth", "residuals"), rtol=1e-6)
    np.testing.assert_allclose(found.scale[:5], lung.r("cox", "smooth", "scale"), atol=1e-12)


def test_an_effect_that_fades_is_found_and_drawn_fading():
    rng = np.random.default_rng(3)
    x = rng.normal(size=2000)
    # Hazard ratio e in the first month, 1 after it.
    early = rng.exponential(1 / (0.5 * np.exp(x)))
    time = np.where(early < 1, early, 1 + rng.exponential(2, 2000))
    outcome = Survival.from_arrays(np.minimum(time, 4), time <= 4)
    fit = fit_cox(x[:, None], outcome, names=["risk"])
    found = proportional_hazards(fit, x[:, None], outcome)
    assert found.overall.p < 1e-10
    curve = time_varying(found, 0)
    assert curve.log_hazard_ratio[2] > 0.8
    assert abs(curve.log_hazard_ratio[-5]) < 0.3


def test_p_is_uniform_where_hazards_are_proportional():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        x = rng.normal(size=(150, 1))
        time = rng.exponential(np.exp(-x[:, 0]))
        outcome = Survival.from_arrays(np.minimum(time, 2), time <= 2)
        fit = fit_cox(x, outcome, names=["risk"])
        found.append(proportional_hazards(fit, x, outcome).overall.p)
    assert abs(np.mean(np.array(found) < 0.05) - 0.05) < 0.038  # three standard errors
    assert abs(np.mean(found) - 0.5) < 0.05


def test_one_event_is_refused(regression_cases):
    with pytest.raises(StatisticsError, match="all events happen at one time"):
        checked(regression_cases["one_event"])


def test_few_event_times_give_no_curve():
    outcome = Survival.from_arrays([1, 2, 3, 4, 5, 6, 7, 8], [1, 1, 1, 0, 1, 0, 0, 0])
    x = np.array([[0.3], [1.0], [0.2], [0.9], [0.1], [0.5], [0.7], [0.4]])
    fit = fit_cox(x, outcome, names=["risk"])
    found = proportional_hazards(fit, x, outcome)
    with pytest.raises(StatisticsError, match="at 4 times; a smooth effect"):
        time_varying(found, 0)
