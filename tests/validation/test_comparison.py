"""Models side by side, in the order of the study; fusions and their parts."""

from __future__ import annotations

import pytest

from storm_clinic.study import Study
from storm_clinic.validation.comparison import (
    compare_models,
    fusion_gains,
    headline,
    models_in_order,
)
from storm_clinic.validation.evidence import Evidence
from storm_clinic.validation.fusion import missing_parts, parts_of

INPUTS = {
    "clinical": ["clinical"],
    "image": ["image"],
    "forest": ["image"],
    "both": ["image", "clinical"],
    "all": ["clinical", "storm", "image"],
}


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.from_document(
        {
            "format": 1,
            "study": "s",
            "question": "Which of these models is worth its inputs?",
            "endpoint": {"name": "pfi"},
            "features": {"encoder": "e", "storm": "s"},
            "development": ["b"],
            "clinical": ["age"],
            "candidate": "all",
            "models": [
                {"name": name, "head": f"head-of-{name}", "inputs": inputs}
                for name, inputs in INPUTS.items()
            ],
            "evaluation": {"seed": 1},
        }
    )


def evidence_of(*estimates, **changes) -> Evidence:
    parts = {"study": "s", "study_digest": "d", "kind": "external", "candidate": "all"}
    return Evidence(**(parts | {"comparator": "clinical", "estimates": estimates} | changes))


def test_the_parts_of_a_fusion_see_some_of_its_inputs_and_nothing_else(study):
    assert parts_of(study) == {
        "both": ("clinical", "image", "forest"),
        "all": ("clinical", "image", "forest", "both"),
    }


def test_inputs_that_no_model_sees_alone_are_named(study):
    inputs = {spec.name: spec.inputs for spec in study.models}
    assert missing_parts(inputs) == {"all": ("storm",)}


def test_models_stand_in_the_order_of_the_study_and_strangers_behind(study, estimate):
    names = ("theirs", "all", "image", "clinical")
    evidence = evidence_of(*(estimate(model=name) for name in names))
    assert models_in_order(evidence, study) == ("clinical", "image", "all", "theirs")
    assert models_in_order(evidence, None) == names


def test_a_line_holds_what_the_study_and_the_evidence_say_of_a_model(study, estimate):
    value = estimate(model="all")
    gain = estimate("c_index_gain", model="all", over="clinical", value=0.02, lower=0, upper=0.1)
    other = estimate("c_index_gain", model="all", over="image", value=0.3, lower=0.2, upper=0.4)
    slope = estimate("calibration_slope", model="all", value=0.9, lower=0.8, upper=1.1)
    reference = estimate(model="clinical")
    evidence = evidence_of(value, other, gain, slope, reference, seconds={"all": 3.5})
    first, line = compare_models(evidence, "b", study)
    assert (first.is_comparator, first.gain, first.seconds) == (True, None, None)
    assert (line.head, line.inputs) == ("head-of-all", ("clinical", "storm", "image"))
    assert (line.value, line.gain, line.slope, line.seconds) == (value, gain, slope, 3.5)
    assert line.is_candidate


@pytest.mark.parametrize(
    ("metrics", "first"),
    [
        (("auroc", "brier"), "auroc"),
        (("auroc_macro", "auroc"), "auroc_macro"),
        (("c_index", "c_index_cause"), "c_index"),
        (("o_e",), "c_index"),
    ],
)
def test_the_headline_is_the_outcomes_measure_of_ranking(estimate, metrics, first):
    assert headline(evidence_of(*(estimate(metric) for metric in metrics))) == first


def test_one_class_is_no_headline_and_its_slope_none_of_the_models(study, estimate):
    alone = estimate("auroc", level="grade 1", model="all")
    slope = estimate("calibration_slope", level="grade 1", model="all")
    evidence = evidence_of(alone, slope, estimate("auroc_macro", model="all"))
    assert headline(evidence) == "auroc_macro"
    assert compare_models(evidence, "b", study)[0].slope is None


def test_gains_over_parts_are_found_and_gains_over_anything_else_left(study, estimate):
    over = ("clinical", "both")
    gains = [estimate("c_index_gain", model="all", over=o, value=0.7) for o in over]
    stranger = estimate("c_index_gain", model="image", over="forest")
    found = fusion_gains(evidence_of(*gains, stranger), "b", study, ["c_index"])
    assert [(whole, part) for whole, part, _ in found] == [("all", o) for o in over]
    assert [one for _, _, [one] in found] == gains
