"""MLflow's database as a team's PostgreSQL: reached at once or not, made once, locked by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from storm_clinic.errors import StorageError
from storm_clinic.tracking.place import Place

_WAIT_SECONDS = 10
_CREATION = "storm_clinic creates MLflow's tables"


def prepare(place: Place) -> None:
    """Check that the database can be reached, and make MLflow's tables where there are none.

    Raises
    ------
    StorageError
        If psycopg is not installed, or the server does not let us in.
    """
    with _connected(place) as connection:
        _lock(connection, _CREATION, wait=True)
        found = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
        if found == (None,):
            _create(place)


@contextmanager
def held_alone(place: Place, study: str) -> Iterator[bool]:
    """Hold a study's lock for all machines, as long as this process and its connection live.

    Yields
    ------
    bool
        False if another process holds it.
    """
    with _connected(place) as connection:
        yield _lock(connection, f"storm_clinic trains {study}", wait=False)


@contextmanager
def _connected(place: Place) -> Iterator[Any]:
    try:
        import psycopg
    except ModuleNotFoundError as error:
        raise StorageError(
            "needs psycopg",
            where=place.shown,
            fix="pip install 'storm-clinic[postgres]'",
        ) from error
    try:
        connection = psycopg.connect(
            place.trail_uri,  # the same database, as libpq reads it
            autocommit=True,
            connect_timeout=_WAIT_SECONDS,
            keepalives_idle=60,  # a machine that died does not hold its lock for hours
        )
    except psycopg.OperationalError as error:
        text = " ".join(str(error).split())
        raise StorageError(
            f"the database cannot be reached: {text}",
            where=place.shown,
            fix="Check the address, and the password in libpq's password file.",
        ) from error
    except psycopg.Error:  # quotes the URI, and a password with it
        raise StorageError(
            "is no URI that PostgreSQL's client reads",
            where=place.shown,
            fix="Write special characters of a password as %xx, or use libpq's password file.",
        ) from None
    with closing(connection):
        yield connection


def _lock(connection: Any, what: str, *, wait: bool) -> bool:
    """Take one of PostgreSQL's advisory locks, which ends with the connection; False if held."""
    key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], signed=True)
    if wait:
        connection.execute("SELECT pg_advisory_lock(%s)", [key])
        return True
    answer = connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone()
    return bool(answer[0])


def _create(place: Place) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(place.tracking_uri, place.artifact_uri)
    store.engine.dispose()
