"""Every check can pass and can fail, and says on which numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from storm_clinic.validation.checks import CheckInput, CohortFacts, run_checks
from storm_clinic.validation.evidence import Check, Estimate

MakeEstimate = Callable[..., Estimate]

DEVELOPMENT = CohortFacts(
    "a", "development", 400, 160, 5, {12: 300, 60: 80}, {"age": 0.0, "stage": 0.04}
)
VALIDATION = CohortFacts(
    "b", "validation", 300, 120, 2, {12: 250, 60: 40}, {"age": 0.0, "stage": 0.1}
)


@pytest.fixture
def given(estimate: MakeEstimate) -> CheckInput:
    """A validation with which nothing is wrong."""
    return CheckInput(
        kind="external",
        estimates=(
            estimate(),
            estimate("c_index_gain", over="clinical", value=0.05, lower=0.01, upper=0.09),
            estimate("o_e", horizon_months=12.0, value=1.02, lower=0.9, upper=1.15),
            estimate("calibration_slope", value=0.95, lower=0.8, upper=1.1),
        ),
        cohorts=(DEVELOPMENT, VALIDATION),
        candidate="fusion",
        comparator="clinical",
        clinical_parameters=4,
        n_overlapping=0,
        encoder="e",
    )


def check(given: CheckInput, code: str) -> Check:
    [found] = [item for item in run_checks(given) if item.code == code]
    return found


def with_cohorts(given: CheckInput, **changes: object) -> CheckInput:
    return replace(given, cohorts=tuple(replace(c, **changes) for c in given.cohorts))


def test_codes_are_unique_and_ascend(given):
    codes = [item.code for item in run_checks(given)]
    assert codes == sorted(set(codes))
    assert codes[0] == "SC101"


def test_a_sound_validation_fails_no_check(given):
    assert {c.status for c in run_checks(given)} <= {"pass", "not applicable"}


@pytest.mark.parametrize(
    ("parameters", "status"), [(16, "pass"), (20, "warn"), (33, "fail"), (None, "not applicable")]
)
def test_events_per_parameter(given, parameters, status):
    found = check(replace(given, clinical_parameters=parameters), "SC101")
    assert found.status == status
    if parameters:
        assert "160 events" in found.reason


@pytest.mark.parametrize(("beyond", "status"), [(10, "pass"), (9, "warn"), (0, "fail")])
def test_follow_up_reaches_the_horizons(given, beyond, status):
    found = check(with_cohorts(given, followed_beyond={12: 100, 60: beyond}), "SC102")
    assert found.status == status
    assert f"b: {beyond} patients followed beyond 60 months" in found.reason


def test_follow_up_does_not_apply_without_horizons(given):
    assert check(with_cohorts(given, followed_beyond={}), "SC102").status == "not applicable"


@pytest.mark.parametrize(("events", "status"), [(100, "pass"), (99, "warn"), (19, "fail")])
def test_events_to_validate_on(given, events, status):
    assert check(with_cohorts(given, n_events=events), "SC103").status == status


def test_few_events_of_development_are_no_matter_of_validation(given):
    few = replace(given, cohorts=(replace(DEVELOPMENT, n_events=5), VALIDATION))
    assert check(few, "SC103").status == "pass"


@pytest.mark.parametrize(
    "off",
    [
        {"metric": "o_e", "value": 1.4, "lower": 1.1, "upper": 1.7},
        {"metric": "o_e", "value": 0.7, "lower": 0.5, "upper": 0.9},
        {"metric": "calibration_slope", "value": 0.5, "lower": 0.3, "upper": 0.7},
        {"metric": "calibration_intercept", "value": 0.5, "lower": 0.3, "upper": 0.7},
    ],
)
def test_calibration_that_is_off_fails_with_its_numbers(given, estimate, off):
    found = check(replace(given, estimates=(*given.estimates, estimate(**off))), "SC104")
    assert found.status == "fail"
    assert f"{off['value']:.3f}" in found.reason
    assert "0.950" not in found.reason  # only what is off is named


def test_another_models_calibration_is_not_the_candidates(given, estimate):
    other = estimate("o_e", model="clinical", value=3.0, lower=2.0, upper=4.0)
    assert check(replace(given, estimates=(*given.estimates, other)), "SC104").status == "pass"


def test_calibration_that_could_not_be_estimated_warns(given, estimate):
    gap = estimate("o_e", value=None, lower=None, upper=None, note="short", horizon_months=60.0)
    found = check(replace(given, estimates=(*given.estimates, gap)), "SC104")
    assert found.status == "warn"
    assert check(replace(given, estimates=(gap,)), "SC104").status == "warn"


@pytest.mark.parametrize(
    ("lower", "upper", "status"),
    [(0.001, 0.09, "pass"), (0.0, 0.09, "warn"), (-0.02, 0.05, "warn"), (-0.09, -0.01, "fail")],
)
def test_gain_over_the_clinical_comparator(given, estimate, lower, upper, status):
    gain = estimate(
        "c_index_gain", over="clinical", value=(lower + upper) / 2, lower=lower, upper=upper
    )
    assert check(replace(given, estimates=(gain,)), "SC105").status == status


def test_no_clinical_comparator_fails(given):
    assert check(replace(given, comparator=None), "SC105").status == "fail"
    same = replace(given, comparator="fusion")
    assert check(same, "SC105").status == "not applicable"


def test_a_gain_over_something_else_does_not_count(given, estimate):
    gain = estimate("c_index_gain", over="image", value=0.1, lower=0.05, upper=0.2)
    assert check(replace(given, estimates=(gain,)), "SC105").status == "warn"


@pytest.mark.parametrize(("n", "status"), [(0, "pass"), (3, "fail"), (None, "fail")])
def test_overlap_fails_and_so_does_not_having_looked(given, n, status):
    assert check(replace(given, n_overlapping=n), "SC106").status == status


@pytest.mark.parametrize(("share", "status"), [(0.2, "pass"), (0.21, "warn"), (0.51, "fail")])
def test_missing_covariates(given, share, status):
    found = check(with_cohorts(given, missing_share={"stage": share, "age": 0.0}), "SC107")
    assert found.status == status
    assert "stage" in found.reason


def test_missing_covariates_do_not_apply_without_covariates(given):
    assert check(with_cohorts(given, missing_share={}), "SC107").status == "not applicable"


@pytest.mark.parametrize(("sites", "status"), [(2, "pass"), (1, "warn"), (None, "warn")])
def test_development_on_one_site_warns(given, sites, status):
    assert check(with_cohorts(given, n_sites=sites), "SC108").status == status


@pytest.mark.parametrize(
    ("seen", "encoder", "status"),
    [
        (("e", "f"), "e", "warn"),
        (("f",), "e", "pass"),
        ((), "e", "not applicable"),
        (("e",), None, "not applicable"),
    ],
)
def test_an_encoder_pre_trained_on_these_data(given, seen, encoder, status):
    changed = replace(with_cohorts(given, encoders_seen=seen), encoder=encoder)
    assert check(changed, "SC109").status == status


@pytest.mark.parametrize(("simulated", "status"), [(False, "pass"), (True, "warn")])
def test_simulated_patients_are_named(given, simulated, status):
    assert check(with_cohorts(given, simulated=simulated), "SC110").status == status


@pytest.mark.parametrize(("lower", "status"), [(0.51, "pass"), (0.5, "fail"), (0.3, "fail")])
def test_better_than_chance(given, estimate, lower, status):
    found = check(replace(given, estimates=(estimate(lower=lower),)), "SC111")
    assert found.status == status


@pytest.mark.parametrize("code", ["SC103", "SC104", "SC106"])
def test_what_needs_validation_does_not_apply_to_cross_validation(given, code):
    assert check(replace(given, kind="cross-validation"), code).status == "not applicable"


def test_cross_validation_looks_at_the_development_cohorts_follow_up(given):
    cohorts = (replace(DEVELOPMENT, followed_beyond={60: 0}), VALIDATION)
    internal = replace(given, kind="cross-validation", cohorts=cohorts)
    assert check(internal, "SC102").status == "fail"
    assert check(replace(given, cohorts=cohorts), "SC102").status == "pass"


@pytest.mark.parametrize(
    ("inputs", "status"),
    [
        ({"clinical": ("clinical",), "image": ("image",), "f": ("image", "clinical")}, "pass"),
        ({"clinical": ("clinical",), "f": ("image", "clinical")}, "warn"),
        ({"clinical": ("clinical",), "image": ("image",)}, "not applicable"),
        ({}, "not applicable"),
    ],
)
def test_a_fusions_parts_are_among_the_models(given, inputs, status):
    found = check(replace(given, inputs=inputs), "SC112")
    assert found.status == status
    if status == "warn":
        assert found.reason == "no model sees image alone, so what f adds to it is not known"


def test_one_class_alone_is_no_ranking_of_the_candidate(given, estimate):
    macro = estimate("auroc_macro", lower=0.6, upper=0.8)
    alone = estimate("auroc", level="grade 2", value=0.5, lower=0.4, upper=0.6)
    assert check(replace(given, estimates=(macro, alone)), "SC111").status == "pass"
    off = estimate("o_e", level="grade 2", value=1.4, lower=1.1, upper=1.7)
    found = check(replace(given, estimates=(macro, off)), "SC104")
    assert "of grade 2" in found.reason


def test_of_several_classes_the_rarest_is_counted_and_called_so(given, estimate):
    several = replace(given, estimates=(*given.estimates, estimate("auroc_macro")))
    assert "b: 120 patients of the rarest class" in check(several, "SC103").reason
    assert "160 patients of the rarest class for 4 parameters" in check(several, "SC101").reason
