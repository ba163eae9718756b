"""A model's risk as a covariate: one scale for all patients, whatever fold they were in."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.regressions import regressions
from storm_clinic.validation.risk_scale import risk_covariate

N = 200
_RNG = np.random.default_rng(7)
RISK = _RNG.normal(size=N)
FOLD = np.arange(N) % 5
TIME = _RNG.exponential(20 / np.exp(0.7 * RISK)) + 0.1
END = _RNG.uniform(3, 60, N)
OUTCOME = Survival(np.minimum(TIME, END), TIME <= END)


def at_12_months(linear: np.ndarray) -> np.ndarray:
    return 1 - np.exp(-0.4 * np.exp(linear))


def evaluated(models, *, kind="cross-validation", outcome=OUTCOME, comparator=None):
    horizons = () if isinstance(outcome, Classes) else (12.0,)
    endpoint = Endpoint(name="os", horizons_months=horizons)
    return EvaluationData("c", kind, outcome, tuple(models), endpoint, "fusion", comparator, 1)


def model(*repeats, name="fusion", folds=(FOLD,), probabilities=True, column="risk_at_12m"):
    columns = {column: tuple(at_12_months(r) for r in repeats)} if probabilities else {}
    return ModelPredictions(name, tuple(repeats), tuple(folds), columns)


def values_of(one, **changes):
    return risk_covariate(one, evaluated([one], **changes)).values


@pytest.mark.parametrize("probabilities", [True, False])
def test_a_level_of_its_own_in_each_fold_changes_nothing(probabilities):
    # A fold's model has an intercept that says nothing about the patients held out from it.
    shifted = RISK + np.array([-1.3, -0.4, 0.1, 0.5, 1.1])[FOLD]
    plain, moved = (values_of(model(r, probabilities=probabilities)) for r in (RISK, shifted))
    assert moved == pytest.approx(plain)


def test_so_neither_does_it_for_log_odds():
    outcome = Classes(OUTCOME.event.astype(np.int64), ("no", "yes"))
    odds = [np.exp(r) for r in (RISK, RISK + FOLD * 0.3)]
    found = [
        values_of(
            ModelPredictions("fusion", (RISK,), (FOLD,), {"p_yes": (o / (1 + o),)}),
            outcome=outcome,
        )
        for o in odds
    ]
    assert found[1] == pytest.approx(found[0])


def test_repeats_with_other_folds_are_averaged_after_centring():
    other = np.arange(N) // 40
    once = values_of(model(RISK))
    noise = _RNG.normal(size=N)
    both = values_of(model(RISK + noise, RISK - noise, folds=(FOLD, other)))
    by_hand = [
        r - np.array([r[f == k].mean() for k in range(5)])[f]
        for r, f in ((RISK + noise, FOLD), (RISK - noise, other))
    ]
    expected = np.mean(by_hand, axis=0)
    assert both == pytest.approx((expected - expected.mean()) / expected.std())
    assert np.corrcoef(once, both)[0, 1] > 0.95


def test_an_external_risk_is_the_linear_predictor_itself():
    one = model(RISK, folds=(np.full(N, -1),))
    found = risk_covariate(one, evaluated([one], kind="external"))
    assert found.values == pytest.approx((RISK - RISK.mean()) / RISK.std())
    assert found.scale == "complementary log-log of the risk at 12 months"


def test_the_scale_says_that_folds_were_centred():
    one = model(RISK)
    assert risk_covariate(one, evaluated([one])).scale.endswith("centred within each fold")


def test_one_risk_for_everybody_is_refused():
    with pytest.raises(StatisticsError, match="fusion gives all patients the same risk"):
        values_of(model(np.zeros(N)))


def test_a_comparator_without_a_usable_risk_leaves_the_candidate_its_other_regressions():
    flat = model(np.zeros(N), name="clinical")
    found = regressions(evaluated([flat, model(RISK)], comparator="clinical")).regressions
    alone, beside, clinical = found
    assert (alone.title, len(alone.terms)) == ("Risk of fusion alone", 1)
    assert beside.title == "Risk of fusion beside the risk of clinical"
    assert (beside.terms, beside.note) == ((), "clinical gives all patients the same risk")
    assert clinical.model == "clinical"
