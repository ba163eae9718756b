"""MLflow's database as an SQLite file: made whole, checked, opened read-only, locked by a file."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from storm_clinic.errors import StorageError
from storm_clinic.files import safe_name, storage_errors

_WAIT_S = 20.0


def prepare(path: Path, artifact_uri: str) -> None:
    """Check the database, or make it, with its files at a root of MLflow's.

    Raises
    ------
    StorageError
        If it is no database, or is absent and cannot be made.
    """
    if path.exists():
        _check(path)
        return
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(path, artifact_uri)


def uri_of(path: Path) -> str:
    """``sqlite:///…``; of a database that may not be written, one that opens it so."""
    if not path.exists() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return f"sqlite:///{path}"
    # With the driver named, as MLflow makes folders for whatever follows a plain sqlite:///.
    return f"sqlite+pysqlite:///file:{quote(str(path))}?mode=ro&uri=true"


@contextmanager
def held_alone(folder: Path, study: str) -> Iterator[bool]:
    """Hold a study's lock in ``mlruns/``, which the system releases even after a kill.

    Yields
    ------
    bool
        False if another process holds it.
    """
    path = folder / f".{safe_name(study, what='study')}.lock"
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def locked(path: Path | str) -> StorageError:
    """The error to raise where another program does not let go of the database in time."""
    return StorageError(
        "another program holds the database locked",
        where=path,
        fix="Close that program or wait for it, and run the same again: what is finished stays. "
        "On a network drive the lock may be one that nobody holds any more; use a local disk.",
    )


def says_locked(error: BaseException) -> bool:
    """Whether this is SQLite's word for a database that another program holds."""
    return "database is locked" in str(error) or "database table is locked" in str(error)


def _check(path: Path) -> None:
    """Fail at once on a file that is no database; MLflow would try for most of a minute."""
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        if says_locked(error):
            raise locked(path) from error
        raise StorageError(
            f"cannot be read as a database: {error}",
            where=path,
            fix="Put back a copy of it, or move it away to start anew.",
        ) from error


def _create(path: Path, artifact_uri: str) -> None:
    """Make the database aside and put it in place whole.

    A kill amid MLflow's fifty migrations would leave a database that cannot be migrated further,
    and two processes that start together would both migrate the same one.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        store = SqlAlchemyStore(f"sqlite:///{part}", artifact_uri)
        store.engine.dispose()
        os.link(part, path)
    except FileExistsError:
        return  # another process was first; its database is as good
    finally:
        part.unlink(missing_ok=True)
