"""Linear predictors where they have no maximum, and logistic regression against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import TrainingError
from storm_clinic.heads.linear import fit_cox, fit_logistic
from storm_clinic.heads.survival import CoxLikelihood


def separated() -> tuple[np.ndarray, Survival]:
    """Everyone with the covariate fails before everyone without."""
    marked = np.repeat([1.0, 0.0], 10)
    return marked[:, None], Survival.from_arrays(np.arange(1.0, 21), marked.astype(bool))


def test_a_separating_covariate_has_no_coefficient_without_a_ridge():
    with pytest.raises(TrainingError, match="no maximum"):
        fit_cox(*separated())


def test_a_ridge_keeps_a_separating_coefficient_finite_and_is_the_penalised_maximum():
    design, outcome = separated()
    found = fit_cox(design, outcome, ridge=0.01)
    assert 1 < found[0] < 10
    gradient = design.T @ CoxLikelihood(outcome).loss(design @ found)[1] + 0.01 * found
    assert abs(gradient[0]) < 1e-6


def test_covariates_that_follow_from_each_other_are_refused():
    rng = np.random.default_rng(0)
    column = rng.normal(size=20)
    outcome = Survival.from_arrays(rng.integers(1, 9, 20), rng.random(20) < 0.7)
    with pytest.raises(TrainingError, match="cannot tell some covariates apart"):
        fit_cox(np.stack([column, 2 * column], axis=1), outcome)


def test_two_classes_with_hardly_a_ridge_are_statsmodels_logit():
    rng = np.random.default_rng(1)
    design = rng.normal(size=(200, 3))
    label = (design @ [1.0, -0.5, 0.0] + rng.logistic(size=200) > 0.3).astype(np.int64)
    slopes, intercepts = fit_logistic(design, Classes(label, ("no", "yes")), ridge=1e-9)
    expected = sm.Logit(label, sm.add_constant(design)).fit(disp=False).params
    np.testing.assert_allclose(np.r_[intercepts, slopes[:, 0]], expected, atol=1e-4)


def test_three_classes_with_hardly_a_ridge_are_statsmodels_multinomial_logit():
    rng = np.random.default_rng(2)
    design = rng.normal(size=(300, 2))
    scores = design @ rng.normal(size=(2, 3)) + rng.gumbel(size=(300, 3))
    label = scores.argmax(axis=1).astype(np.int64)
    slopes, intercepts = fit_logistic(design, Classes(label, ("a", "b", "c")), ridge=1e-9)
    expected = sm.MNLogit(label, sm.add_constant(design)).fit(disp=False).params
    np.testing.assert_allclose(np.vstack([intercepts, slopes]), expected, atol=1e-3)


def test_a_class_without_a_patient_is_named():
    label = np.array([0, 2, 0, 2], dtype=np.int64)
    with pytest.raises(TrainingError, match="none of 4 patients is of class 'G2'"):
        fit_logistic(np.eye(4), Classes(label, ("G1", "G2", "G3")), ridge=0.1)
