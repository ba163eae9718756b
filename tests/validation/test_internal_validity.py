"""Internal validity: labelled as resampling, centred on chance where there is nothing to find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Outcome, Survival
from storm_clinic.metrics.discrimination import concordance
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.internal_validity import internal_validity
from storm_clinic.validation.protocol import RESAMPLING_ONLY

_N = 160


def hidden(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=_N)


def survival(strength: float = 1.0, seed: int = 2) -> Survival:
    rng = np.random.default_rng(seed)
    time = rng.exponential(20 * np.exp(-strength * hidden()))
    end = rng.uniform(5, 60, _N)
    return Survival.from_arrays(np.minimum(time, end), time <= end)


def cross_validated(
    outcome: Outcome, *, covariates: pd.DataFrame | None = None, repeats: int = 2, **columns
) -> EvaluationData:
    rng = np.random.default_rng(3)
    folds = tuple(rng.permutation(np.arange(_N) % 4) for _ in range(repeats))
    # Folds' models share no scale: each shifts its risks by far more than they differ.
    risks = tuple(hidden() + 0.3 * rng.normal(size=_N) + 10 * fold for fold in folds)
    model = ModelPredictions("image", risks, folds, columns)
    return EvaluationData(
        cohort="a",
        kind="cross-validation",
        outcome=outcome,
        models=(model,),
        endpoint=Endpoint(name="os", horizons_months=(12.0,), tau_months=None),
        candidate="image",
        comparator=None,
        seed=4,
        bootstraps=60,
        covariates=covariates,
    )


def table(seed: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = hidden() + rng.normal(size=_N)
    stage = pd.Categorical.from_codes(rng.integers(0, 3, _N), ["I", "II", "III"], ordered=True)
    covariates = pd.DataFrame({"age": age, "stage": stage, "noise": rng.normal(size=_N)})
    covariates.loc[rng.random(_N) < 0.1, "age"] = np.nan
    return covariates


class TestFixedPredictions:
    def test_the_value_compares_inside_folds_and_its_label_forbids_claims(self):
        data = cross_validated(survival())
        (found,) = internal_validity(data)
        model = data.models[0]
        values = [
            concordance(data.outcome, risk, within=fold).value
            for risk, fold in zip(model.risk, model.fold, strict=True)
        ]
        assert found.metric == "c_index"
        assert found.corrected.value == pytest.approx(np.mean(values))
        assert found.corrected.lower < found.corrected.value < found.corrected.upper
        assert RESAMPLING_ONLY in found.method
        assert "nothing trained anew" in found.method
        assert found.apparent is None

    def test_the_negative_control_is_centred_on_chance(self):
        (found,) = internal_validity(cross_validated(survival()))
        assert found.null_mean == pytest.approx(0.5, abs=0.015)
        assert found.null_upper < found.corrected.value
        assert found.null_p == pytest.approx(1 / 61)

    def test_risks_that_say_nothing_do_not_beat_it(self):
        p = [
            internal_validity(cross_validated(survival(0.0, seed), repeats=1))[0].null_p
            for seed in range(10, 16)
        ]
        # The mean of six uniform numbers, with a standard error of 0.12.
        assert 0.2 < np.mean(p) < 0.8

    def test_an_evaluation_that_compared_across_folds_would_be_caught(self):
        """Outcomes of a fold leak into its risks' level; pairs inside folds do not see it."""
        outcome = survival(strength=0.0)
        order = np.argsort(outcome.time_months)
        fold = np.empty(_N, dtype=np.int64)
        fold[order] = np.arange(_N) * 4 // _N
        leaking = ModelPredictions("image", (-10.0 * fold + hidden(9),), (fold,), {})
        data = replace(cross_validated(outcome), models=(leaking,))
        (found,) = internal_validity(data)
        assert concordance(outcome, leaking.risk[0]).value > 0.8
        assert found.corrected.value < 0.6
        assert found.null_mean == pytest.approx(0.5, abs=0.02)

    def test_external_data_have_none(self):
        assert internal_validity(replace(cross_validated(survival()), kind="external")) == ()

    def test_no_event_gives_a_reason(self):
        outcome = Survival.from_arrays(np.arange(1.0, _N + 1), np.zeros(_N, dtype=bool))
        image, covariates = internal_validity(cross_validated(outcome, covariates=table()))
        assert image.corrected is None
        assert "no event" in image.note
        assert covariates.corrected is None
        assert "event" in covariates.note

    def test_one_event_gives_what_it_can_and_the_reason_for_the_rest(self):
        outcome = Survival.from_arrays(np.arange(1.0, _N + 1), np.arange(_N) == 20)
        image, covariates = internal_validity(cross_validated(outcome, covariates=table()))
        assert image.corrected.value is not None
        assert image.corrected.lower is None
        assert "resamples" in image.corrected.note
        assert "separates patients with from those without the event" in covariates.note


