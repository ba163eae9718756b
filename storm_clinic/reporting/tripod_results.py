"""TRIPOD+AI, items 1 to 4 and 18 to 27: front matter, open science, results, discussion."""

from __future__ import annotations

from storm_clinic.reporting.reported_facts import CALIBRATION, RANKING, ReportedFacts
from storm_clinic.reporting.tripod_answers import (
    Answer,
    Item,
    always_authors,
    by_authors,
    in_full,
    in_part,
)


def _purpose(facts: ReportedFacts) -> Answer:
    missing = "the patients, the place in their care and the users that the model is meant for"
    if facts.content.not_for:
        return in_part("what it may not be used for is said", missing, "notfor")
    return by_authors(missing)


def _objectives(facts: ReportedFacts) -> Answer:
    if facts.content.question and facts.evidence:
        kinds = [name for name, there in _kinds(facts) if there]
        return in_full(f"the question is asked and answered ({' and '.join(kinds)})", "answer")
    return by_authors("the objectives, and whether a model is developed, evaluated or both")


def _kinds(facts: ReportedFacts) -> list[tuple[str, bool]]:
    return [
        ("development", facts.content.development is not None),
        ("evaluation", facts.validated),
    ]


def _protocol(facts: ReportedFacts) -> Answer:
    missing = "where a protocol can be read, or that there is none"
    if facts.developed:
        what = "the study file with its claims was fixed before validation, with its digest"
        return in_part(what, missing, "methods", "claims-section")
    return by_authors(missing)


def _data_sharing(facts: ReportedFacts) -> Answer:
    if facts.cohorts and all(dict(cohort.origin).get("licence") for cohort in facts.cohorts):
        return in_part("the licence of each source is named", "where the data are", "patients")
    return by_authors("whether and how the data can be had")


def _code_sharing(facts: ReportedFacts) -> Answer:
    if facts.content.provenance.versions:
        what = "versions and digests are given"
        return in_part(what, "where the code and the model can be had", "provenance-section")
    return by_authors("whether and how the code can be had")


def _flow(facts: ReportedFacts) -> Answer:
    if not facts.cohorts:
        return by_authors("the flow of patients, their events and their follow-up")
    study = facts.content.study
    timed = study is not None and bool(study.endpoint.horizons_months)
    if timed and any(cohort.median_follow_up_months is None for cohort in facts.cohorts):
        return in_part("patients and events are given", "the length of follow-up", "patients")
    if all(cohort.flow for cohort in facts.cohorts):
        return in_full("flow, events and follow-up of each cohort are given", "patients")
    without = ", ".join(cohort.name for cohort in facts.cohorts if not cohort.flow)
    what = "patients and events of each cohort are given"
    return in_part(what, f"the flow of patients of {without}", "patients")


def _characteristics(facts: ReportedFacts) -> Answer:
    if facts.cohorts and all(cohort.variables for cohort in facts.cohorts):
        what = "characteristics and missing values of each cohort are given"
        return in_part(what, "key dates and treatments", "patients")
    return by_authors("the characteristics of the patients, by source, with what is missing")


def _compared(facts: ReportedFacts) -> Answer:
    mixed = {item.cohort for item in facts.analyses.case_mix}
    asked = {cohort for item in facts.content.validation for cohort in item.cohorts}
    if asked and asked <= mixed:
        return in_full("each predictor is compared with development", "case-mix")
    if all(
        cohorts and all(cohort.variables for cohort in cohorts)
        for cohorts in (facts.cohorts_of("development"), facts.cohorts_of("validation"))
    ):
        what = "variables of both cohorts are shown"
        return in_part(what, "in what they differ", "patients")
    return by_authors("how the distribution of predictors differs from development")


def _numbers(facts: ReportedFacts) -> Answer:
    if any(item.estimates for item in facts.evidence):
        return in_full("every number names its patients and events", "performance")
    return by_authors("patients and events of each analysis")


def _specification(facts: ReportedFacts) -> Answer:
    if facts.locked():
        what = "the locked model is named by its digest"
        missing = "where it can be had, or its coefficients, so that others can predict with it"
        return in_part(what, missing, "provenance-section", "methods")
    return by_authors("the full model, so that others can predict with it")


def _performance(facts: ReportedFacts) -> Answer:
    found = {
        "discrimination": (facts.has_interval(RANKING), "performance"),
        "calibration": (facts.has_interval(CALIBRATION), "performance"),
        "calibration curves": (any(item.calibration for item in facts.judged), "calibration"),
        "key subgroups": (bool(facts.analyses.subgroups), "subgroups"),
    }
    there = {name: anchor for name, (is_there, anchor) in found.items() if is_there}
    lacking = [name for name, (is_there, _) in found.items() if not is_there]
    if not there:
        return by_authors("performance with intervals, also in key subgroups")
    anchors = tuple(dict.fromkeys(there.values()))
    what = f"given with intervals: {', '.join(there)}"
    if lacking:
        return in_part(what, " and ".join(lacking), *anchors)
    return in_full(what, *anchors)


