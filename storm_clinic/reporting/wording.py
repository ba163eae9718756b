"""Plain sentences made from estimates by rule, so that no sentence outruns its numbers.

The one rule behind all of them: a direction is stated only where the whole 95% interval lies on
one side; everything else is called not shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import (
    count,
    digits_of,
    in_words,
    interval_of,
    listed,
    months,
    number,
    readable,
    value_of,
)
from storm_clinic.study import Study
from storm_clinic.validation.claims import claim_status
from storm_clinic.validation.comparison import headline
from storm_clinic.validation.evidence import CohortOutcome, Estimate, Evidence
from storm_clinic.validation.measures import MEASURES, gain_of

Verdict = Literal[
    "not estimated", "chance", "reversed", "alone", "gain unknown", "gain", "no gain", "loss"
]
# Measurements are called what the cohorts call them.
_INPUTS = {"image": "histology", "storm": "STORM context", "imputed_expression": "imputed genes"}
# A convention of this house: agreement is claimed only where the whole interval of observed over
# expected lies within a quarter of 1, so that a wide interval around 1 is not sold as agreement.
_AGREEMENT = (0.8, 1.25)


@dataclass(frozen=True)
class Reading:
    """What the headline measure says about the candidate on one cohort."""

    cohort: str
    kind: Literal["cross-validation", "external"]
    metric: str
    value: Estimate | None
    gain: Estimate | None
    comparator: Estimate | None
    verdict: Verdict
    outcome: CohortOutcome | None = None  # causes or classes, where there are several


def readings(content: ReportContent) -> list[Reading]:
    """One reading a cohort: of validation where there is any, else of cross-validation."""
    sources = content.validation or ((content.development,) if content.development else ())
    return [_read(content, evidence, cohort) for evidence in sources for cohort in evidence.cohorts]


def _read(content: ReportContent, evidence: Evidence, cohort: str) -> Reading:
    metric = headline(evidence)
    compared = content.comparator if content.comparator != content.candidate else None
    value = _first(evidence.find(metric, model=content.candidate, cohort=cohort))
    gain, other = None, None
    if compared is not None:
        gain = _first(
            evidence.find(gain_of(metric), model=content.candidate, cohort=cohort, over=compared)
        )
        other = _first(evidence.find(metric, model=compared, cohort=cohort))
    verdict = _verdict(metric, value, gain, compared is not None)
    made_of = evidence.outcome_of(cohort)
    return Reading(cohort, evidence.kind, metric, value, gain, other, verdict, made_of)


def _first(found: list[Estimate]) -> Estimate | None:
    return found[0] if found else None


def _verdict(metric: str, value: Estimate | None, gain: Estimate | None, compared: bool) -> Verdict:
    neutral = MEASURES[metric].neutral
    if value is None or value.lower is None or value.upper is None or neutral is None:
        return "not estimated"
    if value.upper < neutral:
        return "reversed"
    if value.lower <= neutral:
        return "chance"
    if not compared:
        return "alone"
    if gain is None or gain.lower is None or gain.upper is None:
        return "gain unknown"
    if gain.lower > 0:
        return "gain"
    return "loss" if gain.upper < 0 else "no gain"


def gain_in_words(gain: Estimate | None, kind: Literal["cross-validation", "external"]) -> str:
    """What an interval of a gain shows: a direction only where all of it lies on one side."""
    if gain is None or gain.lower is None or gain.upper is None:
        return "not known"
    hedge = " on average" if kind == "cross-validation" else ""
    if gain.lower > 0:
        return f"a gain{hedge}"
    return f"a loss{hedge}" if gain.upper < 0 else "no gain was shown"


def composition(outcome: CohortOutcome | None, n_events: int) -> str:
    """How many had what: ``40 with the event``, or every cause or class by its name."""
    if outcome is None:
        return f"{count(n_events)} with the event"
    numbers = zip(outcome.names, outcome.counts, strict=True)
    if outcome.kind == "classes":
        return ", ".join(f"{count(n)} {name}" for name, n in numbers)
    return listed([f"{count(n)} with {readable(name)}" for name, n in numbers])


def _does(outcome: CohortOutcome | None, *, past: bool = False) -> str:
    """What a model of this outcome does well or badly, as a verb with its object."""
    if outcome is not None and outcome.kind == "classes":
        classes = listed([readable(name) for name in outcome.names])
        return f"{'told' if past else 'tells'} {classes} apart"
    of = "" if outcome is None else f" of {readable(outcome.names[0])}"
    return f"{'ranked' if past else 'ranks'} patients by risk{of}"


def describe_inputs(study: Study | None, model: str) -> str:
    """What a model sees, in words: ``histology with age and stage``; empty if not known."""
    if study is None or model not in {spec.name for spec in study.models}:
        return ""
    inputs = study.model(model).inputs
    seen = [_INPUTS.get(name, readable(name)) for name in inputs if name != "clinical"]
    if "clinical" not in inputs:
        return listed(seen)
    clinical = listed([readable(name) for name in study.clinical])
    return f"{listed(seen)} with {clinical}" if seen else f"{clinical} alone"


def subject(content: ReportContent, model: str) -> str:
    """A model as a sentence's subject: its name, and what it sees."""
    seen = describe_inputs(content.study, model)
    return f"model ‘{model}’ ({seen})" if seen else f"model ‘{model}’"


