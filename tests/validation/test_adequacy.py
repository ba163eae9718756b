"""What a study can show is said from its size, never from how its model did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.inference import sample_size_validation as binary
from storm_clinic.inference.sample_size_development import binary_development, greatest_r2
from storm_clinic.metrics.calibration import (
    calibration_slope,
    complementary_log_log,
    observed_expected,
)
from storm_clinic.metrics.discrimination import concordance
from storm_clinic.study import Endpoint
from storm_clinic.validation.adequacy import adequacy
from storm_clinic.validation.adequacy_widths import Targets
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import Adequacy, Requirement
from storm_clinic.validation.evaluation_data import EvaluationData

ENDPOINT = Endpoint(name="pfi", horizons_months=(12.0, 36.0), tau_months=60.0)


def model(name: str, lp: np.ndarray, probabilities: dict, *, folds: int = 0) -> ModelPredictions:
    fold = np.full(len(lp), -1) if not folds else np.arange(len(lp)) % folds
    columns = {column: (p,) for column, p in probabilities.items()}
    return ModelPredictions(name, (lp,), (fold.astype(np.int64),), columns)


def survival_data(
    n: int = 500, seed: int = 1, *, kind: str = "external", lp: np.ndarray | None = None
) -> EvaluationData:
    """Predictions that are right, and about half of the patients censored."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 0.8, n)
    seen = true if lp is None else lp
    time, end = rng.exponential(60 / np.exp(true)), rng.uniform(5, 90, n)
    risks = {f"risk_at_{h}m": 1 - np.exp(-h / 60 * np.exp(seen)) for h in (12, 36)}
    return EvaluationData(
        cohort="b",
        kind=kind,
        outcome=Survival.from_arrays(np.minimum(time, end), time <= end),
        models=(model("fusion", seen, risks, folds=5 if kind == "cross-validation" else 0),),
        endpoint=ENDPOINT,
        candidate="fusion",
        comparator=None,
        seed=3,
    )


def requirement(found: Adequacy, criterion: str) -> Requirement:
    [one] = [r for r in found.requirements if r.criterion == criterion]
    return one


def width(found: Adequacy, criterion: str) -> float:
    return float(requirement(found, criterion).reached.removesuffix(" wide"))


def test_the_widths_foretold_are_those_that_the_intervals_then_have():
    data = survival_data(600)
    [found] = adequacy(data)
    p = data.model("fusion").risk_by(36)[0]
    lp = complementary_log_log(p)
    seen = {
        "C": concordance(data.outcome, p, tau_months=60.0),
        "the calibration slope": calibration_slope(data.outcome, lp, horizon_months=36),
    }
    for criterion, statistic in seen.items():
        interval = statistic.interval()
        assert width(found, criterion) == pytest.approx(interval.upper - interval.lower, rel=0.2)
    ratio = observed_expected(data.outcome, p, horizon_months=36).interval()
    assert width(found, "observed/expected at 36 months") == pytest.approx(
        (ratio.upper - ratio.lower) / ratio.value, rel=0.15
    )


def test_the_sentence_names_events_patients_and_reach():
    [found] = adequacy(survival_data())
    n = survival_data().outcome.n_events
    assert found.sentence.startswith(f"With {n} events among 500 patients this study can place C ")
    reach = width(found, "C") / 2
    assert f"C within ±{np.ceil(reach * 100) / 100:.2f}" in found.sentence
    assert "observed/expected at 36 months between 0." in found.sentence
    assert found.sentence.endswith("if the predictions are right.")
    assert found.stage == "validation"
    assert "Assumed" in found.method
    assert "Observed" in found.method


def test_a_useless_model_with_the_same_predictions_is_promised_the_same():
    """Not circular: what is promised does not look at whether the predictions came true."""
    right = survival_data(2000)
    shuffled = np.random.default_rng(9).permutation(right.model("fusion").risk[0])
    wrong = survival_data(2000, lp=shuffled)
    assert np.array_equal(right.outcome.time_months, wrong.outcome.time_months)
    [a], [b] = adequacy(right), adequacy(wrong)
    for criterion in ("C", "observed/expected at 36 months", "AUC at 36 months"):
        assert width(a, criterion) == pytest.approx(width(b, criterion), rel=0.08)


