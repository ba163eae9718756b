"""Logistic regression equals R's glm; separation is refused."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.logistic import fit_logistic


def close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@pytest.mark.regression("logistic")
def test_coefficients_errors_and_score_test_equal_glm(regression):
    case = regression.case
    found = fit_logistic(case.design, case.column("event"), names=case.names)
    close([found.intercept, *found.coefficients], regression.r("logistic", "coef"))
    variance = regression.r("logistic", "var")
    close(found.covariance, variance[1:, 1:])
    assert found.intercept_se == pytest.approx(np.sqrt(variance[0, 0]), rel=1e-6)
    null, top = regression.r("logistic", "loglik")
    assert found.null_log_likelihood == pytest.approx(null, rel=1e-10)
    assert found.log_likelihood == pytest.approx(top, rel=1e-10)
    assert found.score_test.statistic == pytest.approx(
        regression.r("logistic", "score")[0], rel=1e-7
    )


@pytest.mark.regression("logistic")
def test_case_weights_equal_those_of_glm(regression):
    case = regression.case
    found = fit_logistic(
        case.design, case.column("event"), names=case.names, weights=case.column("weight")
    )
    close([found.intercept, *found.coefficients], regression.r("logistic", "weighted_coef"))
    close(found.covariance, regression.r("logistic", "weighted_var")[1:, 1:])


def test_the_log_odds_ratio_of_a_table_is_its_closed_form():
    x = np.repeat([0.0, 0.0, 1.0, 1.0], [30, 10, 15, 25])
    y = np.repeat([0, 1, 0, 1], [30, 10, 15, 25])
    found = fit_logistic(x[:, None], y, names=["x"])
    assert found.coefficients[0] == pytest.approx(np.log(30 * 25 / (10 * 15)), rel=1e-9)
    assert found.se[0] == pytest.approx(np.sqrt(1 / 30 + 1 / 10 + 1 / 15 + 1 / 25), rel=1e-6)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_separation_complete_or_at_one_level_is_refused(edge):
    x = np.linspace(-1, 1, 40)
    y = x > 0
    design = np.column_stack([x + 2, np.sin(np.arange(40))])
    if edge:
        design[:, 0] = (np.arange(40) >= 35).astype(float)  # all of this level had the event
    with pytest.raises(StatisticsError, match=r"has no maximum: .*'level'.*separates"):
        fit_logistic(design, y, names=["level", "age"])


@pytest.mark.parametrize("y", [np.zeros(4), np.ones(4)])
def test_one_outcome_alone_is_refused(y):
    with pytest.raises(StatisticsError, match="Both outcomes must occur"):
        fit_logistic([[1.0], [2.0], [3.0], [5.0]], y, names=["age"])


def test_the_rarer_outcome_limits_what_can_be_estimated():
    x = np.sin(np.arange(50.0))[:, None]
    found = fit_logistic(x, np.arange(50) % 10 != 0, names=["age"])
    assert "5 patients without the event for 1 coefficients" in found.note


def test_other_codes_are_refused():
    with pytest.raises(StatisticsError, match="0 or 1"):
        fit_logistic([[1.0], [2.0], [3.0]], [1, 2, 1], names=["age"])
