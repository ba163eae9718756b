"""A promotion is decided by the worst end of every interval, and by nothing off the record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storm_clinic.registry.decide import Approval, Decision, decide
from storm_clinic.study import Claim
from storm_clinic.validation.evidence import Check, Estimate, Evidence

RANKING = Claim(metric="c_index", lower_bound_at_least=0.60)
GAIN = Claim(metric="c_index_gain", over="clinical", lower_bound_at_least=0.0)
SLOPE = Claim(metric="calibration_slope", interval_within=(0.5, 1.6))
PROPER = Approval("d.chen", "c.trainer", "a.weber", cohorts=("site_b",))


def estimate(metric, lower, upper, *, cohort="site_b", horizon=None):
    over = "clinical" if metric.endswith("_gain") else None
    return Estimate(
        metric=metric,
        value=None if lower is None else (lower + upper) / 2,
        lower=lower,
        upper=upper,
        n_patients=200,
        n_events=80,
        method="made up",
        cohort=cohort,
        model="fusion",
        over=over,
        horizon_months=horizon,
        note="" if lower is not None else "too few events",
    )


def evidence(*estimates, checks=(), kind="external"):
    return Evidence(
        study="a-study",
        study_digest="0" * 64,
        kind=kind,
        candidate="fusion",
        comparator="clinical",
        estimates=estimates,
        checks=tuple(
            Check(code=code, title="made up", status=status, reason="because")
            for code, status in checks
        ),
    )


def texts(decision, standing):
    return [reason.text for reason in decision.reasons if reason.standing == standing]


def test_every_claim_met_by_the_worst_bound_is_approved():
    shown = evidence(estimate("c_index", 0.61, 0.75), estimate("c_index_gain", 0.001, 0.09))
    decision = decide([shown], [RANKING, GAIN], PROPER)
    assert decision.verdict == "approved"
    assert not texts(decision, "open") + texts(decision, "against")
    assert decision.evidence == {"site_b": shown.digest}


def test_a_point_estimate_that_holds_is_not_enough():
    decision = decide([evidence(estimate("c_index", 0.59, 0.81))], [RANKING], PROPER)
    assert decision.verdict == "rejected"
    assert "0.700 (0.590 to 0.810)" in texts(decision, "against")[0]


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ((0.5, 1.6), "approved"),
        ((0.49, 1.2), "rejected"),
        ((0.9, 1.61), "rejected"),
        ((None, None), "refused"),
    ],
)
def test_an_interval_must_lie_within_on_both_sides(bounds, verdict):
    shown = evidence(estimate("calibration_slope", *bounds, horizon=36.0))
    assert decide([shown], [SLOPE], PROPER).verdict == verdict


def test_one_cohort_where_a_claim_does_not_hold_settles_it():
    good = evidence(estimate("c_index", 0.65, 0.75))
    bad = evidence(estimate("c_index", 0.55, 0.65, cohort="site_c"))
    both = replace(PROPER, cohorts=("site_b", "site_c"))
    assert decide([good], [RANKING], both).verdict == "refused"
    assert decide([good, bad], [RANKING], both).verdict == "rejected"


def test_cross_validation_supports_no_claim():
    shown = evidence(estimate("c_index", 0.8, 0.9), kind="cross-validation")
    decision = decide([shown], [RANKING], PROPER)
    assert decision.verdict == "refused"
    assert decision.evidence == {}


def test_without_claims_nothing_is_approved():
    assert decide([evidence(estimate("c_index", 0.8, 0.9))], [], PROPER).verdict == "refused"


def test_a_failing_check_refuses_and_a_warning_does_not():
    shown = estimate("c_index", 0.65, 0.75)
    warned = evidence(shown, checks=[("SC103", "warn"), ("SC104", "pass")])
    assert decide([warned], [RANKING], PROPER).verdict == "approved"
    failed = evidence(shown, checks=[("SC106", "fail")])
    decision = decide([failed], [RANKING], PROPER)
    assert decision.verdict == "refused"
    assert texts(decision, "open") == ["SC106 fails on site_b: made up: because"]


@pytest.mark.parametrize("by", ["c.trainer", "a.weber", "A.WEBER", " a.weber"])
def test_who_trained_or_locked_can_neither_approve_nor_reject(by):
    for lower in (0.65, 0.55):
        shown = evidence(estimate("c_index", lower, 0.75))
        decision = decide([shown], [RANKING], replace(PROPER, by=by))
        assert decision.verdict == "refused"
        assert "may not approve it" in " ".join(texts(decision, "open"))


def test_a_rerun_must_be_accepted():
    shown = evidence(estimate("c_index", 0.65, 0.75))
    again = replace(PROPER, reruns=("site_b was scored again: wrong table",))
    assert decide([shown], [RANKING], again).verdict == "refused"
    assert decide([shown], [RANKING], replace(again, accepts_reruns=True)).verdict == "approved"


def test_a_licence_that_forbids_the_use_refuses():
    shown = evidence(estimate("c_index", 0.65, 0.75))
    bound = replace(PROPER, conflicts=("the encoder's licence forbids commercial use",))
    assert decide([shown], [RANKING], bound).verdict == "refused"


def test_the_same_evidence_and_claims_give_the_same_decision_in_any_process():
    shown = evidence(estimate("c_index", 0.65, 0.75), checks=[("SC104", "pass")])
    first, second = (decide([shown], [RANKING], PROPER) for _ in range(2))
    assert first == second
    assert Decision.model_validate_json(first.model_dump_json()) == first
