"""The simulated grade follows the score as stated, and what its truth reaches is what is stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from statsmodels.miscmodels.ordinal_model import OrderedModel

from storm_clinic.simulate.grade import GRADE_CUTS, GRADE_EFFECT, grade_probabilities
from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.patients import simulate_patients
from storm_clinic.simulate.truth import expected_ceilings


@pytest.fixture(scope="module", params=HOSPITALS, ids=lambda hospital: hospital.cohort)
def many(request):
    """Score, age and stage of thousands of patients, and the grade that the table spells."""
    hospital = replace(request.param, n_patients=6000)
    patients = simulate_patients(hospital, np.random.default_rng(12))
    words = {word: level for level, word in enumerate(hospital.words.grade)}
    return patients.hidden, patients.table["grade"].map(words).to_numpy()


def test_the_grade_follows_the_score_alone_by_proportional_odds(many):
    hidden, grade = many
    covariates = np.column_stack([hidden["score"], hidden["age"] / 10 - 6.2, hidden["stage"]])
    fitted = OrderedModel(grade, covariates, distr="logit").fit(method="bfgs", disp=False)
    # Standard errors are about 0.06, 0.03 and 0.03.
    np.testing.assert_allclose(fitted.params[:3], [GRADE_EFFECT, 0, 0], atol=0.2)
    cuts = fitted.model.transform_threshold_params(fitted.params)[1:-1]
    np.testing.assert_allclose(cuts, GRADE_CUTS, atol=0.2)


def test_probabilities_are_those_of_two_logistic_curves():
    score = np.linspace(-4, 4, 9)
    probability = grade_probabilities(score)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    logit = sm.families.links.Logit()
    higher = np.column_stack([probability[:, 1:].sum(axis=1), probability[:, 2]])
    np.testing.assert_allclose(logit(higher), GRADE_EFFECT * score[:, None] - np.array(GRADE_CUTS))


def test_no_grade_is_rare(many):
    _, grade = many
    assert np.bincount(grade).min() / len(grade) > 0.25


def test_the_stated_area_is_that_of_the_true_probabilities_by_integration():
    """Area of a class against the rest: its chance of outranking, over the score's density."""
    (stated,) = [c.value for c in expected_ceilings() if c.metric == "auroc_macro"]
    assert stated == pytest.approx(np.mean([_area(k) for k in range(3)]), abs=0.01)


def test_knowing_less_than_the_score_ranks_worse(many):
    hidden, grade = many

    def macro(score):
        return roc_auc_score(grade, grade_probabilities(score), multi_class="ovr")

    noisy = hidden["score"] + np.random.default_rng(0).normal(0, 0.5, len(hidden))
    assert macro(hidden["score"].to_numpy()) - macro(noisy.to_numpy()) > 0.02


def _area(level: int) -> float:
    """By the midpoint rule over pairs of scores, without drawing anybody."""
    score = np.linspace(-6, 6, 1201)
    density = norm.pdf(score)
    density /= density.sum()
    probability = grade_probabilities(score)[:, level]
    case, control = density * probability, density * (1 - probability)
    wins = np.sign(probability[:, None] - probability[None, :]) / 2 + 0.5
    share, _ = quad(lambda s: norm.pdf(s) * grade_probabilities(np.array([s]))[0, level], -8, 8)
    assert case.sum() == pytest.approx(share, abs=1e-6)
    return float(case @ wins @ control / (case.sum() * control.sum()))
