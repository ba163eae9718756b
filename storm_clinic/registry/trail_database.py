"""Where the rows of the trail lie: in an SQLite file, or in a table of a PostgreSQL database.

Both give the same promises: who appends sees every row and is alone until the transaction ends; one
INSERT is the commit; triggers refuse UPDATE and DELETE. The triggers are against accidents: who
owns the file or the table can drop them, and is seen by the chain.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from storm_clinic.errors import StorageError
from storm_clinic.files import storage_errors
from storm_clinic.tracking.place import without_password

if TYPE_CHECKING:
    import psycopg

Row = tuple[int, str, str, str]  # seq, previous, digest, body

_WAIT_SECONDS = 30
_GUARDS = ("trail_no_delete", "trail_no_update")


class Appending(NamedTuple):
    """The trail while nobody else can append: its rows, and what adds one."""

    rows: list[Row]
    insert: Callable[[Row], None]


class TrailDatabase(Protocol):
    """The table. One that is absent is empty, and made by the first append."""

    @property
    def where(self) -> str:
        """Where it lies, without a password, as errors name it."""

    def rows(self) -> list[Row]:
        """Every row by its number."""

    def missing_guards(self) -> list[str]:
        """Names of the triggers that a trail with rows should have and has not."""

    def appending(self) -> AbstractContextManager[Appending]:
        """Be alone; what was inserted is there, whole, once the block was left without an error."""


def open_trail_database(uri: str) -> TrailDatabase:
    """The table behind ``sqlite:///FILE`` or ``postgresql://…``; nothing is opened yet.

    Raises
    ------
    StorageError
        If it is neither.
    """
    scheme = uri.partition(":")[0]
    if scheme == "sqlite":
        return SqliteTrail(Path(uri.removeprefix("sqlite:///")))
    if scheme == "postgresql":
        return PostgresTrail(uri)
    raise StorageError(
        f"a trail cannot be kept in {scheme!r}",
        where="trail",
        fix="Use sqlite:///FILE or postgresql://HOST/DATABASE.",
    )


class SqliteTrail:
    """A table ``trail`` in a file of its own.

    Parameters
    ----------
    path : Path
    """

    _TABLE = (
        """CREATE TABLE IF NOT EXISTS trail (
            seq INTEGER PRIMARY KEY,
            previous TEXT NOT NULL,
            digest TEXT NOT NULL UNIQUE,
            body TEXT NOT NULL
        )""",
        """CREATE TRIGGER IF NOT EXISTS trail_no_update BEFORE UPDATE ON trail
            BEGIN SELECT RAISE(ABORT, 'the trail is append-only'); END""",
        """CREATE TRIGGER IF NOT EXISTS trail_no_delete BEFORE DELETE ON trail
            BEGIN SELECT RAISE(ABORT, 'the trail is append-only'); END""",
    )

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def where(self) -> str:
        """The file."""
        return str(self.path)

    def rows(self) -> list[Row]:
        """Every row by its number."""
        if not self.path.exists():
            return []
        with self._connected("rw") as connection:
            return self._select(connection)

    def missing_guards(self) -> list[str]:
        """Names of triggers that are gone."""
        if not self.path.exists():
            return []
        with self._connected("rw") as connection:
            if not self._present(connection):
                return []
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            return sorted({*_GUARDS} - {name for (name,) in found})

    @contextmanager
    def appending(self) -> Iterator[Appending]:
        """Hold SQLite's write lock until the row is committed."""
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected("rwc") as connection:
            connection.execute("BEGIN IMMEDIATE")  # the second of two writers waits here
            try:
                for statement in self._TABLE:
                    connection.execute(statement)

                def insert(row: Row) -> None:
                    connection.execute("INSERT INTO trail VALUES (?, ?, ?, ?)", row)

                yield Appending(self._select(connection), insert)
            except BaseException:
                if connection.in_transaction:  # SQLite ends it by itself on a full disk
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _connected(self, mode: str) -> Iterator[sqlite3.Connection]:
        # In mode rw, SQLite itself reads a file that it may not write.
        uri = f"{self.path.resolve().as_uri()}?mode={mode}"
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
            # A byte that is no UTF-8 any more is a row that was edited, not a trail beyond reading.
            connection.text_factory = _decode
            try:
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise _trouble(self.where, error) from error

    def _present(self, connection: sqlite3.Connection) -> bool:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'trail'")
        return found.fetchone() is not None

    def _select(self, connection: sqlite3.Connection) -> list[Row]:
        if not self._present(connection):
            return []
        found = connection.execute("SELECT seq, previous, digest, body FROM trail ORDER BY seq")
        return list(found.fetchall())


