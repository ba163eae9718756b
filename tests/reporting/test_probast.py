"""A signal is low or high only where data say so; a poor result alone is no bias."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storm_clinic.reporting.probast import ProbastRow, probast_rows
from storm_clinic.validation.analyses import Adequacy, Analyses, Requirement
from storm_clinic.validation.evidence import Check


def row(content, part: str, question: str) -> ProbastRow:
    [found] = [r for r in probast_rows(content) if (r.part, r.question) == (part, question)]
    return found


def with_check(content, code: str, status: str):
    """The same content, in which a check of all evidence came out so."""

    def changed(evidence):
        others = tuple(check for check in evidence.checks if check.code != code)
        new = Check(code=code, title="t", status=status, reason=f"because {status}")
        return evidence.model_copy(update={"checks": (*others, new)})

    return replace(
        content,
        development=changed(content.development),
        validation=tuple(changed(item) for item in content.validation),
    )


def test_both_parts_have_all_four_domains_in_order(validated):
    rows = probast_rows(validated)
    for part in ("development", "evaluation"):
        numbers = [r.question for r in rows if r.part == part]
        assert numbers == sorted(set(numbers))
        assert {n[0] for n in numbers} == {"1", "2", "3", "4"}
    assert [r.part for r in rows] == sorted(r.part for r in rows)
    assert all(r.reason and r.asks for r in rows)


@pytest.mark.parametrize(
    ("part", "question", "code"),
    [
        ("development", "1.3", "SC108"),
        ("development", "4.2", "SC107"),
        ("development", "4.6", "SC113"),
        ("evaluation", "1.3", "SC106"),
        ("evaluation", "1.4", "SC109"),
        ("evaluation", "1.5", "SC121"),
        ("evaluation", "2.3", "SC120"),
        ("evaluation", "3.3", "SC102"),
        ("evaluation", "4.1", "SC119"),
        ("evaluation", "4.5", "SC126"),
        ("evaluation", "4.7", "SC116"),
        ("evaluation", "4.8", "SC117"),
    ],
)
@pytest.mark.parametrize(("status", "signal"), [("warn", "unclear"), ("fail", "high")])
def test_a_check_that_warns_or_fails_is_a_signal(validated, part, question, code, status, signal):
    found = row(with_check(validated, code, status), part, question)
    if status == "warn" and found.signal == "high":
        return  # another check of the same question is worse
    assert found.signal == signal
    assert f"{code}: because {status}" in found.reason
    assert "checks" in found.anchors


def test_a_check_that_passes_is_low_and_one_that_does_not_apply_is_unclear(validated):
    assert row(with_check(validated, "SC126", "pass"), "evaluation", "4.5").signal == "low"
    found = row(with_check(validated, "SC126", "not applicable"), "evaluation", "4.5")
    assert found.signal == "unclear"


@pytest.mark.parametrize("code", ["SC104", "SC105", "SC111", "SC122"])
def test_a_poor_result_is_no_bias(validated, code):
    before = [(r.part, r.question, r.signal) for r in probast_rows(validated)]
    failed = probast_rows(with_check(validated, code, "fail"))
    assert [(r.part, r.question, r.signal) for r in failed] == before


def test_what_no_data_can_tell_is_left_to_the_reviewer(validated):
    for part, question in (("development", "2.1"), ("development", "3.1"), ("evaluation", "3.2")):
        assert row(validated, part, question).signal == "for the reviewer to judge"


def test_exclusions_are_counted_and_not_judged(validated):
    found = row(validated, "evaluation", "1.2")
    assert found.signal == "for the reviewer to judge"
    assert "hospital_b: 22 patients left" in found.reason
    assert "11 no slide" in found.reason
    silent = replace(validated, cohorts=tuple(replace(c, flow=()) for c in validated.cohorts))
    assert row(silent, "evaluation", "1.2").signal == "unclear"


@pytest.mark.parametrize(("enough", "signal"), [(True, "low"), (False, "high")])
def test_the_size_of_development_is_judged_by_its_criteria(validated, enough, signal):
    need = Requirement(
        criterion="shrinkage", needed_patients=9, available_patients=8, available_events=4,
        target="t", reached="r", enough=enough,
    )  # fmt: skip
    size = Adequacy(
        cohort="hospital_a", stage="development", requirements=(need,), sentence="So.", method=""
    )
    development = validated.development.model_copy(update={"analyses": Analyses(adequacy=(size,))})
    found = row(replace(validated, development=development), "development", "4.1")
    assert (found.signal, found.reason, found.anchors) == (signal, "So.", ("adequacy",))


def test_a_model_that_was_not_locked_may_have_been_changed(validated):
    assert row(validated, "evaluation", "4.4").signal == "low"
    unlocked = replace(validated, moves=validated.moves[:1])
    assert row(unlocked, "evaluation", "4.4").signal == "unclear"


def test_held_out_folds_are_no_other_patients(development_only):
    assert row(development_only, "evaluation", "1.3").signal == "unclear"


def test_a_failed_negative_control_outweighs_cross_validation(validated):
    assert row(validated, "development", "4.3").signal == "low"
    assert row(with_check(validated, "SC123", "fail"), "development", "4.3").signal == "high"


def test_no_clinical_model_is_a_concern(validated):
    assert row(validated, "development", "4.7").signal == "low"
    assert row(replace(validated, comparator=None), "development", "4.7").signal == "high"


def test_only_a_candidate_that_sees_tiles_alone_is_blind_by_design(validated):
    assert row(validated, "development", "2.2").signal == "for the reviewer to judge"
    assert row(replace(validated, candidate="abmil"), "development", "2.2").signal == "low"


def test_measures_without_intervals_are_a_high_concern(validated):
    bare = tuple(e.model_copy(update={"estimates": ()}) for e in validated.validation)
    assert row(replace(validated, validation=bare), "evaluation", "4.2").signal == "high"
    assert row(validated, "evaluation", "4.2").signal == "low"


def test_another_programs_predictions_have_no_development_part(binary):
    rows = probast_rows(binary)
    assert {r.part for r in rows} == {"evaluation"}
    assert row(binary, "evaluation", "1.1").signal == "unclear"
    assert list(rows[0].record()) == [
        "part", "domain", "question", "asks", "signal", "reason", "where",
    ]  # fmt: skip
