"""Whether a locked model is promoted: a pure function of its evidence, its claims and who asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from storm_clinic.licences import Conflict
from storm_clinic.registry.people import roles_of
from storm_clinic.study import Claim
from storm_clinic.validation.claims import ClaimResult, claim_status, describe_claim
from storm_clinic.validation.evidence import Evidence
from storm_clinic.validation.finite import Finite

Verdict = Literal["approved", "rejected", "refused"]
_STANDING: dict[str, Literal["for", "against", "open"]] = {
    "met": "for",
    "not met": "against",
    "not shown": "open",
}


@dataclass(frozen=True)
class Approval:
    """Who asks for a promotion, and what evidence cannot say.

    Attributes
    ----------
    by, trained_by, locked_by : str
        Whoever trained or locked a model does not approve it.
    cohorts : tuple of str
        Every cohort that must have evidence: named in the study, or added after the lock.
    reruns : tuple of str
        One sentence a cohort whose judged evidence is not that of the first scoring.
    accepts_reruns : bool
        Whether the approver has looked at these and accepts them.
    conflicts : tuple of Conflict
        Licences that forbid, or leave open, what the study declares to be for.
    """

    by: str
    trained_by: str
    locked_by: str
    cohorts: tuple[str, ...] = ()
    reruns: tuple[str, ...] = ()
    accepts_reruns: bool = False
    conflicts: tuple[Conflict, ...] = ()


class Reason(Finite):
    """One thing that speaks for a promotion, against it for good, or is open."""

    about: Literal["claim", "check", "evidence", "approver", "rerun", "licence"]
    standing: Literal["for", "against", "open", "noted"] = Field(
        description="Against: settles it. Open: stands in the way until it is put right. Noted: "
        "for whoever approves to know."
    )
    text: str


class Decision(Finite):
    """The verdict with all its reasons.

    ``approved``: every claim is met on every cohort, no check fails, nothing else is open.
    ``rejected``: a claim is not met; that is for good, since the model and its claims are frozen.
    ``refused``: nothing speaks against it for good, but something is open; the model stays locked.
    """

    verdict: Verdict
    reasons: tuple[Reason, ...]
    evidence: dict[str, str] = Field(description="Cohort to the SHA-256 of what was judged.")

    @property
    def sentence(self) -> str:
        """The verdict and what settled it."""
        if self.verdict == "approved":
            return "Approved: every claim is met and nothing stands in the way."
        standing = "against" if self.verdict == "rejected" else "open"
        told = "; ".join(reason.text for reason in self.reasons if reason.standing == standing)
        return f"{self.verdict.capitalize()}: {told}."


def decide(
    evidence: Iterable[Evidence], claims: Sequence[Claim], approval: Approval | None = None
) -> Decision:
    """Hold claims against the worst ends of intervals, and look at checks and circumstances.

    Parameters
    ----------
    evidence : iterable of Evidence
        External, one a cohort. Cross-validation supports no claim and is not looked at.
    claims : sequence of Claim
        As they were locked. Each must hold at each cohort and horizon.
    approval : Approval, optional
        Who asks; without it only claims and checks are judged.

    Returns
    -------
    Decision
        Equal arguments give an equal decision.

    Raises
    ------
    StudyError
        If a claim names a measure that does not exist.
    """
    external = [item for item in evidence if item.kind == "external"]
    reasons = [_claim(result) for result in claim_status(claims, external)]
    if not claims:
        text = "nothing was claimed before the lock, so that nothing can be shown"
        reasons.append(Reason(about="claim", standing="open", text=text))
    reasons += _checks(external)
    if approval is not None:
        reasons += _circumstances(approval, external)
    return Decision(
        verdict=_verdict(reasons),
        reasons=tuple(reasons),
        evidence={cohort: item.digest for item in external for cohort in item.cohorts},
    )


def _verdict(reasons: Sequence[Reason]) -> Verdict:
    # Who may not approve does not reject either.
    improper = any(r.about == "approver" and r.standing == "open" for r in reasons)
    if not improper and any(reason.standing == "against" for reason in reasons):
        return "rejected"
    return "refused" if any(reason.standing == "open" for reason in reasons) else "approved"


def _claim(result: ClaimResult) -> Reason:
    text = f"{describe_claim(result.claim)}: {result.status} ({result.reason})"
    return Reason(about="claim", standing=_STANDING[result.status], text=text)


def _checks(external: Sequence[Evidence]) -> list[Reason]:
    failed = [
        Reason(
            about="check",
            standing="open",
            text=f"{check.code} fails on {', '.join(item.cohorts)}: {check.title}: {check.reason}",
        )
        for item in external
        for check in item.checks
        if check.status == "fail"
    ]
    if failed or not external:
        return failed
    n_checks = sum(check.status != "not applicable" for item in external for check in item.checks)
    text = f"none of {n_checks} automatic checks fails"
    return [Reason(about="check", standing="for", text=text)]


def _circumstances(approval: Approval, external: Sequence[Evidence]) -> list[Reason]:
    known = {cohort for item in external for cohort in item.cohorts}
    reasons = [
        Reason(about="evidence", standing="open", text=f"{cohort} was not validated on yet")
        for cohort in approval.cohorts
        if cohort not in known
    ]
    if not approval.cohorts:
        text = "no cohort was named to validate on"
        reasons.append(Reason(about="evidence", standing="open", text=text))
    reasons += [
        Reason(
            about="rerun",
            standing="for" if approval.accepts_reruns else "open",
            text=text + (" (accepted)" if approval.accepts_reruns else " (not accepted)"),
        )
        for text in approval.reruns
    ]
    reasons += [
        Reason(
            about="licence",
            standing="open" if found.severity == "refuse" else "noted",
            text=str(found),
        )
        for found in approval.conflicts
    ]
    return [*reasons, _approver(approval)]


def _approver(approval: Approval) -> Reason:
    who = {"trained_by": approval.trained_by, "locked_by": approval.locked_by}
    done = roles_of(approval.by, **who)
    if done:
        text = f"{approval.by} {' and '.join(done)} the model, and so may not approve it"
        return Reason(about="approver", standing="open", text=text)
    text = f"{approval.by} neither trained nor locked the model"
    return Reason(about="approver", standing="for", text=text)
