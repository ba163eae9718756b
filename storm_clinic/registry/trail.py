"""The audit trail: one append-only, hash-chained table.

Each row holds the digest of the row before, so that an edited, deleted or reordered row breaks the
chain. One INSERT is one event: it is there whole or not at all. What a chain cannot show: that its
last rows were cut off, or that all of it was written anew; for that, keep its head elsewhere or
sign events. See docs/registry.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from storm_clinic.errors import RegistryError
from storm_clinic.files import digest_bytes
from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.registry.signature import Signer
from storm_clinic.registry.trail_database import Row, TrailDatabase, open_trail_database

_FIRST = "0" * 64  # stands for the row before the first
_NEARBY = 50  # how far a row is sought that was moved
_HEAD = re.compile(r"([1-9][0-9]*):([0-9a-f]{12,64})")


@dataclass(frozen=True)
class Event:
    """One row: who did what, when.

    Attributes
    ----------
    seq : int
        From 1, without gaps.
    previous, digest : str
        SHA-256 of the row before and of this one.
    body : dict
        At least ``event`` (what), ``by`` (who) and ``when`` (UTC, ISO 8601).
    """

    seq: int
    previous: str
    digest: str
    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """What happened, e.g. ``locked``."""
        return str(self.body["event"])

    @property
    def by(self) -> str:
        """Who says to have done it; a statement, unless it is signed."""
        return str(self.body["by"])

    @property
    def when(self) -> datetime:
        """When, by the clock of the machine that wrote it, in UTC."""
        return datetime.fromisoformat(self.body["when"])

    @property
    def signature(self) -> str | None:
        """PEM text, as it was stored; not verified."""
        found = self.body.get("signature")
        return None if found is None else str(found)

    @property
    def signed_message(self) -> bytes:
        """What a signature of this event must fit."""
        body = {name: value for name, value in self.body.items() if name != "signature"}
        return _message(self.previous, _canonical(body))


@dataclass(frozen=True)
class Head:
    """The last row: whoever keeps it elsewhere can tell later that nothing before it was changed.

    Attributes
    ----------
    seq : int
    digest : str
        SHA-256, or at least its first 12 characters.
    """

    seq: int
    digest: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """From ``41:ab12…``, as it is printed.

        Raises
        ------
        RegistryError
            If it is anything else.
        """
        match = _HEAD.fullmatch(text.strip())
        if match is None:
            raise RegistryError(
                f"{text!r} is no head of a trail",
                where="head",
                fix="Write what 'registry head' printed: the row's number, a colon, and at least "
                "12 characters of its digest.",
            )
        return cls(int(match[1]), match[2])


class Trail:
    """The table; made by the first append. An absent one holds no events.

    Parameters
    ----------
    database : TrailDatabase
        Where the rows lie.
    sign : Signer, optional
        Signs every event that is appended.
    """

    def __init__(self, database: TrailDatabase, *, sign: Signer | None = None) -> None:
        self.database = database
        self._sign = sign

    @classmethod
    def at(cls, uri: str, *, sign: Signer | None = None) -> Trail:
        """The trail in ``sqlite:///FILE`` or ``postgresql://…``."""
        return cls(open_trail_database(uri), sign=sign)

    @property
    def where(self) -> str:
        """Where it lies, as errors name it."""
        return self.database.where

    def events(self) -> tuple[Event, ...]:
        """Every event, oldest first.

        Raises
        ------
        RegistryError
            If the chain is broken; the message names the first row at fault.
        """
        return self._verified(self.database.rows())

    def head(self) -> Head | None:
        """The last row; None where there is none.

        Raises
        ------
        RegistryError
            If the chain is broken.
        """
        events = self.events()
        return Head(events[-1].seq, events[-1].digest) if events else None

    def append(
        self, body: Mapping[str, Any], *, allowed: Callable[[Sequence[Event]], None]
    ) -> Event:
        """Add one event, the time and the signature to its body, and return it.

        Parameters
        ----------
        body : dict
            JSON; at least ``event`` and ``by``.
        allowed : callable
            Raises unless the event may follow those it is given. Nobody else can append between
            its verdict and the INSERT.

        Raises
        ------
        RegistryError
            If the chain is broken, this machine's clock is behind the last event, or the event
            cannot be signed.
        StorageError
            If the table cannot be written, or stays locked by another process.
        """
        with self.database.appending() as (rows, insert):
            events = self._verified(rows)
            allowed(events)
            when = datetime.now(UTC)
            if events and when < events[-1].when:
                raise RegistryError(
                    f"the clock says {when:%Y-%m-%d %H:%M:%S} UTC, but the last event is of "
                    f"{events[-1].when:%Y-%m-%d %H:%M:%S}",
                    where=self.where,
                    fix="Set the clock; events cannot be dated back.",
                )
            dated = {**body, "when": when.isoformat(timespec="microseconds")}
            row = _seal(events, dated, self._sign)
            insert(row)
        return _event(row)

    def _verified(self, rows: Sequence[Row]) -> tuple[Event, ...]:
        breaks = find_breaks(rows)
        if breaks:
            raise RegistryError(
                f"the trail was changed: {breaks[0]}",
                where=self.where,
                fix="Put back a copy of it; nothing is moved on a broken trail.",
            )
        return tuple(map(_event, rows))


