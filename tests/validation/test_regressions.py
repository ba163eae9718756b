"""Regressions of an evaluation: what is asked, what comes out, and what is said instead."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.fine_gray import fit_fine_gray
from storm_clinic.inference.logistic import fit_logistic
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import Analyses
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.regression_questions import fit_on, questions
from storm_clinic.validation.regressions import regressions

N = 240


def predictions(name, linear, *, column="risk_at_12m", fold=-1, repeats=1, probability=None):
    p = 1 - np.exp(-0.3 * np.exp(linear)) if probability is None else probability
    return ModelPredictions(
        name,
        (linear,) * repeats,
        (np.broadcast_to(np.asarray(fold, dtype=np.int64), len(linear)),) * repeats,
        {column: (p,) * repeats},
    )


@pytest.fixture(scope="module")
def world():
    """Age and stage matter, and tissue beyond them; sex does not."""
    rng = np.random.default_rng(21)
    age, tissue = rng.normal(60, 10, N), rng.normal(size=N)
    stage = rng.choice(["I", "II", "III"], N, p=[0.3, 0.5, 0.2])
    sex = rng.choice(["f", "m"], N, p=[0.4, 0.6])
    clinic = 0.04 * (age - 60) + 0.6 * (stage == "III")
    time = rng.exponential(20 / np.exp(clinic + 0.8 * tissue))
    end = rng.uniform(5, 60, N)
    covariates = pd.DataFrame(
        {
            "age": age,
            "stage": pd.Categorical(stage, ["I", "II", "III", "IV"], ordered=True),
            "sex": pd.Categorical(sex, ["f", "m"]),
        }
    )
    outcome = Survival.from_arrays(np.ceil(np.minimum(time, end)), time <= end)
    return {"outcome": outcome, "covariates": covariates, "clinic": clinic, "tissue": tissue}


def evaluation(world, **changes):
    linear = {"clinical": world["clinic"], "image": world["tissue"]}
    parts = {
        "cohort": "b",
        "kind": "external",
        "outcome": world["outcome"],
        "models": tuple(predictions(name, values) for name, values in linear.items()),
        "endpoint": Endpoint(name="os", horizons_months=(12,)),
        "candidate": "image",
        "comparator": "clinical",
        "seed": 1,
        "covariates": world["covariates"],
    }
    return EvaluationData(**(parts | changes))


@pytest.fixture(scope="module")
def found(world):
    return regressions(evaluation(world))


def one(found, title, kind="cox"):
    (match,) = [r for r in found.regressions if r.title == title and r.kind == kind]
    return match


def named(regression, name):
    (match,) = [t for t in regression.tests if t.name == name]
    return match


def standard(values):
    return (values - values.mean()) / values.std()


def test_the_candidate_is_asked_first_and_the_comparator_alone(found):
    assert [r.title for r in found.regressions] == [
        "Risk of image alone",
        "Risk of image beside the risk of clinical",
        "Risk of image beside age, stage and sex",
        "Risk of clinical alone",
    ]
    assert {r.missing for r in found.regressions} == {"none"}


def test_the_risk_enters_per_sd_of_its_log_hazard(found, world):
    (term,) = one(found, "Risk of image alone").terms
    fit = fit_cox(standard(world["tissue"])[:, None], world["outcome"], names=["risk"])
    assert term.coefficient == pytest.approx(fit.coefficients[0], rel=1e-9)
    assert term.ratio == pytest.approx(np.exp(fit.coefficients[0]))
    assert term.lower == pytest.approx(np.exp(fit.coefficients[0] - 1.959963985 * fit.se[0]))
    assert term.term == "image risk, per SD"


def test_added_value_is_the_likelihood_ratio_against_the_clinical_risk(found, world):
    both = np.column_stack([standard(world["tissue"]), standard(world["clinic"])])
    larger = fit_cox(both, world["outcome"], names=["a", "b"])
    smaller = fit_cox(both[:, 1:], world["outcome"], names=["b"])
    regression = one(found, "Risk of image beside the risk of clinical")
    ratio = named(regression, "likelihood ratio")
    gain = 2 * (larger.log_likelihood - smaller.log_likelihood)
    assert ratio.statistic == pytest.approx(gain, rel=1e-9)
    assert (ratio.df, ratio.p < 1e-6) == (1, True)
    adequacy = named(regression, "adequacy index")
    expected = smaller.likelihood_ratio.statistic / larger.likelihood_ratio.statistic
    assert adequacy.statistic == pytest.approx(expected)
    assert adequacy.p is None


def test_categories_stand_against_their_reference_and_unseen_levels_are_said(found):
    regression = one(found, "Risk of image beside age, stage and sex")
    names = [term.term for term in regression.terms]
    assert names == ["image risk, per SD", "age", "stage: II", "stage: III", "sex: f"]
    assert "stage: no patient is IV." in regression.note


def test_proportional_hazards_are_tested_a_term_at_a_time_and_together(found):
    regression = one(found, "Risk of image beside age, stage and sex")
    tests = {t.about: t.df for t in regression.tests if t.name == "proportional hazards"}
    assert tests == {"image risk, per SD": 1, "age": 1, "stage": 2, "sex": 1, "GLOBAL": 5}


def test_gaps_leave_patients_out_who_are_counted(world):
    table = world["covariates"].copy()
    table.loc[:9, "age"] = np.nan
    table.loc[5:14, "sex"] = np.nan
    data = evaluation(world, covariates=table)
    found = regressions(data)
    regression = one(found, "Risk of image beside age, stage and sex")
    assert (regression.missing, regression.n_patients) == ("complete cases", N - 15)
    assert f"15 of {N} patients lack a covariate and are left out." in regression.note
    alone = one(found, "Risk of image alone")
    assert (alone.missing, alone.n_patients) == ("none", N)
    question = questions("image", data)[-1]
    rows = question.complete
    fit = fit_on(question.design().take(rows), data.outcome.take(rows), "cox")
    np.testing.assert_allclose([t.coefficient for t in regression.terms], fit.coefficients)


def test_completed_copies_of_the_covariates_give_the_same_names(world):
    # Whoever has stage IV lacks the age: the level is there in completed copies only.
    table = world["covariates"].copy()
    table.loc[:9, "age"] = np.nan
    table.loc[:9, "stage"] = "IV"
    data = evaluation(world, covariates=table)
    question = questions("image", data)[-1].for_copies()
    fits = [
        fit_on(question.design(table.fillna({"age": value})), data.outcome, "cox")
        for value in (50.0, 70.0)
    ]
    assert fits[0].names == fits[1].names
    assert "stage: IV" in fits[0].names
    assert fits[0].n_patients == N
    assert not np.allclose(fits[0].coefficients, fits[1].coefficients)


def test_nobody_being_complete_is_said(world):
    table = world["covariates"].copy()
    table.loc[::2, "age"], table.loc[1::2, "sex"] = np.nan, np.nan
    regression = one(
        regressions(evaluation(world, covariates=table)), "Risk of image beside covariates"
    )
    assert regression.note == "no patient has all covariates known"


def test_covariates_without_information_are_said_and_the_rest_is_fitted(world):
    table = world["covariates"].assign(bmi=np.nan, centre=pd.Categorical(["x"] * N))
    regression = one(
        regressions(evaluation(world, covariates=table)), "Risk of image beside age, stage and sex"
    )
    assert "bmi: no value is known; left out." in regression.note
    assert "centre: the same in all patients; left out." in regression.note
    assert regression.n_patients == N


def test_covariates_that_follow_from_each_other_are_a_note_and_no_crash(world):
    table = world["covariates"].assign(age_days=world["covariates"]["age"] * 365.25)
    found = regressions(evaluation(world, covariates=table))
    regression = one(found, "Risk of image beside age, stage, sex and age_days")
    assert regression.terms == ()
    assert "'age_days' follows from the other covariates" in regression.note
    assert one(found, "Risk of image alone").terms


def test_without_covariates_and_comparator_the_risk_stands_alone(world):
    found = regressions(evaluation(world, covariates=None, comparator=None))
    assert [r.title for r in found.regressions] == ["Risk of image alone", "Risk of clinical alone"]
    assert [effect.term for effect in found.time_effects] == ["image risk, per SD"]
    assert [shape.variable for shape in found.shapes] == ["image risk, per SD"]


def test_no_event_is_said_in_every_regression(world):
    outcome = Survival(world["outcome"].time_months, np.zeros(N, dtype=bool))
    found = regressions(evaluation(world, outcome=outcome))
    assert len(found.regressions) == 4
    assert all(
        r.terms == () and "none of 240 patients had one" in r.note for r in found.regressions
    )
    assert found.time_effects == found.shapes == ()


def test_one_event_gives_what_it_can(world):
    outcome = world["outcome"]
    one_event = np.arange(N) == np.argsort(outcome.time_months)[30]
    found = regressions(evaluation(world, outcome=Survival(outcome.time_months, one_event)))
    alone = one(found, "Risk of image alone")
    assert alone.n_events == 1
    assert "1 events for 1 coefficients" in alone.note or "no maximum" in alone.note
    beside = one(found, "Risk of image beside age, stage and sex")
    assert beside.terms == ()
    assert "has no maximum" in beside.note


def test_everybody_having_the_event_is_no_obstacle(world):
    outcome = Survival(world["outcome"].time_months, np.ones(N, dtype=bool))
    found = regressions(evaluation(world, outcome=outcome))
    assert all(r.terms for r in found.regressions)


def test_entry_times_are_honoured(world):
    outcome = world["outcome"]
    entry = np.where(np.arange(N) % 2, 0.0, np.floor(outcome.time_months / 3))
    late = Survival(outcome.time_months, outcome.event, entry)
    (term,) = one(regressions(evaluation(world, outcome=late)), "Risk of image alone").terms
    fit = fit_cox(standard(world["tissue"])[:, None], late, names=["risk"])
    assert term.coefficient == pytest.approx(fit.coefficients[0], rel=1e-9)


def competing(world):
    outcome = world["outcome"]
    cause = np.where(outcome.event, 1 + (np.arange(N) % 4 == 0), 0)
    return CompetingRisks(outcome.time_months, cause.astype(np.int64), ("relapse", "death"))


def test_competing_risks_are_asked_by_incidence_and_by_cause(world):
    outcome = competing(world)
    found = regressions(evaluation(world, outcome=outcome))
    x = standard(world["tissue"])[:, None]
    incidence = one(found, "Risk of image alone", "fine-gray").terms[0]
    assert incidence.coefficient == pytest.approx(
        fit_fine_gray(x, outcome, names=["r"]).coefficients[0]
    )
    cause = one(found, "Risk of image alone", "cox")
    expected = fit_cox(x, outcome.cause_specific(), names=["r"]).coefficients[0]
    assert cause.terms[0].coefficient == pytest.approx(expected)
    assert "cause-specific hazard" in cause.method
    beside = one(found, "Risk of image beside the risk of clinical", "fine-gray")
    assert [t.name for t in beside.tests] == ["robust Wald"]


def test_competing_risks_with_entry_times_keep_the_cause_specific_model(world):
    plain = competing(world)
    late = CompetingRisks(plain.time_months, plain.cause, plain.causes, plain.time_months / 2)
    found = regressions(evaluation(world, outcome=late))
    assert "entry times" in one(found, "Risk of image alone", "fine-gray").note
    assert one(found, "Risk of image alone", "cox").terms


def test_two_classes_are_asked_by_logistic_regression(world):
    y = (world["clinic"] + world["tissue"] + np.sin(np.arange(N)) > 0).astype(np.int64)
    names = {"clinical": world["clinic"], "image": world["tissue"]}
    models = tuple(
        predictions(m, v, column="p_yes", probability=1 / (1 + np.exp(-v)))
        for m, v in names.items()
    )
    found = regressions(evaluation(world, outcome=Classes(y, ("no", "yes")), models=models))
    (term,) = one(found, "Risk of image alone", "logistic").terms
    fit = fit_logistic(standard(world["tissue"])[:, None], y, names=["r"])
    assert term.coefficient == pytest.approx(fit.coefficients[0], rel=1e-8)
    assert found.time_effects == ()
    assert [shape.variable for shape in found.shapes] == ["image risk, per SD", "age"]
    assert "log odds against the median" in found.shapes[0].method


def test_more_classes_are_a_note(world):
    outcome = Classes(np.arange(N) % 3, ("a", "b", "c"))
    found = regressions(evaluation(world, outcome=outcome))
    assert {r.note for r in found.regressions} == {
        "regressions of 3 classes are not made. Compare one class with the rest."
    }


def test_cross_validated_risks_warn_of_their_training(world):
    fold = np.arange(N) % 5
    models = tuple(
        predictions(m, world[k], fold=fold, repeats=2)
        for m, k in (("clinical", "clinic"), ("image", "tissue"))
    )
    found = regressions(evaluation(world, kind="cross-validation", models=models))
    assert all("errors ignore the training" in r.note for r in found.regressions)
    # Repeats that agree average to themselves: one of them says the same.
    once = tuple(
        predictions(m, world[k], fold=fold)
        for m, k in (("clinical", "clinic"), ("image", "tissue"))
    )
    alone = regressions(evaluation(world, kind="cross-validation", models=once))
    assert [r.terms for r in found.regressions] == [r.terms for r in alone.regressions]
    # The candidate's risk is centred within folds (test_risk_scale).
    term = one(found, "Risk of image alone").terms[0]
    level = np.array([world["tissue"][fold == k].mean() for k in range(5)])
    fit = fit_cox(standard(world["tissue"] - level[fold])[:, None], world["outcome"], names=["r"])
    assert term.coefficient == pytest.approx(fit.coefficients[0], rel=1e-8)


def test_a_probability_of_one_falls_back_on_the_risk_and_says_so(world):
    sure = np.full(N, 0.5)
    sure[3] = 1.0
    models = (
        predictions("clinical", world["clinic"]),
        predictions("image", world["tissue"], probability=sure),
    )
    regression = one(regressions(evaluation(world, models=models)), "Risk of image alone")
    assert "the risk as the model gives it is used" in regression.note
    fit = fit_cox(standard(world["tissue"])[:, None], world["outcome"], names=["risk"])
    assert regression.terms[0].coefficient == pytest.approx(fit.coefficients[0])


def test_risks_of_folds_without_probabilities_are_standardised_within_each(world):
    fold = np.arange(N) % 2
    # The second fold's model counts in other units.
    linear = np.where(fold == 1, 100 * world["tissue"] + 7, world["tissue"])
    models = (ModelPredictions("image", (linear,), (fold,), {}),)
    data = evaluation(
        world, models=models, kind="cross-validation", comparator=None, covariates=None
    )
    (regression,) = regressions(data).regressions
    plain = evaluation(world, models=(models[0],), comparator=None, covariates=None)
    assert "standardised within each fold is used" in regression.note
    assert regression.terms[0].ratio > regressions(plain).regressions[0].terms[0].ratio


def test_a_model_without_any_spread_is_a_note_and_others_go_on(world):
    models = (
        predictions("clinical", world["clinic"]),
        predictions("image", np.full(N, 0.5)),
    )
    found = regressions(evaluation(world, models=models))
    assert found.regressions[0].note == "image gives all patients the same risk"
    assert one(found, "Risk of clinical alone").terms


def test_a_comparator_without_any_spread_leaves_the_other_questions(world):
    models = (
        predictions("clinical", np.full(N, 0.5)),
        predictions("image", world["tissue"]),
    )
    found = regressions(evaluation(world, models=models))
    assert [r.title for r in found.regressions if r.terms] == [
        "Risk of image alone",
        "Risk of image beside age, stage and sex",
    ]
    assert [r.note for r in found.regressions if not r.terms] == [
        "clinical gives all patients the same risk"
    ] * 2


def test_effects_that_move_with_time_are_drawn(world):
    rng = np.random.default_rng(9)
    age = rng.normal(60, 10, N)
    # Age matters in the first months only.
    early = rng.exponential(6 * np.exp(-(age - 60) / 6))
    time = np.where(early < 5, early, 5 + rng.exponential(15, N))
    outcome = Survival.from_arrays(np.minimum(time, 30), time <= 30)
    table = world["covariates"].assign(age=age)
    found = regressions(evaluation(world, outcome=outcome, covariates=table))
    drawn = {effect.term: effect for effect in found.time_effects}
    assert list(drawn)[:2] == ["image risk, per SD", "age"]
    assert drawn["age"].test.p < 0.001
    assert drawn["age"].log_hazard_ratio[0] > drawn["age"].log_hazard_ratio[-1] + 0.05
    assert len(drawn["age"].months) == len(drawn["age"].lower) == 40


def test_shapes_are_drawn_for_the_risk_and_numbers_and_find_a_bend(world):
    rng = np.random.default_rng(10)
    age = rng.normal(60, 10, N)
    time = rng.exponential(20 / np.exp(((age - 60) / 10) ** 2))
    outcome = Survival.from_arrays(np.minimum(time, 40), time <= 40)
    table = world["covariates"].assign(age=age)
    found = regressions(evaluation(world, outcome=outcome, covariates=table))
    shapes = {shape.variable: shape for shape in found.shapes}
    assert list(shapes) == ["image risk, per SD", "age"]
    bend = shapes["age"]
    assert bend.nonlinear.p < 1e-6
    assert min(bend.log_hazard_ratio[0], bend.log_hazard_ratio[-1]) > 1
    assert len(bend.knots) == 4
    assert shapes["image risk, per SD"].unit == "SD"


def test_a_covariate_with_few_values_has_no_shape_but_a_reason(world):
    table = world["covariates"].assign(ecog=np.arange(N) % 3 * 1.0)
    found = regressions(evaluation(world, covariates=table))
    (shape,) = [s for s in found.shapes if s.variable == "ecog"]
    assert shape.at == ()
    assert "3 different values cannot carry a spline" in shape.nonlinear.note


def test_everything_survives_being_written_and_read(found):
    assert Analyses.model_validate_json(found.model_dump_json()) == found


def test_a_risk_that_the_clinic_nearly_gives_is_not_to_be_read_alone(world):
    nearly = world["clinic"] + 0.05 * world["tissue"]
    models = (predictions("clinical", world["clinic"]), predictions("image", nearly))
    found = one(
        regressions(evaluation(world, models=models)), "Risk of image beside the risk of clinical"
    )
    share = np.corrcoef(nearly, world["clinic"])[0, 1] ** 2
    assert f"nearly determines it (R² {share:.3f})" in found.note
    apart = one(regressions(evaluation(world)), "Risk of image beside the risk of clinical")
    assert "determines" not in apart.note
