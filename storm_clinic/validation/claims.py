"""Claims held against evidence: a pure function of both."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Literal, NamedTuple

from storm_clinic.study import Claim
from storm_clinic.validation.evidence import Estimate, Evidence
from storm_clinic.validation.measures import check_claims, label_of

Verdict = Literal["met", "not met", "not shown"]


class ClaimResult(NamedTuple):
    """One claim, whether it holds, and why.

    ``met``: every interval lies where the claim says. ``not met``: at least one does not.
    ``not shown``: no external estimate with an interval is there to judge it by.
    """

    claim: Claim
    status: Verdict
    reason: str


def claim_status(
    claims: Iterable[Claim], evidence: Evidence | Iterable[Evidence]
) -> list[ClaimResult]:
    """Judge each claim by the candidate's intervals on validation cohorts.

    A measure that is judged at several horizons, or on several cohorts, must hold at each of them.
    Cross-validation supports no claim, because its interval describes resampling and not new
    patients.

    Raises
    ------
    StudyError
        If a claim names a measure that does not exist.
    """
    claims = tuple(claims)
    check_claims(claims)
    given = (evidence,) if isinstance(evidence, Evidence) else tuple(evidence)
    return [_judge(claim, given) for claim in claims]


def describe_claim(claim: Claim) -> str:
    """The claim as a phrase, e.g. ``C-index: lower bound at least 0.6``."""
    over = "" if claim.over is None else f" over {claim.over}"
    subject = f"{label_of(claim.metric)}{over}"
    low, high = _bounds(claim)
    if high == inf:
        return f"{subject}: lower bound at least {low:g}"
    if low == -inf:
        return f"{subject}: upper bound at most {high:g}"
    return f"{subject}: interval within {low:g} to {high:g}"


def _bounds(claim: Claim) -> tuple[float, float]:
    """Where the whole interval must lie."""
    if claim.lower_bound_at_least is not None:
        return claim.lower_bound_at_least, inf
    if claim.upper_bound_at_most is not None:
        return -inf, claim.upper_bound_at_most
    return claim.interval_within or (-inf, inf)


def _judge(claim: Claim, evidence: tuple[Evidence, ...]) -> ClaimResult:
    external = [item for item in evidence if item.kind == "external"]
    if not external:
        reason = "there is no external validation; cross-validation supports no claim"
        return ClaimResult(claim, "not shown", reason)
    reasons, holds, judged = [], True, True
    for item in external:
        found = item.find(claim.metric, model=item.candidate, over=claim.over)
        silent = [name for name in item.cohorts if name not in {e.cohort for e in found}]
        reasons += [f"{name}: not estimated" for name in silent]
        judged &= bool(found) and not silent
        for estimate in found:
            verdict = _holds(claim, estimate)
            reasons.append(f"{_place(estimate)}: {_shown(estimate)}")
            judged &= verdict is not None
            holds &= verdict is not False
    # One interval on the wrong side settles it, whatever else is missing.
    status: Verdict = "not met" if not holds else "met" if judged else "not shown"
    return ClaimResult(claim, status, "; ".join(reasons) or "nothing was estimated")


def _holds(claim: Claim, estimate: Estimate) -> bool | None:
    if estimate.lower is None or estimate.upper is None:
        return None
    low, high = _bounds(claim)
    return low <= estimate.lower and estimate.upper <= high


def _place(estimate: Estimate) -> str:
    if estimate.level is not None:
        return f"{estimate.cohort}, {estimate.level}"
    if estimate.horizon_months is None:
        return estimate.cohort
    return f"{estimate.cohort} at {estimate.horizon_months:g} months"


def _shown(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"not estimable ({estimate.note})"
    if estimate.lower is None or estimate.upper is None:
        return f"{estimate.value:.3f} without an interval ({estimate.note})"
    return f"{estimate.value:.3f} ({estimate.lower:.3f} to {estimate.upper:.3f})"