def opponent(content: ReportContent) -> str:
    """The clinical comparator as a phrase: ``age and stage alone``."""
    if content.comparator is None:
        return "clinical variables"
    seen = describe_inputs(content.study, content.comparator)
    return seen or f"the clinical comparator ‘{content.comparator}’"


def answer(content: ReportContent) -> str:
    """The answer to the question, in one sentence with its uncertainty."""
    found = readings(content)
    if not found:
        return "Nothing has been estimated yet, so the question has no answer."
    start = "Simulated: " if content.simulated else ""
    if len(found) == 1:
        return _capital(f"{start}{_one(content, found[0])}")
    return _capital(f"{start}{_several(content, found)}")


def _one(content: ReportContent, reading: Reading) -> str:
    value = reading.value
    who = subject(content, content.candidate)
    if reading.verdict == "not estimated" or value is None:
        reason = value.note if value is not None and value.note else "it was not computed"
        return f"how well the {who} {_does(reading.outcome)} cannot be said, because {reason}."
    place = (
        f"in {count(value.n_patients)} patients of {reading.cohort} "
        f"({composition(reading.outcome, value.n_events)})"
    )
    if reading.kind == "external":
        # Who made predictions elsewhere may have trained on anybody.
        place += ", none of them used for training," if content.study is not None else ""
        tail = "."
    else:
        place += ", by cross-validation among the patients it was developed on,"
        tail = "; no independent cohort has tested it yet."
    return f"{place} {_statement(content, reading, who)}{tail}"


def _statement(content: ReportContent, reading: Reading, who: str) -> str:
    value, gain, against = reading.value, reading.gain, opponent(content)
    assert value is not None  # _one has dealt with that
    measured = f"{MEASURES[reading.metric].label} {in_words(value)}"
    change = in_words(gain) if gain is not None else "not computed"
    does, did = _does(reading.outcome), _does(reading.outcome, past=True)
    if reading.verdict == "reversed":
        return f"the {who} {did} worse than chance: {measured}"
    if reading.verdict == "chance":
        return f"it was not shown that the {who} {does} better than chance: {measured}"
    if reading.verdict == "alone":
        clause = "with no clinical comparator, so that nothing is known about added value"
        if content.comparator == content.candidate:
            clause = "being itself the clinical comparator"
        return f"the {who} {did} better than chance: {measured}, {clause}"
    if reading.verdict == "gain unknown":
        return (
            f"the {who} {did} better than chance: {measured}; its gain over {against} is {change}"
        )
    other = reading.comparator
    beside = f", against {value_of(other)}" if other and other.value is not None else ""
    numbers = f"{measured}{beside}, difference {change}"
    if reading.verdict == "no gain":
        return f"no gain of the {who} over {against} was shown: {numbers}"
    word = "better" if reading.verdict == "gain" else "worse"
    hedge = " on average" if reading.kind == "cross-validation" else ""
    return f"the {who} {did} {word} than {against}{hedge}: {numbers}"


