"""The trail read as a story: which events the rules would not have allowed.

Whoever can compute a digest can append a row by hand, with a chain that is whole. Replaying every
event through the table of moves shows what such a row claims that could not have happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.registry.people import roles_of
from storm_clinic.registry.rules import MOVES
from storm_clinic.registry.trail import Event
from storm_clinic.registry.versions import FROZEN, STATES

# What an event must hold beside event, by and when; what was added later may be absent.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "candidate": ("bundle_digest", "files", "folder", "run_id"),
    "locked": ("bundle_digest", "study_digest", "claims", "validation"),
    "cohort_added": ("cohort", "plan"),
    "predictions_sealed": ("cohort", "predictions_digest"),
    "validated": ("cohort", "evidence_digest", "run_id"),
    "promotion_refused": ("bundle_digest", "decision"),
    "approved": ("bundle_digest", "decision"),
    "rejected": ("bundle_digest", "decision"),
    "retired": ("bundle_digest", "reason"),
}


@dataclass
class _Version:
    """What the events so far say of one version."""

    state: str | None = None
    bundle_digest: str | None = None
    by: dict[str, str] = field(default_factory=dict)  # kind of move to who made it
    named: set[str] = field(default_factory=set)
    # Cohort to the digest of the evidence of its latest scoring, None where none was joined yet.
    scored: dict[str, str | None] = field(default_factory=dict)


def is_well_formed(event: Event) -> bool:
    """Whether an event is of a known kind and holds what its kind must hold."""
    return event.kind in _FIELDS and not _lacking(event)


def replay(events: Sequence[Event]) -> list[Finding]:
    """Every event that the rules of the registry would have refused.

    An event that is unknown or lacks a field is named and left out; one that is illegal counts as
    having happened, so that what rests on it is judged by itself.
    """
    found: list[Finding] = []
    versions: dict[tuple[str, int], _Version] = {}
    for event in events:

        def say(kind: Kind, text: str, *sides: str, event: Event = event) -> None:
            about = f" of {_reference(event)}" if event.body.get("model") else ""
            sentence = f"row {event.seq} ({event.kind}{about} by {event.by!r}) {text}"
            found.append(Finding(kind, f"row {event.seq}", sentence, *sides))

        if event.kind not in _FIELDS:
            say(Kind.EVENT_UNKNOWN, "is of a kind that this version does not know")
            continue
        lacking = _lacking(event)
        if lacking:
            say(Kind.EVENT_MALFORMED, f"lacks {', '.join(lacking)}, or holds it in another form")
            continue
        key = (str(event.body["model"]), int(event.body["version"]))
        version = versions.setdefault(key, _Version())
        if event.kind in STATES:
            _move(version, event, say)
        else:
            _judge(version, event, say)
    return found


_Say = Callable[..., None]


def _move(version: _Version, event: Event, say: _Say) -> None:
    current, new = version.state, event.kind
    if new not in MOVES[current]:
        possible = " or ".join(sorted(MOVES[current])) or "nothing else"
        text = f"is no allowed move: the version was {current or 'not registered'}"
        say(Kind.MOVE_ILLEGAL, text, possible, new)
    digest = str(event.body["bundle_digest"])
    if version.bundle_digest not in (None, digest):
        text = "names another bundle than was registered"
        say(Kind.BUNDLE_EXCHANGED, text, version.bundle_digest, digest)
    if new in ("approved", "rejected"):
        _decided(version, event, say)
    if new == "locked":
        version.named |= set(event.body["validation"])
    version.state, version.bundle_digest = new, version.bundle_digest or digest
    version.by[new] = event.by


def _judge(version: _Version, event: Event, say: _Say) -> None:
    """An event that does not change the state."""
    cohort = str(event.body.get("cohort", ""))
    if version.state not in FROZEN:
        text = f"is about a version that was {version.state or 'not registered'}, not locked"
        say(Kind.SCORED_UNLOCKED, text, " or ".join(FROZEN), str(version.state))
    if event.kind == "cohort_added":
        version.named.add(cohort)
    if event.kind not in ("predictions_sealed", "validated"):
        return
    if cohort not in version.named:
        text = f"is about {cohort}, which was not named before"
        say(Kind.COHORT_NOT_NAMED, text, ", ".join(sorted(version.named)), cohort)
    if event.kind == "predictions_sealed":
        if cohort in version.scored and not event.body.get("rerun"):
            say(Kind.SCORED_TWICE, f"scores {cohort} a second time, and not as a re-run")
        version.scored[cohort] = None
        return
    if cohort not in version.scored:
        text = f"was not preceded by sealed predictions on {cohort}"
        say(Kind.VALIDATED_UNSEALED, text)
    elif version.scored[cohort] is not None:
        say(Kind.VALIDATED_TWICE, f"validates on {cohort} a second time, and not as a re-run")
    version.scored[cohort] = str(event.body["evidence_digest"])


def _decided(version: _Version, event: Event, say: _Say) -> None:
    """An approval or a rejection: by whom, and on which evidence."""
    who = {"trained_by": version.by.get("candidate", ""), "locked_by": version.by.get("locked", "")}
    for done in roles_of(event.by, **who):
        say(Kind.APPROVED_BY_SELF, f"was made by the person who {done} the model")
    judged = {cohort: digest for cohort, digest in version.scored.items() if digest is not None}
    if event.kind == "approved" and (not judged or version.named - judged.keys()):
        missing = ", ".join(sorted(version.named - judged.keys())) or "any cohort"
        say(Kind.APPROVED_UNVALIDATED, f"approves a model that was not validated on {missing}")
    decision = event.body["decision"]
    if decision.get("verdict") != event.kind or decision.get("evidence") != judged:
        text = "does not rest on the decision and the evidence that are on record"
        say(Kind.DECISION_DIFFERS, text, _listed(judged), _listed(decision.get("evidence")))


def _listed(digests: object) -> str:
    if not isinstance(digests, dict):
        return "nothing"
    return (
        ", ".join(f"{cohort} {str(d)[:12]}" for cohort, d in sorted(digests.items())) or "nothing"
    )


def _lacking(event: Event) -> list[str]:
    """Fields that are absent or cannot be what they must be."""
    body = event.body
    lacking = [name for name in ("model", *_FIELDS[event.kind]) if name not in body]
    if not isinstance(body.get("version"), int):
        lacking.append("version")
    if not isinstance(body.get("files", {}), dict):
        lacking.append("files")
    if not isinstance(body.get("claims", []), list):
        lacking.append("claims")
    if not isinstance(body.get("decision", {}), dict):
        lacking.append("decision")
    named = body.get("validation", [])
    if not isinstance(named, list) or not all(isinstance(cohort, str) for cohort in named):
        lacking.append("validation")
    return lacking


def _reference(event: Event) -> str:
    return f"{event.body['model']}:{event.body.get('version')}"
