"""What the headline measure shows of the candidate, decided by where its intervals lie.

The one rule behind all sentences: a direction is stated only where the whole 95% interval lies on
one side; everything else is called not shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storm_clinic.reporting.content import ReportContent
from storm_clinic.validation.comparison import headline
from storm_clinic.validation.evidence import CohortOutcome, Estimate, Evidence
from storm_clinic.validation.measures import MEASURES, gain_of

Verdict = Literal[
    "not estimated", "chance", "reversed", "alone", "gain unknown", "gain", "no gain", "loss"
]


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