def _several(content: ReportContent, found: list[Reading]) -> str:
    kind = "validation cohorts" if found[0].kind == "external" else "development cohorts"
    wins = sum(reading.verdict == "gain" for reading in found)
    losses = sum(reading.verdict == "loss" for reading in found)
    who, against = subject(content, content.candidate), opponent(content)
    if content.comparator in (None, content.candidate):
        shown = sum(reading.verdict == "alone" for reading in found)
        does = _does(found[0].outcome).split(" ", 1)
        ranked = f"was shown to {does[0].removesuffix('s')} {does[1]} better than chance"
        start = f"the {who} {ranked} in {_of(shown, found)}"
    else:
        start = f"a gain of the {who} over {against} was shown in {_of(wins, found)}"
    worse = f", and a loss in {losses}" if losses else ""
    return f"{start} {kind}{worse}: {'; '.join(_brief(reading) for reading in found)}."


def _of(n: int, found: list[Reading]) -> str:
    return f"none of {len(found)}" if n == 0 else f"{n} of {len(found)}"


def _brief(reading: Reading) -> str:
    if reading.value is None or reading.value.value is None:
        return f"{reading.cohort}, not estimable"
    text = f"{reading.cohort}, {MEASURES[reading.metric].label} {value_of(reading.value)}"
    text += f" ({interval_of(reading.value)})"
    if reading.gain is None or reading.gain.value is None:
        return text
    return f"{text}, difference {value_of(reading.gain)} ({interval_of(reading.gain)})"


def findings(content: ReportContent) -> list[str]:
    """What stands under the answer: calibration, claims, precision, cross-validation."""
    found: list[str] = []
    for evidence in content.validation:
        for cohort in evidence.cohorts:
            found += calibration_findings(content, evidence, cohort)
    found += _claim_findings(content)
    if content.validation and content.development:
        found += _internal_findings(content, content.development)
    if content.validation or content.development:
        found += _check_findings(content)
    return found


def calibration_findings(content: ReportContent, evidence: Evidence, cohort: str) -> list[str]:
    """How the candidate's predicted and observed risks agree: on average, and in their spread."""
    said: dict[str, list[str]] = {}
    for e in evidence.find("o_e", model=content.candidate, cohort=cohort):
        at = "" if e.horizon_months is None else f"by {months(e.horizon_months)} "
        at += "" if e.level is None else f"for {readable(e.level)} "
        words = _agreement(e, evidence.outcome_of(cohort))
        said.setdefault(words, []).append(f"{at}{in_words(e)}")
    found = [
        f"{cohort}: {words}. Observed/expected {'; '.join(numbers)}."
        for words, numbers in said.items()
    ]
    spread = evidence.find("calibration_slope", model=content.candidate, cohort=cohort)
    return found + [text for e in spread if (text := _spread(e))]


def _agreement(estimate: Estimate, outcome: CohortOutcome | None = None) -> str:
    if estimate.lower is None or estimate.upper is None:
        return "agreement of predicted and observed risk cannot be judged"
    what = "events happened"
    if estimate.level is not None:
        what = f"patients were {readable(estimate.level)}"
    elif outcome is not None:
        what = f"events of {readable(outcome.names[0])} happened"
    if estimate.lower > 1:
        return f"more {what} than were predicted"
    if estimate.upper < 1:
        return f"fewer {what} than were predicted"
    if _AGREEMENT[0] <= estimate.lower and estimate.upper <= _AGREEMENT[1]:
        return "predicted and observed risk agreed on average"
    return (
        "no disagreement between predicted and observed risk was shown, but the data are too few "
        "to rule one out"
    )


