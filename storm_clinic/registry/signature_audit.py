"""Every event's signature against the list of who has which key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from storm_clinic.errors import RegistryError
from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.registry.signature import Verdict, is_listed, verify
from storm_clinic.registry.trail import Event


@dataclass(frozen=True)
class SignatureAudit:
    """What the signatures of a trail are worth.

    Attributes
    ----------
    findings : tuple of Finding
    n_good : int
        Events signed by a key that the list gives to their ``by``.
    n_unsigned : int
        Events whose ``by`` is a statement.
    notes : tuple of str
        What could not be told, and why.
    """

    findings: tuple[Finding, ...]
    n_good: int
    n_unsigned: int
    notes: tuple[str, ...] = ()


def check_signatures(events: Sequence[Event], allowed_signers: Path | None) -> SignatureAudit:
    """Verify every signature, and name who should have signed and did not.

    A good signature vouches for all rows before it. So an unsigned event of somebody on the list is
    let pass where it comes before the first that they signed, and is a finding elsewhere: whoever
    writes a chain anew can leave signatures out, but not make them.
    """
    signed = [event for event in events if event.signature is not None]
    unsigned = [event for event in events if event.signature is None]
    try:
        verdicts = _verify_all(signed, allowed_signers)
        listed = _listed({event.by for event in unsigned}, allowed_signers)
    except RegistryError as error:
        text = f"{len(signed)} signed events could not be verified: {error}"
        unchecked = Finding(Kind.SIGNATURE_UNCHECKED, "trail", text)
        return SignatureAudit((unchecked,), 0, len(unsigned))
    good = [event for event, verdict in zip(signed, verdicts, strict=True) if _is_good(verdict)]
    findings = []
    for event, verdict in zip(signed, verdicts, strict=True):
        if verdict.status == "bad":
            text = "was changed after it was signed, or stands in another place of the chain"
            findings.append(_finding(Kind.SIGNATURE_BAD, event, text))
        elif verdict.status == "other key" and allowed_signers is not None:
            text = f"is signed by {verdict.key}, which the list does not give to {event.by!r}"
            findings.append(_finding(Kind.SIGNATURE_BY_OTHER, event, text, verdict.key))
    first = {event.by: event.seq for event in reversed(good)}
    for event in unsigned:
        if event.by in listed and event.seq > first.get(event.by, 0):
            text = f"is unsigned, although {event.by!r} is on the list of signers"
            findings.append(_finding(Kind.SIGNATURE_MISSING, event, text))
    notes: tuple[str, ...] = ()
    if signed and allowed_signers is None:
        notes = (
            f"{len(signed)} events are signed, but there is no list of signers: that they were "
            "not changed since is verified, who signed is not",
        )
    return SignatureAudit(tuple(findings), len(good), len(unsigned), notes)


def _verify_all(events: Sequence[Event], allowed_signers: Path | None) -> list[Verdict]:
    def judge(event: Event) -> Verdict:
        return verify(
            event.signed_message,
            event.signature or "",
            by=event.by,
            when=event.when,
            allowed_signers=allowed_signers,
        )

    # Each is a short process, so that threads are enough to use every processor.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(judge, events))


def _listed(names: set[str], allowed_signers: Path | None) -> set[str]:
    if allowed_signers is None:
        return set()
    return {name for name in names if is_listed(name, allowed_signers)}


def _is_good(verdict: Verdict) -> bool:
    return verdict.status == "good"


def _finding(kind: Kind, event: Event, text: str, found: str = "") -> Finding:
    sentence = f"row {event.seq} ({event.kind} by {event.by!r}) {text}"
    return Finding(kind, f"row {event.seq}", sentence, f"a signature by {event.by!r}", found)