def test_four_times_the_patients_halve_every_width():
    [few], [many] = adequacy(survival_data(1000)), adequacy(survival_data(4000))
    for item in few.requirements:
        assert width(many, item.criterion) == pytest.approx(width(few, item.criterion) / 2, rel=0.1)


def test_the_need_is_the_size_at_which_the_target_is_reached():
    data = survival_data(1000)
    [found] = adequacy(data, targets=Targets(c=0.05, ratio=0.2, slope=0.3))
    for item in found.requirements:
        aim = 0.2 if "expected" in item.criterion else 0.3 if "slope" in item.criterion else 0.05
        if "expected" not in item.criterion:
            needed = 1000 * (width(found, item.criterion) / aim) ** 2
            assert item.needed_patients == pytest.approx(needed, rel=0.04)
        assert item.enough == (width(found, item.criterion) <= aim)
        share = item.available_events / item.available_patients
        assert item.needed_events == pytest.approx(item.needed_patients * share, abs=1)


def test_a_score_without_risks_has_an_assumed_c_and_says_so():
    data = survival_data()
    bare = replace(data, models=(model("fusion", data.models[0].risk[0], {}),))
    [found] = adequacy(bare)
    assert "0.7 is assumed" in found.note
    assert width(found, "C") == pytest.approx(
        2 * 1.96 * binary.c_error(0.7, 500, data.outcome.n_events / 500), abs=0.001
    )
    slope = requirement(found, "the calibration slope")
    assert slope.needed_patients is None
    assert slope.enough is None
    assert "no column" in slope.note
    assert "slope" not in found.sentence


def test_no_event_places_nothing_and_says_why():
    data = survival_data(50)
    none = replace(data, outcome=Survival.from_arrays(np.arange(1.0, 51), np.zeros(50)))
    [found] = adequacy(none)
    assert found.sentence == (
        "With 0 events among 50 patients this study can place no measure of performance."
    )
    assert all(r.note and r.enough is None for r in found.requirements)


def test_one_event_is_far_from_enough():
    data = survival_data(60)
    event = np.zeros(60)
    event[7] = 1
    lone = Survival.from_arrays(np.linspace(20, 60, 60), event)
    [found] = adequacy(replace(data, outcome=lone))
    assert found.sentence.startswith("With 1 event among 60 patients")
    assert not any(r.enough for r in found.requirements)


def test_everybody_with_the_event_still_has_a_c():
    data = survival_data(200)
    everyone = Survival.from_arrays(data.outcome.time_months, np.ones(200))
    [found] = adequacy(replace(data, outcome=everyone))
    assert requirement(found, "C").needed_patients


def test_entry_times_fall_back_for_c_and_refuse_the_ratio():
    data = survival_data(200)
    late = Survival(data.outcome.time_months, data.outcome.event, data.outcome.time_months / 2)
    [found] = adequacy(replace(data, outcome=late))
    assert "entry times" in found.note
    assert "entry times" in requirement(found, "observed/expected at 36 months").note


def test_competing_risks_use_aalen_johansen_and_the_cause_of_interest():
    data = survival_data(800)
    rng = np.random.default_rng(3)
    cause = np.where(data.outcome.event, rng.integers(1, 3, 800), 0)
    both = CompetingRisks(data.outcome.time_months, cause, ("disease", "other"))
    [found] = adequacy(replace(data, outcome=both))
    assert requirement(found, "C").available_events == int((cause == 1).sum())
    assert "Aalen-Johansen" in found.method
    assert "other causes" in found.note


def binary_data(n: int = 400, kind: str = "external") -> EvaluationData:
    rng = np.random.default_rng(2)
    lp = rng.normal(-1, 1, n)
    p = 1 / (1 + np.exp(-lp))
    outcome = Classes((rng.random(n) < p).astype(np.int64), ("no", "yes"))
    return replace(
        survival_data(n, kind=kind),
        outcome=outcome,
        models=(model("fusion", lp, {"p_no": 1 - p, "p_yes": p}, folds=5 * (kind != "external")),),
    )


