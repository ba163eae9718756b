"""What a risk adds to clinical covariates, against R and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.added_value import added_value
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.fine_gray import fit_fine_gray
from storm_clinic.inference.logistic import fit_logistic


def both_of(case):
    larger = fit_cox(case.design, case.outcome, names=case.names)
    smaller = fit_cox(case.design[:, 1:], case.outcome, names=case.names[1:])
    return larger, smaller


@pytest.mark.regression("added")
def test_the_likelihood_ratio_and_adequacy_equal_those_of_coxph(regression):
    found = added_value(*both_of(regression.case))
    assert found.test.statistic == pytest.approx(regression.r("added", "lr")[0], rel=1e-6, abs=1e-8)
    assert found.adequacy == pytest.approx(regression.r("added", "adequacy")[0], rel=1e-7)


def test_adequacy_and_explained_variation_are_those_of_the_likelihood_ratios(lung):
    larger, smaller = both_of(lung.case)
    found = added_value(larger, smaller)
    alone, both = (f.likelihood_ratio.statistic for f in (smaller, larger))
    assert found.test.statistic == pytest.approx(both - alone)
    assert found.adequacy == pytest.approx(alone / both)
    assert found.explained == pytest.approx(1 - np.exp(-both / 164))
    assert found.explained > found.explained_smaller


def test_p_is_uniform_where_nothing_is_added():
    rng = np.random.default_rng(8)
    p = []
    for _ in range(300):
        x = rng.normal(size=(200, 2))
        y = rng.random(200) < 1 / (1 + np.exp(-x[:, 1]))
        larger = fit_logistic(x, y, names=["noise", "age"])
        p.append(added_value(larger, fit_logistic(x[:, 1:], y, names=["age"])).test.p)
    assert abs(np.mean(np.array(p) < 0.05) - 0.05) < 0.038  # three standard errors


def test_logistic_explained_variation_is_nagelkerkes(lung):
    case = lung.case
    larger = fit_logistic(case.design, case.column("event"), names=case.names)
    smaller = fit_logistic(case.design[:, 1:], case.column("event"), names=case.names[1:])
    null, top = lung.r("logistic", "loglik")
    expected = (1 - np.exp(2 * (null - top) / 227)) / (1 - np.exp(2 * null / 227))
    assert added_value(larger, smaller).explained == pytest.approx(expected)


def test_a_pseudo_likelihood_gives_a_wald_test_and_no_adequacy(regression_cases):
    case = regression_cases["mgus2"].case
    larger = fit_fine_gray(case.design, case.competing, names=case.names)
    smaller = fit_fine_gray(case.design[:, 1:], case.competing, names=case.names[1:])
    found = added_value(larger, smaller)
    z = larger.coefficients[0] / larger.se[0]
    assert found.method == "robust Wald"
    assert found.test.statistic == pytest.approx(z**2)
    assert found.adequacy is None


def test_other_patients_are_refused(lung):
    case, kept = lung.case, np.arange(227) > 10
    larger, _ = both_of(case)
    smaller = fit_cox(case.design[kept, 1:], case.outcome.take(kept), names=case.names[1:])
    with pytest.raises(StatisticsError, match="same patients"):
        added_value(larger, smaller)


def test_models_that_are_not_nested_are_refused(lung):
    case = lung.case
    larger, smaller = both_of(case)
    with pytest.raises(StatisticsError, match="not part of"):
        added_value(smaller, larger)
    with pytest.raises(StatisticsError, match="no term"):
        added_value(larger, larger)