class TestRefittedCovariates:
    @pytest.fixture(scope="class")
    @staticmethod
    def found():
        return internal_validity(cross_validated(survival(), covariates=table()))[1]

    def test_optimism_lies_between_apparent_and_corrected(self, found):
        assert found.model == "covariates (Cox)"
        assert 0 < found.optimism < 0.05
        assert found.corrected.value == pytest.approx(found.apparent - found.optimism)
        assert found.corrected.lower < found.corrected.value < found.corrected.upper
        assert found.n_resamples == 60
        assert RESAMPLING_ONLY in found.method

    def test_cross_validation_and_bootstrap_agree(self, found):
        assert found.learning[-1].value == pytest.approx(found.corrected.value, abs=0.02)

    def test_the_null_of_fitting_and_scoring_is_chance(self, found):
        assert found.null_mean == pytest.approx(0.5, abs=0.02)
        assert found.null_p == pytest.approx(1 / 51)
        assert "fitted and cross-validated anew" in found.method

    def test_more_patients_never_look_much_worse(self, found):
        sizes = [point.n_patients for point in found.learning]
        assert sizes == [32, 64, 96, 128]
        assert found.learning[-1].value > found.learning[0].value
        assert all(point.lower <= point.value <= point.upper for point in found.learning)

    def test_a_level_that_resamples_may_lack_does_no_harm(self):
        covariates = table()
        covariates["rare"] = pd.Categorical.from_codes(np.r_[1, np.zeros(_N - 1, int)], ["a", "b"])
        found = internal_validity(cross_validated(survival(), covariates=covariates))[1]
        assert found.corrected.value > 0.6

    def test_covariates_of_noise_come_out_as_noise(self):
        noise = pd.DataFrame(np.random.default_rng(8).normal(size=(_N, 8))).add_prefix("x")
        found = internal_validity(cross_validated(survival(), covariates=noise))[1]
        assert found.apparent > 0.55
        assert found.corrected.value < 0.56
        assert found.null_p > 0.02


class TestOtherOutcomes:
    def test_competing_risks_use_wolbers(self):
        base = survival()
        cause = np.where(base.event, 1 + (np.arange(_N) % 3 == 0), 0)
        outcome = CompetingRisks(base.time_months, cause, ("relapse", "death"))
        image, covariates = internal_validity(cross_validated(outcome, covariates=table()))
        assert image.metric == covariates.metric == "c_index"
        assert "Wolbers" in image.method
        assert "first cause" in covariates.method
        assert image.null_mean == pytest.approx(0.5, abs=0.02)
        assert 0.4 < covariates.corrected.value < covariates.apparent

    def test_two_classes_use_the_auroc_and_a_logistic_regression(self):
        rng = np.random.default_rng(6)
        label = (rng.random(_N) < 1 / (1 + np.exp(-1.5 * hidden()))).astype(np.int64)
        p = 1 / (1 + np.exp(-hidden()))
        data = cross_validated(
            Classes(label, ("no", "yes")), covariates=table(), p_yes=(p, p), p_no=(1 - p, 1 - p)
        )
        image, covariates = internal_validity(data)
        assert image.metric == covariates.metric == "auroc"
        assert covariates.model == "covariates (logistic)"
        assert covariates.corrected.value < covariates.apparent
        assert covariates.null_mean == pytest.approx(0.5, abs=0.03)

    def test_more_classes_are_judged_but_not_refitted(self):
        label = np.arange(_N) % 3
        share = tuple(np.full(_N, 1 / 3) for _ in range(2))
        outcome = Classes(label, ("a", "b", "c"))
        data = cross_validated(outcome, covariates=table(), p_a=share, p_b=share, p_c=share)
        image, covariates = internal_validity(data)
        assert image.metric == "auroc_macro"
        assert image.corrected.value == pytest.approx(0.5)
        assert "only two" in covariates.note

    def test_a_model_without_probabilities_of_classes_says_so(self):
        outcome = Classes(np.arange(_N) % 2, ("no", "yes"))
        (found,) = internal_validity(cross_validated(outcome))
        assert "p_yes" in found.note

    def test_entry_times_are_honoured_by_harrells_c(self):
        base = survival()
        outcome = Survival(base.time_months, base.event, base.time_months * 0.3)
        image, covariates = internal_validity(cross_validated(outcome, covariates=table()))
        assert image.corrected.value > 0.6
        assert covariates.corrected.value > 0.5
