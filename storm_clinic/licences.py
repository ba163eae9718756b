"""Where the use that a study intends conflicts with the licences of what its models are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storm_clinic.licence_terms import IN_WORDS, NOT_STATED, RIGHTS, Answer, Right, terms_of

IntendedUse = Literal["research", "internal", "commercial", "clinical_investigation"]
Severity = Literal["refuse", "say"]

# What each use takes: what is trained on embeddings is derived from the encoder.
NEEDS: dict[IntendedUse, tuple[Right, ...]] = {
    "research": ("derivatives",),
    "internal": ("derivatives", "deployment"),
    "clinical_investigation": ("derivatives", "deployment"),
    "commercial": RIGHTS,
}
USES: dict[IntendedUse, str] = {
    "research": "research: answers a question, touches nobody's care",
    "internal": "internal use: runs in an institution's own work, is not sold, decides no care",
    "clinical_investigation": "clinical investigation: runs on patients under a protocol",
    "commercial": "commercial use: is part of something sold",
}


@dataclass(frozen=True)
class Conflict:
    """Where an intended use meets a licence.

    Attributes
    ----------
    severity : "refuse" or "say"
        ``refuse`` where the licence forbids what the use takes; ``say`` where somebody must ask,
        or the licence is not known.
    what : str
        What is licensed, e.g. ``encoder uni``.
    licence : str
        As it was stated.
    rights : tuple of str
        What the use takes and the licence does not plainly give.
    reason : str
        In words, with what the reading rests on.
    """

    severity: Severity
    what: str
    licence: str
    rights: tuple[Right, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.what} ({self.licence}): {self.reason}"


def conflicts(
    intended_use: IntendedUse, licences: Sequence[tuple[str, str | None]]
) -> tuple[Conflict, ...]:
    """Where a use conflicts with the licences of all that a model was made of.

    Parameters
    ----------
    intended_use : {"research", "internal", "commercial", "clinical_investigation"}
        As the study declares it.
    licences : sequence of (what, licence)
        E.g. ``("encoder uni", "CC-BY-NC-ND-4.0")``; None where none is stated.

    Returns
    -------
    tuple of Conflict
        What refuses first; empty where every licence gives all that the use takes.
    """
    found = [c for what, licence in licences for c in _of_one(intended_use, what, licence)]
    return tuple(sorted(found, key=lambda conflict: conflict.severity != "refuse"))


def _of_one(intended_use: IntendedUse, what: str, licence: str | None) -> list[Conflict]:
    terms, stated = terms_of(licence), (licence or "").strip() or NOT_STATED
    use = USES[intended_use].split(":")[0]
    if not terms.is_known:
        known = "" if stated == NOT_STATED else "its terms are not known here: "
        reason = f"{known}ask whether {use} is allowed"
        return [Conflict("say", what, stated, NEEDS[intended_use], reason)]
    found = []
    severities: tuple[tuple[Severity, Answer, str], ...] = (
        ("refuse", "no", "does not allow"),
        ("say", "ask", "leaves open"),
    )
    for severity, answer, verb in severities:
        rights = tuple(r for r in NEEDS[intended_use] if terms.allows(r) == answer)
        if rights:
            listed = ", ".join(IN_WORDS[right] for right in rights)
            reason = f"for {use} the licence {verb} {listed} ({terms.source})"
            found.append(Conflict(severity, what, stated, rights, reason))
    return found
