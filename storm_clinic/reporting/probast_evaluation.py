"""PROBAST+AI, risk of bias in evaluation.

A poor result is no bias: whether a model is calibrated, gains or helps is not asked here, but
whether it was judged fairly.
"""

from __future__ import annotations

from storm_clinic.reporting.probast_answers import (
    PATIENTS,
    Question,
    Said,
    by_checks,
    exclusions_of,
    reviewer,
    sources_of,
)
from storm_clinic.reporting.reported_facts import CALIBRATION, RANKING, ReportedFacts

_UNKNOWN = "this was not checked"


def _role(facts: ReportedFacts) -> str:
    return "validation" if facts.validated else "development"


def _sources(facts: ReportedFacts) -> Said:
    return sources_of(facts.cohorts_of(_role(facts)))


def _exclusions(facts: ReportedFacts) -> Said:
    return exclusions_of(facts.cohorts_of(_role(facts)))


def _apart(facts: ReportedFacts) -> Said:
    if not facts.validated:
        return Said(
            "unclear", "no other patients: only held-out folds of development", ("methods",)
        )
    return by_checks(facts, facts.judged, ("SC106",), _UNKNOWN)


def _encoder(facts: ReportedFacts) -> Said:
    return by_checks(
        facts, facts.judged, ("SC109",), "what the encoder was trained on is not known"
    )


def _mix(facts: ReportedFacts) -> Said:
    anchors = ("case-mix",) if facts.analyses.case_mix else ()
    return by_checks(facts, facts.judged, ("SC121",), "it was not compared", *anchors)


def _missing(facts: ReportedFacts) -> Said:
    codes = ("SC107", "SC120")
    return by_checks(facts, facts.judged, codes, "missing values were not counted", "patients")


def _horizon(facts: ReportedFacts) -> Said:
    return by_checks(facts, facts.judged, ("SC102",), "no horizon is judged")


def _size(facts: ReportedFacts) -> Said:
    anchors = ("adequacy",) if facts.analyses.adequacy else ()
    return by_checks(facts, facts.judged, ("SC103", "SC119"), _UNKNOWN, *anchors)


def _measures(facts: ReportedFacts) -> Said:
    found = {
        "discrimination": facts.has_interval(RANKING),
        "calibration": facts.has_interval(CALIBRATION),
    }
    lacking = [name for name, there in found.items() if not there]
    if lacking:
        return Said("high", f"no {' and no '.join(lacking)} with an interval", ("performance",))
    return Said("low", "discrimination and calibration have intervals", ("performance",))


def _time(facts: ReportedFacts) -> Said:
    timed = [e for item in facts.judged for e in item.estimates if e.metric.startswith("c_index")]
    if not timed:
        return Said("low", "no patient is censored: classes", ())
    several = any(item.outcomes for item in facts.judged)
    how = "competing events are modelled" if several else "censoring is weighted or estimated for"
    reason = f"{how}; whether deaths of other causes were counted rightly is for the reviewer"
    return Said("low" if several else "unclear", reason, ("methods",))


def _frozen(facts: ReportedFacts) -> Said:
    if facts.locked():
        return Said("low", "the locked model was scored once", ("provenance-section",))
    return Said("unclear", "nothing shows that the model was fixed before it was evaluated")


def _thresholds(facts: ReportedFacts) -> Said:
    return by_checks(facts, facts.judged, ("SC125", "SC126"), "no threshold is judged")


def _utility(facts: ReportedFacts) -> Said:
    if any(item.analyses.decision for item in facts.judged):
        return Said("low", "net benefit is shown over a range of thresholds", ("utility",))
    return Said("unclear", "net benefit was not estimated")


def _sites(facts: ReportedFacts) -> Said:
    codes = ("SC115", "SC116")
    return by_checks(facts, facts.judged, codes, "sites were not compared")


def _groups(facts: ReportedFacts) -> Said:
    anchors = ("subgroups",) if facts.analyses.subgroups else ()
    otherwise = "no subgroup was looked at"
    return by_checks(facts, facts.judged, ("SC117",), otherwise, *anchors)


EVALUATION = (
    Question(PATIENTS, "1.1", "Do the sources fit the purpose?", _sources),
    Question(PATIENTS, "1.2", "Were the right patients included?", _exclusions),
    Question(PATIENTS, "1.3", "Are they apart from those of development?", _apart),
    Question(PATIENTS, "1.4", "Was the encoder trained on other data?", _encoder),
    Question(PATIENTS, "1.5", "Are they like those of development?", _mix),
    Question(
        "predictors",
        "2.1",
        "Were predictors defined and measured as in development?",
        reviewer("whether staining, scanning and records were as in development", "patients"),
    ),
    Question(
        "predictors",
        "2.2",
        "Were they assessed without the outcome?",
        reviewer("whether covariates were recorded before the outcome was known"),
    ),
    Question("predictors", "2.3", "Were few values missing?", _missing),
    Question(
        "outcome",
        "3.1",
        "Was the outcome well defined, as in development?",
        reviewer("how events were found in each cohort, and by whom", "methods"),
    ),
    Question(
        "outcome",
        "3.2",
        "Was it assessed without predictors and predictions?",
        reviewer("whether assessors knew the predictors or the predictions"),
    ),
    Question("outcome", "3.3", "Does follow-up reach the horizons?", _horizon),
    Question("analysis", "4.1", "Are there enough patients and events?", _size),
    Question("analysis", "4.2", "Are discrimination and calibration judged?", _measures),
    Question("analysis", "4.3", "Were censoring and other events met well?", _time),
    Question("analysis", "4.4", "Was the model fixed before?", _frozen),
    Question("analysis", "4.5", "Were thresholds fixed before?", _thresholds),
    Question("analysis", "4.6", "Was clinical utility judged?", _utility),
    Question("analysis", "4.7", "Does performance hold within and over sites?", _sites),
    Question("analysis", "4.8", "Was performance judged in subgroups?", _groups),
)