def _spread(estimate: Estimate) -> str:
    """A sentence only where the slope is shown to be off."""
    if estimate.upper is not None and estimate.upper < 1:
        words = "too extreme: high risks are predicted too high, low ones too low"
    elif estimate.lower is not None and estimate.lower > 1:
        words = "too much alike: high risks are predicted too low, low ones too high"
    else:
        return ""
    of = "" if estimate.level is None else f" of {readable(estimate.level)}"
    return f"{estimate.cohort}: predicted risks{of} are {words}. Slope {in_words(estimate)}."


def _claim_findings(content: ReportContent) -> list[str]:
    if content.study is None or not content.study.claims:
        return []
    results = claim_status(content.study.claims, content.validation)
    met = sum(result.status == "met" for result in results)
    if not content.validation:
        return ["The claims made beforehand have not been tested: no validation cohort yet."]
    if met == len(results):
        many = "The one claim" if met == 1 else f"All {met} claims"
        return [f"{many} made beforehand {'holds' if met == 1 else 'hold'}."]
    many = f"{met or 'None'} of the {len(results)} claims made beforehand"
    return [f"{many} {'holds' if met == 1 else 'hold'}."]


def _internal_findings(content: ReportContent, development: Evidence) -> list[str]:
    metric = headline(development)
    return [
        f"In cross-validation on the development patients ({cohort}) the "
        f"{MEASURES[metric].label} had been {number(estimate.value, digits_of(estimate))}."
        for cohort in development.cohorts
        for estimate in development.find(metric, model=content.candidate, cohort=cohort)
        if estimate.value is not None
    ]


def _check_findings(content: ReportContent) -> list[str]:
    sources = content.validation or ((content.development,) if content.development else ())
    failed = [c for e in sources for c in e.checks if c.status == "fail"]
    if not failed:
        return []
    codes = listed(sorted({check.code for check in failed}))
    many = "One automatic check" if len(failed) == 1 else f"{len(failed)} automatic checks"
    return [f"{many} failed: {codes}; see section 7."]


def not_for(content: ReportContent) -> list[str]:
    """What the model may not be used for, as these numbers stand."""
    found = readings(content)
    rules = ["Decisions on the care of individual patients: this is a research result."]
    if content.simulated:
        rules.append("Any statement about real patients: simulated data are in here.")
    if not content.validation:
        rules.append("Patients from any other hospital: it has been tested on none.")
    else:
        places = listed([cohort.name for cohort in content.cohorts])
        rules.append(
            f"Patients unlike those of {places}; see who they were in section 1."
            if places
            else "Patients unlike those evaluated here, who are not described."
        )
    if not found or any(reading.verdict != "gain" for reading in found):
        where = " in every cohort" if len(found) > 1 else ""
        against = opponent(content).removesuffix(" alone")
        rules.append(f"In place of {against}, or beside it: no gain over it has been shown{where}.")
    if not _risks_agree(content):
        rules.append(
            "Telling anyone a risk in per cent: agreement of predicted with observed risk "
            "has not been shown."
        )
    return [*rules, *content.not_for]


def _risks_agree(content: ReportContent) -> bool:
    """Whether every ratio is narrowly around 1 and no slope is shown to be off."""
    ratios, slopes = (
        [e for item in content.validation for e in item.find(metric, model=content.candidate)]
        for metric in ("o_e", "calibration_slope")
    )
    agreed = "predicted and observed risk agreed on average"
    close = all(_agreement(e) == agreed for e in ratios)
    known = all(e.lower is not None for e in slopes)
    return bool(ratios) and close and known and not any(_spread(e) for e in slopes)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
