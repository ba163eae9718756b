"""What an audit says, and the part of it that needs the trail alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from storm_clinic.errors import RegistryError
from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.registry.replay import replay
from storm_clinic.registry.signature import ALLOWED_SIGNERS
from storm_clinic.registry.signature_audit import check_signatures
from storm_clinic.registry.trail import (
    Event,
    Head,
    Trail,
    find_breaks,
    head_of,
    readable_events,
)
from storm_clinic.registry.trail_database import Row

_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True)
class Verified:
    """How many of each were held against the trail.

    Attributes
    ----------
    events : int
        Rows of the chain; of these ``signed`` by a key on the list, and ``unsigned``.
    versions, files : int
        Registered versions, and files in their folders.
    predictions, evidence, decisions : int
        Files of trainings and validations; decisions made again from them.
    metrics, labels : int
        In MLflow's database: values against evidence; tags and aliases.
    """

    events: int = 0
    signed: int = 0
    unsigned: int = 0
    versions: int = 0
    files: int = 0
    predictions: int = 0
    evidence: int = 0
    decisions: int = 0
    metrics: int = 0
    labels: int = 0


@dataclass(frozen=True)
class Audit:
    """Everything by which a registry differs from what its trail says.

    Attributes
    ----------
    findings : tuple of Finding
        Empty where nothing differs.
    verified : Verified
    head : Head or None
        The last row, to be kept elsewhere.
    notes : tuple of str
        What could not be told, and why; no faults.
    """

    findings: tuple[Finding, ...]
    verified: Verified
    head: Head | None
    notes: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing differs."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "clean": self.is_clean,
            "findings": [asdict(item) for item in self.findings],
            "verified": asdict(self.verified),
            "head": None if self.head is None else str(self.head),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class ChainAudit:
    """The part about the trail alone.

    Attributes
    ----------
    events : tuple of Event
        Those that can be read, whether or not their chain is whole.
    """

    events: tuple[Event, ...]
    findings: tuple[Finding, ...]
    head: Head | None = None
    signed: int = 0
    unsigned: int = 0
    notes: tuple[str, ...] = field(default=())


def audit_chain(
    trail: Trail, *, head: Head | None = None, allowed_signers: Path | None = None
) -> ChainAudit:
    """Verify chain, guards, signatures and rules of a trail.

    Parameters
    ----------
    trail : Trail
        Is read only.
    head : Head, optional
        A head that was kept elsewhere.
    allowed_signers : Path, optional
        Who has which key.

    Raises
    ------
    StorageError
        If the trail cannot be read at all.
    """
    rows = trail.database.rows()
    events = readable_events(rows)
    signatures = check_signatures(events, allowed_signers)
    findings = [
        *find_breaks(rows),
        *find_future(events, datetime.now(UTC)),
        *_unguarded(trail),
        *check_head(rows, head),
        *signatures.findings,
        *replay(events),
    ]
    return ChainAudit(
        events,
        tuple(findings),
        head_of(rows),
        signatures.n_good,
        signatures.n_unsigned,
        signatures.notes,
    )


def find_future(events: Sequence[Event], now: datetime) -> list[Finding]:
    """Events that are dated later than now, by more than clocks differ."""
    return [
        Finding(
            Kind.ROW_IN_FUTURE,
            f"row {event.seq}",
            f"row {event.seq} is dated in the future",
            f"≤ {now}",
            str(event.when),
        )
        for event in events
        if event.when > now + _CLOCKS_DIFFER
    ]


def check_head(rows: Sequence[Row], head: Head | None) -> list[Finding]:
    """Whether the chain still holds a row that was kept elsewhere."""
    if head is None:
        return []
    there = {seq: digest for seq, _, digest, _ in rows}
    place = f"row {head.seq}"
    if head.seq not in there:
        last = max(there, default=0)
        text = f"{place} was there and is lost: the trail ends at row {last}"
        return [Finding(Kind.HEAD_LOST, place, text, str(head), f"{last} rows")]
    if not there[head.seq].startswith(head.digest):
        text = f"{place} is another than was kept: the chain up to it was written anew"
        return [Finding(Kind.HEAD_DIFFERS, place, text, head.digest, there[head.seq])]
    return []


def find_allowed_signers(mlruns: Path, chosen: Path | None) -> tuple[Path | None, tuple[str, ...]]:
    """The list of signers to use, and what must be said of it.

    Parameters
    ----------
    mlruns : Path
        Where a list is looked for if none is chosen.
    chosen : Path, optional
        A list elsewhere.

    Raises
    ------
    RegistryError
        If the chosen list is not there.
    """
    if chosen is not None:
        if not chosen.is_file():
            raise RegistryError("is no list of signers: there is no such file", where=chosen)
        return chosen, ()
    beside = mlruns / ALLOWED_SIGNERS
    if not beside.is_file():
        return None, ()
    note = (
        f"the list of signers, {beside}, lies beside the trail: who can change one can change "
        "the other; keep a copy elsewhere and name it"
    )
    return beside, (note,)


def _unguarded(trail: Trail) -> list[Finding]:
    missing = trail.database.missing_guards()
    if not missing:
        return []
    text = f"the trail lacks {', '.join(missing)}: what refuses changes of rows was removed"
    return [Finding(Kind.TRAIL_UNGUARDED, "trail", text, ", ".join(missing))]