def _heterogeneity(facts: ReportedFacts) -> Answer:
    if facts.analyses.sites:
        return in_full("by site, pooled, with a prediction interval for a new one", "sites")
    return by_authors("how performance differs between hospitals, or that it was not looked at")


def _updated(facts: ReportedFacts) -> Answer:
    if facts.locked():
        return in_full("the locked model was not updated", "provenance-section")
    return by_authors("results of any updating, or that there was none")


def _interpretation(facts: ReportedFacts) -> Answer:
    missing = "what this means beside other studies, and for fairness"
    if facts.evidence:
        return in_part("the answer is put in words with its uncertainty", missing, "answer")
    return by_authors(missing)


def _limitations(facts: ReportedFacts) -> Answer:
    raised = [
        check
        for item in facts.evidence
        for check in item.checks
        if check.status in ("warn", "fail")
    ]
    missing = "how these and other limits bias the results and limit their use"
    if raised or facts.content.limits:
        what = f"{len(raised)} warnings and failures of checks are listed"
        return in_part(what, missing, "limits", "checks")
    return by_authors(f"the limits of the study; {missing}")


FRONT = (
    Item(
        "1",
        "Title",
        "Development or evaluation, patients, outcome",
        "D;E",
        always_authors("a title with development or evaluation, the patients and the outcome"),
    ),
    Item(
        "2",
        "Abstract",
        "As TRIPOD+AI for Abstracts",
        "D;E",
        always_authors("an abstract; the numbers for it stand at the top of this report"),
    ),
    Item(
        "3a",
        "Introduction",
        "Context, reason, existing models",
        "D;E",
        always_authors("the clinical context, why a model is needed, and which exist"),
    ),
    Item("3b", "Introduction", "Patients, purpose and users meant", "D;E", _purpose),
    Item(
        "3c",
        "Introduction",
        "Known inequalities in health",
        "D;E",
        always_authors("known inequalities in health between groups of these patients"),
    ),
    Item("4", "Introduction", "Objectives", "D;E", _objectives),
)
_OPEN = "Open science"
OPEN_SCIENCE = (
    Item("18a", _OPEN, "Funding", "D;E", always_authors("who paid, and what they decided")),
    Item("18b", _OPEN, "Conflicts of interest", "D;E", always_authors("interests of all authors")),
    Item("18c", _OPEN, "Protocol", "D;E", _protocol),
    Item(
        "18d",
        _OPEN,
        "Registration",
        "D;E",
        always_authors("register and number, or that it was not registered"),
    ),
    Item("18e", _OPEN, "Sharing of data", "D;E", _data_sharing),
    Item("18f", _OPEN, "Sharing of code", "D;E", _code_sharing),
    Item(
        "19",
        "Patient and public involvement",
        "Involvement of patients and public",
        "D;E",
        always_authors("how patients and public took part, or that they did not"),
    ),
)
_RESULTS, _DISCUSSION = "Results", "Discussion"
RESULTS = (
    Item("20a", _RESULTS, "Flow of patients, events, follow-up", "D;E", _flow),
    Item("20b", _RESULTS, "Characteristics of the patients", "D;E", _characteristics),
    Item("20c", _RESULTS, "Predictors against those of development", "E", _compared),
    Item("21", _RESULTS, "Patients and events of each analysis", "D;E", _numbers),
    Item("22", _RESULTS, "The full model", "D", _specification),
    Item("23a", _RESULTS, "Performance with intervals, in key subgroups", "D;E", _performance),
    Item("23b", _RESULTS, "Performance across clusters", "D;E", _heterogeneity),
    Item("24", _RESULTS, "Results of updating", "E", _updated),
    Item("25", _DISCUSSION, "Interpretation, with fairness", "D;E", _interpretation),
    Item("26", _DISCUSSION, "Limitations", "D;E", _limitations),
    Item(
        "27a",
        _DISCUSSION,
        "Poor or missing input in use",
        "D;E",
        always_authors("what is done in use where input is poor or missing"),
    ),
    Item(
        "27b",
        _DISCUSSION,
        "What users must do and know",
        "D;E",
        always_authors("what users must do with input and output, and which skill they need"),
    ),
    Item(
        "27c",
        _DISCUSSION,
        "Next steps and generalisability",
        "D;E",
        always_authors("what must follow before use, and for whom the model may hold"),
    ),
)
