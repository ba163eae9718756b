"""The audit trail: one append-only, hash-chained table in ``mlruns/trail.db``.

Each row holds the digest of the row before, so that an edited, deleted or reordered row breaks the
chain. One INSERT is one event: it is there whole or not at all. What a chain cannot show: that its
last rows were cut off, or that all of it was written anew; see docs/registry.md.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storm_clinic.errors import RegistryError, StorageError
from storm_clinic.files import digest_bytes, storage_errors

_FIRST = "0" * 64  # stands for the row before the first
_WAIT_SECONDS = 30
_TABLE = (
    """CREATE TABLE IF NOT EXISTS trail (
        seq INTEGER PRIMARY KEY,
        previous TEXT NOT NULL,
        digest TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL
    )""",
    # Against accidents; whoever wants to tamper can drop these, and is seen by the chain.
    """CREATE TRIGGER IF NOT EXISTS trail_no_update BEFORE UPDATE ON trail
        BEGIN SELECT RAISE(ABORT, 'the trail is append-only'); END""",
    """CREATE TRIGGER IF NOT EXISTS trail_no_delete BEFORE DELETE ON trail
        BEGIN SELECT RAISE(ABORT, 'the trail is append-only'); END""",
)

Row = tuple[int, str, str, str]


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
        """Who says to have done it; unsigned."""
        return str(self.body["by"])

    @property
    def when(self) -> datetime:
        """When, by the clock of the machine that wrote it, in UTC."""
        return datetime.fromisoformat(self.body["when"])


class Trail:
    """The table; made by the first append. An absent one holds no events.

    Parameters
    ----------
    path : Path
        The SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def events(self) -> tuple[Event, ...]:
        """Every event, oldest first.

        Raises
        ------
        RegistryError
            If the chain is broken; the message names the first row at fault.
        """
        return self._verified(self._rows())

    def problems(self) -> list[str]:
        """What is wrong with the chain, a line a finding; empty where it is whole."""
        return _findings(self._rows())

    def append(
        self, body: Mapping[str, Any], *, allowed: Callable[[Sequence[Event]], None]
    ) -> Event:
        """Add one event, the time to its body, and return it.

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
            If the chain is broken, or this machine's clock is behind the last event.
        StorageError
            If the file cannot be written, or stays locked by another process.
        """
        with self._transaction() as connection:
            events = self._verified(_select(connection))
            allowed(events)
            when = datetime.now(UTC)
            if events and when < events[-1].when:
                raise RegistryError(
                    f"the clock says {when:%Y-%m-%d %H:%M:%S} UTC, but the last event is of "
                    f"{events[-1].when:%Y-%m-%d %H:%M:%S}",
                    where=self.path,
                    fix="Set the clock; events cannot be dated back.",
                )
            row = _seal(events, {**body, "when": when.isoformat(timespec="microseconds")})
            connection.execute("INSERT INTO trail VALUES (?, ?, ?, ?)", row)
        return _event(row)

    def _rows(self) -> list[Row]:
        if not self.path.exists():
            return []
        with self._connected() as connection:
            return _select(connection)

    def _verified(self, rows: list[Row]) -> tuple[Event, ...]:
        findings = _findings(rows)
        if findings:
            raise RegistryError(
                f"the trail was changed: {findings[0]}",
                where=self.path,
                fix="Put back a copy of it; nothing is moved on a broken trail.",
            )
        return tuple(map(_event, rows))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        uri = f"{self.path.resolve().as_uri()}?mode=rwc"
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
            try:
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StorageError(
                f"the trail cannot be read or written: {error}",
                where=self.path,
                fix="Check disk space, permissions, and that no other process holds it.",
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")  # the second of two writers waits here
            try:
                for statement in _TABLE:
                    connection.execute(statement)
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite ends it by itself on a full disk
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _select(connection: sqlite3.Connection) -> list[Row]:
    present = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'trail'").fetchone()
    if not present:
        return []
    found = connection.execute("SELECT seq, previous, digest, body FROM trail ORDER BY seq")
    return list(found.fetchall())


def _seal(events: Sequence[Event], body: Mapping[str, Any]) -> Row:
    seq = len(events) + 1
    previous = events[-1].digest if events else _FIRST
    text = _canonical(body)
    return seq, previous, _digest(seq, previous, text), text


def _event(row: Row) -> Event:
    seq, previous, digest, body = row
    return Event(seq, previous, digest, json.loads(body))


def _canonical(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(seq: int, previous: str, body: str) -> str:
    return digest_bytes(f"{seq}\n{previous}\n{body}".encode())


def _findings(rows: Sequence[Row]) -> list[str]:
    findings = []
    previous, latest = _FIRST, ""
    for position, (seq, before, digest, body) in enumerate(rows, start=1):
        if seq != position:
            findings.append(f"row {position} is missing; row {seq} is in its place")
            break
        if before != previous:
            findings.append(f"row {seq} does not follow the row before it")
        when = _when(body)
        if digest != _digest(seq, before, body):
            findings.append(f"row {seq} was edited: its digest does not fit its content")
        elif when is None:
            findings.append(f"row {seq} is no event")
        elif when < latest:
            findings.append(f"row {seq} is dated before the row it follows")
        previous, latest = digest, when or latest
    return findings


def _when(body: str) -> str | None:
    """Time of an event as it is written, which sorts as text; None where it is no event."""
    try:
        fields = json.loads(body)
        return str(fields["when"]) if {"event", "by"} <= fields.keys() else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