def test_two_classes_follow_the_closed_forms():
    data = binary_data()
    [found] = adequacy(data)
    share = data.outcome.n_events / 400
    lp = data.models[0].risk[0]
    assert width(found, "AUROC") == pytest.approx(
        3.92 * binary.c_error(binary.expected_c(lp), 400, share), abs=0.001
    )
    assert requirement(found, "AUROC").needed_patients == pytest.approx(
        binary.c_size(binary.expected_c(lp), share, 0.1), rel=0.01
    )
    assert requirement(found, "observed/expected").needed_patients == pytest.approx(
        binary.observed_expected_size(share, 0.4), abs=1
    )
    assert requirement(found, "the calibration slope").needed_patients == pytest.approx(
        binary.logistic_slope_size(lp, 0.4), abs=1
    )


def test_one_class_alone_places_nothing():
    data = binary_data(30)
    alone = replace(data, outcome=Classes(np.zeros(30, np.int64), ("no", "yes")))
    [found] = adequacy(alone)
    assert all("had the event" in r.note for r in found.requirements)


def test_of_several_classes_the_rarest_is_judged():
    rng = np.random.default_rng(4)
    label = rng.choice(3, 300, p=[0.6, 0.1, 0.3])
    scores = rng.normal(size=(300, 3)) + 1.2 * np.eye(3)[label]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    columns = {f"p_{level}": p[:, k] for k, level in enumerate("abc")}
    data = replace(
        survival_data(300, kind="cross-validation"),
        outcome=Classes(label, ("a", "b", "c")),
        models=(model("fusion", p[:, 0], columns, folds=5),),
    )
    development, validation = adequacy(data, 6)
    assert "about b, the rarest class" in validation.note
    assert requirement(validation, "AUROC").available_events == int((label == 1).sum())
    assert {r.criterion for r in development.requirements} == {
        "shrinkage",
        "optimism",
        "overall risk",
    }


def test_development_is_judged_by_rileys_criteria_with_an_assumed_r2():
    data = binary_data(kind="cross-validation")
    development, validation = adequacy(data, 12, learned=("abmil",))
    assert (development.stage, validation.stage) == ("development", "validation")
    share = data.outcome.n_events / 400
    needed = binary_development(12, 0.15 * greatest_r2(share), share)
    for criterion in needed.criteria:
        found = requirement(development, criterion.name)
        assert found.needed_patients == criterion.n_patients
        assert found.enough == (criterion.n_patients <= 400)
    assert "0.15" in development.method
    assert f"{needed.n_patients} patients" in development.sentence
    assert "not enough" in development.sentence


def test_no_formula_is_made_up_for_learned_representations():
    development, _ = adequacy(survival_data(kind="cross-validation"), 4, learned=("abmil",))
    learned = requirement(development, "representation learned by abmil")
    assert learned.enough is None
    assert learned.needed_patients is None
    assert "no formula" in learned.note
    assert f"{learned.available_events} events" in learned.reached


def test_a_survival_development_reaches_more_with_fewer_parameters():
    data = survival_data(kind="cross-validation")
    few, many = adequacy(data, 2)[0], adequacy(data, 40)[0]
    assert requirement(few, "shrinkage").enough
    assert not requirement(many, "shrinkage").enough
    shrinkage = [float(requirement(a, "shrinkage").reached.split()[-1]) for a in (few, many)]
    assert shrinkage[0] >= 0.9 > shrinkage[1] > 0


def test_unknown_parameters_are_said_to_be_unknown():
    development, validation = adequacy(survival_data(kind="cross-validation"))
    assert development.requirements == ()
    assert "not known" in development.note
    assert "first repeat" in validation.note


def test_development_without_events_says_why():
    data = survival_data(50, kind="cross-validation")
    none = replace(data, outcome=Survival.from_arrays(np.arange(1.0, 51), np.zeros(50)))
    development, _ = adequacy(none, 3)
    assert development.requirements == ()
    assert development.note
