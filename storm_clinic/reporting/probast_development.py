"""PROBAST+AI, quality of development."""

from __future__ import annotations

from storm_clinic.reporting.probast_answers import (
    PATIENTS,
    Question,
    Said,
    by_checks,
    exclusions_of,
    reviewer,
    sources_of,
    to_judge,
)
from storm_clinic.reporting.reported_facts import ReportedFacts
from storm_clinic.study import TILES


def _sources(facts: ReportedFacts) -> Said:
    return sources_of(facts.cohorts_of("development"))


def _exclusions(facts: ReportedFacts) -> Said:
    return exclusions_of(facts.cohorts_of("development"))


def _sites(facts: ReportedFacts) -> Said:
    known = by_checks(facts, facts.evidence, ("SC108",), "the number of sites is not known")
    return Said(known.signal, known.reason, ("patients", *known.anchors))


def _blind(facts: ReportedFacts) -> Said:
    study = facts.content.study
    inputs = study.model(facts.content.candidate).inputs if study else ()
    if inputs and set(inputs) <= {*TILES}:
        what = "the candidate sees features of a frozen encoder only, made without outcomes"
        return Said("low", what, ("methods",))
    return to_judge("whether covariates were recorded before the outcome was known", "methods")


def _size(facts: ReportedFacts) -> Said:
    found = [item for item in facts.analyses.adequacy if item.stage == "development"]
    judged = [
        need.enough for item in found for need in item.requirements if need.enough is not None
    ]
    if judged:
        reason = " ".join(item.sentence for item in found)
        return Said("low" if all(judged) else "high", reason, ("adequacy",))
    return by_checks(facts, facts.evidence, ("SC101",), "the model's parameters are not known")


def _missing(facts: ReportedFacts) -> Said:
    development = facts.content.development
    own = (development,) if development else facts.evidence
    return by_checks(facts, own, ("SC107", "SC120"), "missing values were not counted", "patients")


def _optimism(facts: ReportedFacts) -> Said:
    development, study = facts.content.development, facts.content.study
    if development is None or study is None:
        return Said("unclear", "no internal validation is shown")
    resampled = f"{study.evaluation.repeats} times {study.evaluation.folds} folds"
    control = facts.worst("SC123", (development,))
    if control is not None and control.status == "fail":
        return Said("high", f"{control.code}: {control.reason}", ("internal", "checks"))
    internal = ("internal",) if development.analyses.internal else ()
    return Said("low", f"cross-validated, {resampled}", ("methods", *internal))


def _tuning(facts: ReportedFacts) -> Said:
    study = facts.content.study
    if study is None:
        return Said("unclear", "how settings were chosen is not known")
    tuned = [model.name for model in study.models if model.tune]
    if not tuned:
        return Said("low", "no setting was tuned", ("methods",))
    where = f"{study.evaluation.inner_folds} inner folds of each outer training part"
    return Said("low", f"settings of {', '.join(tuned)} were chosen in {where}", ("methods",))


def _clusters(facts: ReportedFacts) -> Said:
    study = facts.content.study
    if study is not None and study.evaluation.group == "site":
        return Said("low", "no site is split between folds", ("methods",))
    return Said("unclear", "patients of one site may be in training and held-out folds")


def _compared(facts: ReportedFacts) -> Said:
    comparator = facts.content.comparator
    if comparator is None:
        return Said("high", "there is no clinical model to compare with", ("performance",))
    return Said("low", f"compared with {comparator} on the same patients", ("performance",))


def _assumptions(facts: ReportedFacts) -> Said:
    otherwise = "proportional hazards were not tested, or do not apply"
    return by_checks(facts, facts.evidence, ("SC113",), otherwise)


def _imbalance(facts: ReportedFacts) -> Said:
    if any(item.classes or item.confusion for item in facts.evidence):
        look = "whether classes were re-weighted, and whether risks were brought back to scale"
        return to_judge(look, "methods")
    return Said("low", "no classes: events are counted over time", ())


DEVELOPMENT = (
    Question(PATIENTS, "1.1", "Do the sources fit the purpose?", _sources),
    Question(PATIENTS, "1.2", "Were the right patients included?", _exclusions),
    Question(PATIENTS, "1.3", "Did development see more than one site?", _sites),
    Question(
        "predictors",
        "2.1",
        "Were predictors defined and measured alike in all?",
        reviewer("whether staining, scanning and records were alike at all sites", "patients"),
    ),
    Question("predictors", "2.2", "Were they assessed without the outcome?", _blind),
    Question(
        "predictors",
        "2.3",
        "Are they known when the model is to be used?",
        reviewer("whether every input is there at the moment of use", "methods"),
    ),
    Question(
        "outcome",
        "3.1",
        "Was the outcome well defined and assessed?",
        reviewer("how events were found, and by whom", "methods"),
    ),
    Question(
        "outcome",
        "3.2",
        "Alike in all, without the predictors?",
        reviewer("whether assessors knew the predictors, and whether predictors define it"),
    ),
    Question("analysis", "4.1", "Are there enough patients and events?", _size),
    Question("analysis", "4.2", "Were missing values few, and met well?", _missing),
    Question("analysis", "4.3", "Was overfitting looked for?", _optimism),
    Question("analysis", "4.4", "Were settings tuned apart from evaluation?", _tuning),
    Question("analysis", "4.5", "Was clustering by site respected?", _clusters),
    Question("analysis", "4.6", "Do the model's assumptions hold?", _assumptions),
    Question("analysis", "4.7", "Was it compared with a clinical model?", _compared),
    Question("analysis", "4.8", "Was class imbalance met well?", _imbalance),
)
