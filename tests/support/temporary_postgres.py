"""A PostgreSQL of its own for a test: on loopback, in a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_USER = "tester"
_START_SECONDS = 30


class Postgres:
    """A running cluster whose databases are made one by one.

    Parameters
    ----------
    port : int
        On 127.0.0.1.
    password : str
        Of its one user; made for this run.
    """

    def __init__(self, port: int, password: str) -> None:
        self.password = password
        self._base = f"postgresql://{_USER}:{password}@127.0.0.1:{port}"

    def uri(self, database: str) -> str:
        """URI of a database, its password in it."""
        return f"{self._base}/{database}"

    def create_database(self, template: str = "template0") -> str:
        """Make a database, empty or a copy of another; returns its URI."""
        import psycopg
        from psycopg import sql

        name = f"test_{secrets.token_hex(4)}"
        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return self.uri(name)


@contextmanager
def run_postgres() -> Iterator[Postgres]:
    """Start a cluster and stop it; the test is skipped where PostgreSQL is not installed."""
    pytest.importorskip("psycopg", reason="psycopg is absent: pip install 'storm-clinic[postgres]'")
    programs = _programs()
    owner = _owner()
    # Not pytest's folder: only its own user can enter that.
    folder = Path(tempfile.mkdtemp(prefix="storm-clinic-postgres-"))
    try:
        password = secrets.token_hex(16)
        (folder / "password").write_text(password)
        for path in (folder, folder / "password"):
            shutil.chown(path, *(owner or (os.getuid(), os.getgid())))
        data = folder / "data"
        _run(
            [
                *(programs / "initdb", "-D", data, "-U", _USER, "--pwfile", folder / "password"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            owner,
        )
        port = _free_port()
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    *(programs / "postgres", "-D", data, "-p", str(port), "-F"),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
                **_as(owner),
            )
        try:
            cluster = Postgres(port, password)
            _wait(server, cluster, folder / "log")
            yield cluster
        finally:
            server.send_signal(signal.SIGQUIT)  # at once, its own children too
            server.wait()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """Folder of ``initdb``; Debian keeps a version's programs off the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb") or (debian[-1] if debian else None)
    if found is None:
        pytest.skip("PostgreSQL is absent: apt-get install postgresql")
    return Path(found).parent


def _owner() -> tuple[int, int] | None:
    """Somebody else to run as where we are root, whom PostgreSQL refuses."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return account.pw_uid, account.pw_gid
    return pytest.skip("PostgreSQL does not run as root, and there is no other account")


def _as(owner: tuple[int, int] | None) -> dict:
    return {} if owner is None else {"user": owner[0], "group": owner[1], "extra_groups": []}


def _run(command: list, owner: tuple[int, int] | None) -> None:
    options = {"capture_output": True, "text": True, "cwd": "/", **_as(owner)}
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, done.stderr


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait(server: subprocess.Popen, cluster: Postgres, log: Path) -> None:
    import psycopg

    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(cluster.uri("postgres")).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"PostgreSQL did not start: {log.read_text()}") from None
            time.sleep(0.05)
