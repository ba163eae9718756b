"""Decisions on record, made again from the evidence on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from storm_clinic.bundle import Bundle
from storm_clinic.errors import StormClinicError
from storm_clinic.registry.decide import decide
from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.registry.rules import cohorts_of, judged_on
from storm_clinic.registry.trail import Event
from storm_clinic.registry.versions import RegisteredModel
from storm_clinic.steps.promotion import approval_of
from storm_clinic.validation.evidence import Evidence


def check_decision(
    event: Event, before: Sequence[Event], bundle: Bundle, evidence: Mapping[str, Evidence]
) -> list[Finding]:
    """Whether the evidence of that day gives the verdict that was recorded.

    Parameters
    ----------
    event : Event
        Approved, rejected, or a promotion refused.
    before : sequence of Event
        All that had happened to the version.
    bundle : Bundle
        Of the version.
    evidence : dict of digest to Evidence
        What validations recorded and what is unchanged since.
    """
    body = event.body
    model = RegisteredModel(
        str(body["model"]), int(body["version"]), "locked", bundle, tuple(before)
    )
    judged = judged_on(before, cohorts_of(model, before))
    if not set(judged.values()) <= evidence.keys():
        return []  # a finding of its own: that evidence is lost or changed
    try:
        approval = approval_of(model, by=event.by, accept_reruns=body.get("accepts_reruns") is True)
        again = decide([evidence[d] for d in judged.values()], bundle.study.claims, approval)
    except (StormClinicError, KeyError, TypeError) as error:
        text = f"row {event.seq} ({event.kind}): the decision cannot be made again: {error!r}"
        return [Finding(Kind.DECISION_DIFFERS, f"row {event.seq}", text)]
    recorded = "refused" if event.kind == "promotion_refused" else event.kind
    if again.verdict == recorded:
        return []
    text = (
        f"row {event.seq} ({event.kind} by {event.by!r}): the evidence of that day gives "
        f"another verdict: {again.sentence}"
    )
    return [Finding(Kind.DECISION_DIFFERS, f"row {event.seq}", text, again.verdict, recorded)]
