"""A claim holds only where every external interval lies where it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storm_clinic.errors import StudyError
from storm_clinic.study import Claim
from storm_clinic.validation.claims import claim_status, describe_claim
from storm_clinic.validation.evidence import Estimate, Evidence
from storm_clinic.validation.measures import claimable

MakeEstimate = Callable[..., Estimate]


def evidence_of(*estimates: Estimate, kind: str = "external") -> Evidence:
    return Evidence(study="s", study_digest="d", kind=kind, candidate="fusion", estimates=estimates)


def lower(metric: str, bound: float, over: str | None = None) -> Claim:
    return Claim(metric=metric, lower_bound_at_least=bound, over=over)


@pytest.mark.parametrize(("bound", "status"), [(0.65, "met"), (0.6501, "not met")])
def test_the_lower_bound_decides_and_not_the_value(estimate, bound, status):
    [result] = claim_status([lower("c_index", bound)], evidence_of(estimate()))
    assert result.status == status
    assert "0.700 (0.650 to 0.750)" in result.reason


@pytest.mark.parametrize(("bound", "status"), [(0.75, "met"), (0.7, "not met")])
def test_the_upper_bound_decides(estimate, bound, status):
    claim = Claim(metric="brier", upper_bound_at_most=bound)
    [result] = claim_status([claim], evidence_of(estimate("brier")))
    assert result.status == status


@pytest.mark.parametrize(
    ("within", "status"), [((0.6, 0.8), "met"), ((0.66, 0.8), "not met"), ((0.6, 0.7), "not met")]
)
def test_the_whole_interval_must_lie_within(estimate, within, status):
    claim = Claim(metric="calibration_slope", interval_within=within)
    [result] = claim_status([claim], evidence_of(estimate("calibration_slope")))
    assert result.status == status


def test_cross_validation_supports_no_claim_however_good(estimate):
    good = estimate(lower=0.9, value=0.95, upper=0.99)
    [result] = claim_status([lower("c_index", 0.5)], evidence_of(good, kind="cross-validation"))
    assert result.status == "not shown"


def test_another_models_success_does_not_count(estimate):
    [result] = claim_status([lower("c_index", 0.6)], evidence_of(estimate(model="clinical")))
    assert result.status == "not shown"


def test_a_gain_counts_over_the_named_comparator_only(estimate):
    gain = estimate("c_index_gain", over="image", value=0.1, lower=0.05, upper=0.15)
    [result] = claim_status([lower("c_index_gain", 0.0, "clinical")], evidence_of(gain))
    assert result.status == "not shown"


def test_every_cohort_must_agree(estimate):
    poor = estimate(cohort="c", lower=0.5, upper=0.8)
    [result] = claim_status([lower("c_index", 0.6)], evidence_of(estimate(), poor))
    assert result.status == "not met"
    assert "c: 0.700 (0.500 to 0.800)" in result.reason


def test_every_horizon_must_agree(estimate):
    early, late = (
        estimate("auc", horizon_months=12.0),
        estimate("auc", horizon_months=60.0, lower=0.4),
    )
    [result] = claim_status([lower("auc", 0.6)], evidence_of(early, late))
    assert result.status == "not met"
    assert "at 60 months" in result.reason


def test_a_number_that_could_not_be_given_shows_nothing(estimate):
    none = estimate("auc", horizon_months=60.0, value=None, lower=None, upper=None, note="short")
    early = estimate("auc", horizon_months=12.0)
    [result] = claim_status([lower("auc", 0.6)], evidence_of(early, none))
    assert result.status == "not shown"
    assert "short" in result.reason


def test_evidence_of_several_validations_is_judged_together(estimate):
    [result] = claim_status(
        [lower("c_index", 0.6)],
        [evidence_of(estimate()), evidence_of(estimate(cohort="c", lower=0.1))],
    )
    assert result.status == "not met"


def test_a_measure_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(StudyError, match=r"claims\.0\.metric.*did you mean 'c_index'"):
        claim_status([lower("c_indx", 0.6)], [])


def test_gains_are_claimable_only_where_they_are_estimated():
    names = claimable()
    assert "c_index_gain" in names
    assert "calibration_slope_gain" not in names


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (lower("c_index", 0.6), "C-index: lower bound at least 0.6"),
        (lower("auc_gain", 0.0, "clinical"), "Gain in AUC over clinical: lower bound at least 0"),
        (
            Claim(metric="o_e", interval_within=(0.8, 1.2)),
            "Observed/expected: interval within 0.8 to 1.2",
        ),
        (Claim(metric="brier", upper_bound_at_most=0.2), "Brier score: upper bound at most 0.2"),
    ],
)
def test_a_claim_reads_as_a_phrase(claim, words):
    assert describe_claim(claim) == words
