"""What stands under the answer: calibration, claims, precision, and uses that are not supported."""

from __future__ import annotations

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import (
    count,
    digits_of,
    in_words,
    listed,
    months,
    number,
    readable,
)
from storm_clinic.reporting.phrases import opponent
from storm_clinic.reporting.readings import readings
from storm_clinic.reporting.sections import see
from storm_clinic.validation.claims import claim_status
from storm_clinic.validation.comparison import headline
from storm_clinic.validation.evidence import Check, CohortOutcome, Estimate, Evidence
from storm_clinic.validation.measures import MEASURES

# A convention of this house: agreement is claimed only where the whole interval of observed over
# expected lies within a quarter of 1, so that a wide interval around 1 is not sold as agreement.
_AGREEMENT = (0.8, 1.25)
# Fewer events than this make a validation imprecise; as check SC103.
_FEW_EVENTS = 100


def findings(content: ReportContent) -> list[str]:
    """What stands under the answer: calibration, claims, precision, cross-validation."""
    found: list[str] = []
    for evidence in content.validation:
        for cohort in evidence.cohorts:
            found += calibration_findings(content, evidence, cohort)
    found += _claim_findings(content)
    if content.validation and content.development:
        found += _internal_findings(content, content.development)
    return found + _size_findings(content)


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


def failed_checks(content: ReportContent) -> list[Check]:
    """Checks that failed where the answer comes from: validation, else development."""
    sources = content.validation or ((content.development,) if content.development else ())
    return [c for e in sources for c in e.checks if c.status == "fail"]


def _size_findings(content: ReportContent) -> list[str]:
    """Which precision can be reached, else that events are few."""
    said = []
    for evidence in content.validation:
        told = [a for a in evidence.analyses.adequacy if a.stage == "validation"]
        said += [f"{a.cohort}: {a.sentence}" for a in told]
        silent = [c for c in evidence.cohorts if c not in {a.cohort for a in told}]
        said += [text for cohort in silent if (text := _few(evidence, cohort))]
    return said


def _few(evidence: Evidence, cohort: str) -> str:
    """A sentence only where events, or patients of the rarest class, are few."""
    outcome = evidence.outcome_of(cohort)
    if outcome is not None and outcome.kind == "classes":
        n, what = min(outcome.counts), "patients of the rarest class"
    else:
        n, what = max(e.n_events for e in evidence.find(cohort=cohort)), "events"
    if n >= _FEW_EVENTS:
        return ""
    return (
        f"{cohort}: only {count(n)} {what}. Under {_FEW_EVENTS} a validation is imprecise, and "
        "what is not shown may still be there."
    )


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
            f"Patients unlike those of {places}; see who they were in {see(content, 'patients')}."
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
