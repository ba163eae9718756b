"""Restricted cubic splines as rms draws and tests them."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.splines import knots_of, restricted_cubic, spline_effect

_NUMBER = {"three": 3, "four": 4}


def effect(golden, n_knots):
    case = golden.case
    return spline_effect(
        case.design[:, 0],
        lambda design, names: fit_cox(design, case.outcome, names=names),
        n_knots=n_knots,
        beside=case.design[:, 1:],
        beside_names=case.names[1:],
        n_points=11,
    )


@pytest.mark.parametrize("number", ["three", "four"])
@pytest.mark.regression("spline")
def test_knots_and_basis_are_harrells(regression, number):
    x = regression.case.design[:, 0]
    knots = knots_of(x, _NUMBER[number])
    np.testing.assert_allclose(knots, regression.r("spline", number, "knots"), rtol=1e-9)
    basis = regression.r("spline", number, "basis")
    np.testing.assert_allclose(restricted_cubic(x[:5], knots), basis, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("number", ["three", "four"])
@pytest.mark.regression("spline")
def test_the_effect_against_the_median_equals_that_of_coxph(regression, number):
    found = effect(regression, _NUMBER[number])
    np.testing.assert_allclose(found.at, regression.r("spline", number, "at"), rtol=1e-9)
    expected = regression.r("spline", number, "effect")
    np.testing.assert_allclose(found.effect, expected, rtol=1e-6, atol=1e-8)
    se = (found.upper - found.lower) / 2 / 1.959963984540054
    np.testing.assert_allclose(se, regression.r("spline", number, "se"), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("number", ["three", "four"])
@pytest.mark.regression("spline")
def test_both_tests_of_nonlinearity_equal_those_of_coxph(regression, number):
    found = effect(regression, _NUMBER[number])
    assert found.wald.statistic == pytest.approx(
        regression.r("spline", number, "wald")[0], rel=1e-5
    )
    assert found.likelihood_ratio.statistic == pytest.approx(
        regression.r("spline", number, "lr")[0], rel=1e-5, abs=1e-8
    )
    assert found.wald.df == _NUMBER[number] - 2


def test_the_curve_is_a_line_beyond_the_outer_knots():
    basis = restricted_cubic(np.linspace(10, 12, 9), [0, 1, 2, 3])
    np.testing.assert_allclose(np.diff(basis, n=2, axis=0), 0, atol=1e-9)


def test_knots_leave_a_clump_at_the_lowest_value():
    # A fifth of the patients at 0: the outer knot is the next value, as in rcspline.eval.
    values = np.concatenate([np.zeros(40), np.linspace(1, 10, 160)])
    assert knots_of(values, 4)[0] == 1.0


def test_few_different_values_are_refused():
    with pytest.raises(StatisticsError, match="4 different values cannot carry a spline"):
        knots_of([1, 2, 3, 4] * 20, 3)


def test_too_many_knots_are_refused_with_the_legal_range():
    with pytest.raises(StatisticsError, match="3 to 5"):
        knots_of(np.arange(100), 7)
