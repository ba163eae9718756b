"""No sentence outruns its numbers: every rule in both directions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storm_clinic.reporting.answer import answer
from storm_clinic.reporting.content import CohortSummary, ReportContent
from storm_clinic.reporting.findings import failed_checks, findings, not_for
from storm_clinic.reporting.page import render
from storm_clinic.reporting.readings import readings
from storm_clinic.reporting.sections import number_of
from storm_clinic.study import Study
from storm_clinic.validation.evidence import Check, Estimate, Evidence


def made(metric: str, value, lower, upper, **changes) -> Estimate:
    parts = {
        "n_patients": 270,
        "n_events": 55,
        "method": "m",
        "cohort": "hospital_b",
        "model": "fusion",
        "note": "",
    }
    return Estimate(metric=metric, value=value, lower=lower, upper=upper, **(parts | changes))


def evidence_of(*estimates: Estimate, kind: str = "external", checks=()) -> Evidence:
    return Evidence(
        study="s",
        study_digest="d",
        kind=kind,
        candidate="fusion",
        comparator="clinical",
        estimates=estimates,
        checks=checks,
    )


def ranked(lower: float = 0.66, gain: tuple | None = (0.03, 0.01, 0.05), **place) -> list[Estimate]:
    found = [
        made("c_index", 0.71, lower, 0.76, **place),
        made("c_index", 0.68, 0.62, 0.73, **(place | {"model": "clinical"})),
    ]
    return found + ([made("c_index_gain", *gain, over="clinical", **place)] if gain else [])


@pytest.fixture
def content(study: Study) -> ReportContent:
    return ReportContent(
        question=study.question, candidate="fusion", comparator="clinical", study=study
    )


def on_validation(content: ReportContent, *estimates: Estimate, **more) -> ReportContent:
    return replace(content, validation=(evidence_of(*estimates, **more),))


def test_a_gain_is_stated_where_the_whole_interval_lies_above_zero(content):
    text = answer(on_validation(content, *ranked()))
    assert text == (
        "In 270 patients of hospital_b (55 with the event), none of them used for training, the "
        "model ‘fusion’ (histology with age and stage) ranked patients by risk better than age "
        "and stage alone: C-index 0.71 (95% interval 0.66 to 0.76), against 0.68, difference "
        "+0.030 (95% interval +0.010 to +0.050)."
    )


@pytest.mark.parametrize("lower", [0.0, -0.0001, -0.05])
def test_an_interval_that_touches_zero_is_called_no_gain(content, lower):
    text = answer(on_validation(content, *ranked(gain=(0.03, lower, 0.09))))
    assert "no gain of the model ‘fusion’" in text
    assert "better" not in text


def test_a_loss_is_called_worse(content):
    text = answer(on_validation(content, *ranked(gain=(-0.04, -0.07, -0.01))))
    assert "worse than age and stage alone" in text
    assert "difference −0.040 (95% interval −0.070 to −0.010)" in text


@pytest.mark.parametrize("lower", [0.5, 0.45])
def test_a_gain_over_a_poor_comparator_does_not_hide_chance(content, lower):
    text = answer(on_validation(content, *ranked(lower=lower)))
    assert "it was not shown that the model ‘fusion’" in text
    assert "better than chance" in text
    assert "better than age" not in text


def test_a_reversed_ranking_is_said(content):
    text = answer(on_validation(content, made("c_index", 0.4, 0.35, 0.45)))
    assert "worse than chance" in text


def test_a_gain_that_could_not_be_computed_is_not_passed_over(content):
    gap = made("c_index_gain", None, None, None, over="clinical", note="no comparable pair")
    text = answer(on_validation(content, *ranked(gain=None), gap))
    assert "its gain over age and stage alone is not estimable (no comparable pair)" in text


def test_an_absent_gain_is_not_passed_over(content):
    text = answer(on_validation(content, *ranked(gain=None)))
    assert "its gain over age and stage alone is not computed" in text


def test_a_value_without_interval_supports_no_sentence_about_ranking(content):
    alone = made("c_index", 0.9, None, None, note="too few events for resampling")
    text = answer(on_validation(content, alone))
    assert "cannot be said, because too few events for resampling" in text
    assert "0.9" not in text


def test_without_a_comparator_nothing_is_said_of_added_value(content):
    alone = replace(content, comparator=None)
    text = answer(on_validation(alone, *ranked(gain=None)))
    assert "nothing is known about added value" in text


def test_a_candidate_that_is_the_comparator_says_so(content):
    same = replace(content, candidate="clinical")
    text = answer(on_validation(same, made("c_index", 0.7, 0.6, 0.8, model="clinical")))
    assert "being itself the clinical comparator" in text


def test_cross_validation_alone_never_sounds_like_validation(content):
    internal = evidence_of(*ranked(), kind="cross-validation")
    text = answer(replace(content, development=internal))
    assert "by cross-validation among the patients it was developed on" in text
    assert text.endswith("no independent cohort has tested it yet.")
    assert "none of them used for training" not in text


def test_validation_speaks_before_cross_validation(content):
    internal = evidence_of(*ranked(cohort="hospital_a"), kind="cross-validation")
    both = replace(
        content,
        development=internal,
        validation=(evidence_of(*ranked(gain=(0.0, -0.03, 0.03))),),
    )
    assert "no gain" in answer(both)
    assert [r.cohort for r in readings(both)] == ["hospital_b"]
    assert any("cross-validation on the development patients" in t for t in findings(both))


def test_nothing_estimated_is_no_answer(content):
    assert "no answer" in answer(content)
    assert readings(content) == []


def test_several_cohorts_are_counted_and_each_is_named(content):
    both = on_validation(
        content, *ranked(), *ranked(cohort="hospital_c", gain=(-0.04, -0.07, -0.01))
    )
    text = answer(both)
    assert "was shown in 1 of 2 validation cohorts, and a loss in 1:" in text
    assert "hospital_b, C-index 0.71 (0.66 to 0.76), difference +0.030" in text
    assert "hospital_c" in text


def test_predictions_from_elsewhere_are_not_vouched_for(content):
    theirs = replace(content, study=None)
    text = answer(on_validation(theirs, *ranked()))
    assert "used for training" not in text
    assert "the clinical comparator ‘clinical’" in text


def test_simulated_patients_are_said_first(content):
    summary = CohortSummary("hospital_b", "validation", 270, 55, simulated=True)
    simulated = replace(on_validation(content, *ranked()), cohorts=(summary,))
    assert answer(simulated).startswith("Simulated: ")
    assert any("simulated" in rule for rule in not_for(simulated))


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ((1.0, 0.9, 1.1), "agreed on average"),
        ((1.0, 0.7, 1.4), "too few to rule one out"),
        ((1.4, 1.1, 1.7), "more events happened than were predicted"),
        ((0.6, 0.4, 0.9), "fewer events happened than were predicted"),
    ],
)
def test_agreement_is_claimed_only_from_a_narrow_interval_around_one(content, ratio, words):
    shown = on_validation(content, *ranked(), made("o_e", *ratio, horizon_months=36.0))
    [text] = [t for t in findings(shown) if "Observed/expected" in t]
    assert words in text
    assert "by 36 months" in text
    told = any("Telling anyone a risk in per cent" in rule for rule in not_for(shown))
    assert told == ("agreed" not in words)


def test_horizons_of_the_same_verdict_share_a_sentence(content):
    ratios = [made("o_e", 1.0, 0.9, 1.1, horizon_months=h) for h in (12.0, 36.0)]
    shown = [t for t in findings(on_validation(content, *ranked(), *ratios)) if "expected" in t]
    assert len(shown) == 1
    assert "by 12 months 1.00" in shown[0]
    assert "by 36 months 1.00" in shown[0]


@pytest.mark.parametrize(
    ("slope", "words"),
    [((0.6, 0.4, 0.8), "too extreme"), ((1.5, 1.2, 1.8), "too much alike")],
)
def test_a_slope_that_is_off_is_said_and_forbids_telling_risks(content, slope, words):
    shown = on_validation(
        content, *ranked(), made("o_e", 1.0, 0.9, 1.1), made("calibration_slope", *slope)
    )
    assert any(words in text for text in findings(shown))
    assert any("per cent" in rule for rule in not_for(shown))


def test_a_slope_around_one_is_not_mentioned(content):
    shown = on_validation(
        content, *ranked(), made("o_e", 1.0, 0.9, 1.1), made("calibration_slope", 1.0, 0.8, 1.2)
    )
    assert not any("Slope" in text for text in findings(shown))
    assert not any("per cent" in rule for rule in not_for(shown))


def test_claims_are_counted(content):
    slope = made("calibration_slope", 1.0, 0.8, 1.2)
    gain = ranked(gain=(0.02, -0.01, 0.05))
    assert "2 of the 3 claims made beforehand hold." in findings(
        on_validation(content, *gain, slope)
    )
    assert "All 3 claims made beforehand hold." in findings(
        on_validation(content, *ranked(), slope)
    )
    assert "1 of the 3 claims made beforehand holds." in findings(on_validation(content, *gain))
    assert any("have not been tested" in text for text in findings(content))


def test_failed_checks_stand_on_the_first_screen(content):
    failed = Check(code="SC104", title="t", status="fail", reason="r")
    shown = on_validation(content, *ranked(), checks=(failed,))
    assert failed_checks(shown) == [failed]
    page = render(shown)
    assert page.index("Checks that failed") < page.index("<nav")
    number = number_of(shown, "checks")
    assert f'All checks: <a href="#checks">section {number}</a>' in page


def test_no_gain_forbids_use_in_place_of_the_clinic(content):
    shown = on_validation(content, *ranked(gain=(0.0, -0.03, 0.03)))
    assert any("In place of age and stage" in rule for rule in not_for(shown))
    assert not any("In place of" in r for r in not_for(on_validation(content, *ranked())))


def test_without_validation_other_hospitals_are_warned_off(content):
    internal = evidence_of(*ranked(), kind="cross-validation")
    rules = not_for(replace(content, development=internal))
    assert any("any other hospital" in rule for rule in rules)


def test_the_callers_own_warnings_are_kept(content):
    assert not_for(replace(content, not_for=("Children.",)))[-1] == "Children."