def head_of(rows: Sequence[Row]) -> Head | None:
    """The last of some rows."""
    return Head(rows[-1][0], rows[-1][2]) if rows else None


def readable_events(rows: Sequence[Row]) -> tuple[Event, ...]:
    """Rows that can be read as events, whether or not their chain is whole."""
    return tuple(_event(row) for row in rows if _time_of(row[3]) is not None)


def find_breaks(rows: Sequence[Row]) -> list[Finding]:
    """Everything by which a chain differs from one that was only ever appended to.

    Parameters
    ----------
    rows : sequence of (seq, previous, digest, body)
        By ``seq``.
    """
    found: list[Finding] = []
    expected, previous, latest = 1, _FIRST, datetime.min.replace(tzinfo=UTC)
    for seq, before, digest, body in rows:
        if seq != expected:
            found.append(_gap(expected, seq))
        elif before != previous:
            text = "does not follow the row before it"
            found.append(_row(Kind.ROW_UNLINKED, seq, text, previous, str(before)))
        when = _time_of(body)
        if digest != _digest(seq, before, body):
            found.append(_misfit(seq, before, digest, body))
        elif when is None:
            found.append(_row(Kind.ROW_NO_EVENT, seq, "is no event"))
        elif when < latest:
            text = "is dated before the row it follows"
            found.append(_row(Kind.ROW_BACKDATED, seq, text, f"≥ {latest}", str(when)))
        expected, previous, latest = seq + 1, digest, when or latest
    return found


def _row(kind: Kind, seq: int, text: str, expected: str = "", found: str = "") -> Finding:
    return Finding(kind, f"row {seq}", f"row {seq} {text}", expected, found)


def _gap(expected: int, seq: int) -> Finding:
    if seq < expected:
        return _row(Kind.ROW_MOVED, seq, "has no place in the chain, which starts at row 1")
    last = seq - 1
    place = f"row {expected}" if last == expected else f"rows {expected} to {last}"
    verb = "is" if last == expected else "are"
    return Finding(Kind.ROW_MISSING, place, f"{place} {verb} missing, before row {seq}")


def _misfit(seq: int, before: str, digest: str, body: str) -> Finding:
    """A row whose digest does not fit: it was edited, or was written at another place nearby."""
    for other in range(max(1, seq - _NEARBY), seq + _NEARBY):
        if digest == _digest(other, before, body):
            text = f"was written as row {other} and moved"
            return _row(Kind.ROW_MOVED, seq, text, f"row {other}", f"row {seq}")
    text = "was edited: its digest does not fit its content"
    return _row(Kind.ROW_EDITED, seq, text, _digest(seq, before, body), str(digest))


def _seal(events: Sequence[Event], body: Mapping[str, Any], sign: Signer | None) -> Row:
    seq = len(events) + 1
    previous = events[-1].digest if events else _FIRST
    text = _canonical(body)
    if sign is not None:
        text = _canonical({**body, "signature": sign.sign(_message(previous, text))})
    return seq, previous, _digest(seq, previous, text), text


def _message(previous: str, body: str) -> bytes:
    return f"{previous}\n{body}".encode()


def _event(row: Row) -> Event:
    seq, previous, digest, body = row
    return Event(seq, previous, digest, json.loads(body))


def _canonical(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(seq: int, previous: str, body: str) -> str:
    # Escapes stand for bytes that are no UTF-8, which only tampering can bring in.
    return digest_bytes(f"{seq}\n{previous}\n{body}".encode("utf-8", "surrogateescape"))


def _time_of(body: str) -> datetime | None:
    """Time of an event; None where it is no event."""
    try:
        fields = json.loads(body)
        when = datetime.fromisoformat(fields["when"])
        whole = {"event", "by"} <= fields.keys() and when.utcoffset() == timedelta(0)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return when if whole else None
