"""How a signalling question is answered: by a check, by what is there, or by the reviewer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from storm_clinic.reporting.content import CohortSummary
from storm_clinic.reporting.reported_facts import ReportedFacts
from storm_clinic.validation.evidence import Evidence

Part = Literal["development", "evaluation"]
Domain = Literal["participants and data sources", "predictors", "outcome", "analysis"]
Signal = Literal["low", "high", "unclear", "for the reviewer to judge"]

PATIENTS: Domain = "participants and data sources"
_SIGNALS: dict[str, Signal] = {"pass": "low", "warn": "unclear", "fail": "high"}


@dataclass(frozen=True)
class Said:
    """What the data say to one question.

    Attributes
    ----------
    signal : {"low", "high", "unclear", "for the reviewer to judge"}
    reason : str
    anchors : tuple of str
    """

    signal: Signal
    reason: str
    anchors: tuple[str, ...] = ()


Rule = Callable[[ReportedFacts], Said]


@dataclass(frozen=True)
class Question:
    """One signalling question and the rule that answers it.

    Attributes
    ----------
    domain, number, asks : str
    answer : callable
    """

    domain: Domain
    number: str
    asks: str
    answer: Rule


def reviewer(look_at: str, *anchors: str) -> Rule:
    """A question that no data can answer."""
    return lambda _: to_judge(look_at, *anchors)


def to_judge(look_at: str, *anchors: str) -> Said:
    """What a reviewer must look at."""
    return Said("for the reviewer to judge", look_at, anchors)


def by_checks(
    facts: ReportedFacts,
    evidence: tuple[Evidence, ...],
    codes: tuple[str, ...],
    otherwise: str,
    *anchors: str,
) -> Said:
    """The worst of some checks: pass is low concern, a warning unclear, a failure high.

    Unclear, with ``otherwise`` as the reason, where none of them applies.
    """
    order = ("fail", "warn", "pass")
    found = [check for code in codes if (check := facts.worst(code, evidence)) is not None]
    if not found:
        return Said("unclear", otherwise)
    worst = min(found, key=lambda check: order.index(check.status))
    reasons = [f"{c.code}: {c.reason}" for c in found if c.status == worst.status]
    return Said(_SIGNALS[worst.status], "; ".join(reasons), (*anchors, "checks"))


def sources_of(cohorts: tuple[CohortSummary, ...]) -> Said:
    """Whether the sources fit is a matter of design; they are named."""
    named = [
        f"{cohort.name}: {source}"
        for cohort in cohorts
        if (source := dict(cohort.origin).get("source"))
    ]
    if len(named) < len(cohorts) or not cohorts:
        return Said("unclear", "the source of a cohort is not named")
    return to_judge(f"whether these sources fit the purpose: {'; '.join(named)}", "patients")


def exclusions_of(cohorts: tuple[CohortSummary, ...]) -> Said:
    """Whether exclusions were right is a matter of design; they are counted."""
    if not cohorts or not all(cohort.flow for cohort in cohorts):
        return Said("unclear", "who was left out, and why, is not told for every cohort")
    left = [_left(cohort) for cohort in cohorts]
    return to_judge(f"whether these exclusions fit the purpose: {'; '.join(left)}", "patients")


def _left(cohort: CohortSummary) -> str:
    steps = [step for step in cohort.flow if step.unit == "patients"]
    reasons: dict[str, int] = {}
    for step in steps:
        for reason, n in step.reasons:
            reasons[reason] = reasons.get(reason, 0) + n
    gone = steps[0].n_before - steps[-1].n_after if steps else 0
    why = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
    return f"{cohort.name}: {gone} patients left{f' ({why})' if why else ''}"