class PostgresTrail:
    """A table ``storm_clinic_trail`` in the database that MLflow uses, or in another.

    Parameters
    ----------
    uri : str
        ``postgresql://user@host:port/database``, as libpq takes it.
    """

    TABLE = "storm_clinic_trail"
    _CREATE = (
        # Two who make the table at once would both pass IF NOT EXISTS and the second would fail.
        "SELECT pg_advisory_xact_lock(hashtext('storm_clinic_trail'))",
        """CREATE TABLE IF NOT EXISTS storm_clinic_trail (
            seq BIGINT PRIMARY KEY,
            previous TEXT NOT NULL,
            digest TEXT NOT NULL UNIQUE,
            body TEXT NOT NULL
        )""",
        """CREATE OR REPLACE FUNCTION storm_clinic_trail_is_append_only() RETURNS trigger AS $$
            BEGIN RAISE EXCEPTION 'the trail is append-only'; END $$ LANGUAGE plpgsql""",
        """CREATE OR REPLACE TRIGGER trail_no_update BEFORE UPDATE ON storm_clinic_trail
            FOR EACH STATEMENT EXECUTE FUNCTION storm_clinic_trail_is_append_only()""",
        """CREATE OR REPLACE TRIGGER trail_no_delete BEFORE DELETE OR TRUNCATE
            ON storm_clinic_trail
            FOR EACH STATEMENT EXECUTE FUNCTION storm_clinic_trail_is_append_only()""",
    )

    def __init__(self, uri: str) -> None:
        self._uri = uri

    @property
    def where(self) -> str:
        """Host, database and table."""
        return f"{without_password(self._uri)}, table {self.TABLE}"

    def rows(self) -> list[Row]:
        """Every row by its number."""
        with self._connected() as connection:
            return self._select(connection) if self._present(connection) else []

    def missing_guards(self) -> list[str]:
        """Names of triggers that are gone or switched off."""
        with self._connected() as connection:
            if not self._present(connection):
                return []
            found = connection.execute(
                "SELECT tgname FROM pg_trigger "
                f"WHERE tgrelid = '{self.TABLE}'::regclass AND tgenabled <> 'D'"
            )
            return sorted({*_GUARDS} - {name for (name,) in found})

    @contextmanager
    def appending(self) -> Iterator[Appending]:
        """Lock the table against every other writer until the row is committed."""
        with self._connected() as connection:
            connection.execute(f"SET LOCAL lock_timeout = '{_WAIT_SECONDS}s'")
            if not self._present(connection):
                for statement in self._CREATE:
                    connection.execute(statement)
            connection.execute(f"LOCK TABLE {self.TABLE} IN EXCLUSIVE MODE")

            def insert(row: Row) -> None:
                connection.execute(f"INSERT INTO {self.TABLE} VALUES (%s, %s, %s, %s)", row)

            yield Appending(self._select(connection), insert)

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        """A transaction: committed on leaving the block, rolled back after an error in it."""
        import psycopg

        try:
            with psycopg.connect(self._uri, connect_timeout=_WAIT_SECONDS) as connection:
                yield connection
        except psycopg.Error as error:
            raise _trouble(self.where, error) from error

    def _present(self, connection: psycopg.Connection[Any]) -> bool:
        found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (self.TABLE,))
        return bool(found.fetchone()[0])  # type: ignore[index]  # such a SELECT gives one row

    def _select(self, connection: psycopg.Connection[Any]) -> list[Row]:
        query = f"SELECT seq, previous, digest, body FROM {self.TABLE} ORDER BY seq"
        return list(connection.execute(query).fetchall())


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _trouble(where: str, error: Exception) -> StorageError:
    return StorageError(
        f"the trail cannot be read or written: {' '.join(str(error).split())}",
        where=where,
        fix="Check disk space, permissions, that its server answers, and that no other process "
        "holds it.",
    )
