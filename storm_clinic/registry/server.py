"""MLflow's own pages on one workspace: for this machine alone, and no longer than we live."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from storm_clinic.errors import RegistryError
from storm_clinic.files import Workspace
from storm_clinic.tracking import Tracker
from storm_clinic.tracking.place import SCHEME, without_password

_HOST = "127.0.0.1"
_START_SECONDS = 120  # MLflow takes five on a quiet machine
_STOP_SECONDS = 10

# Ends its child, and what that started, when its input ends: so also when we are killed.
_KEEPER = f"""
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def follow():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    try:
        child.wait({_STOP_SECONDS})
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Thread(target=follow, daemon=True).start()
sys.exit(child.wait())
"""

# What a user may have set for another server of MLflow's, and what would open this one.
_NOT_INHERITED = ("MLFLOW_SERVER_", "_MLFLOW_SERVER_", "MLFLOW_UVICORN_", "MLFLOW_GUNICORN_")


@dataclass(frozen=True)
class Ui:
    """MLflow's pages while they are served.

    Attributes
    ----------
    url : str
        For a browser on this machine.
    """

    url: str
    _process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Return when the server has ended, which it does by itself only after an error."""
        self._process.wait()


@contextmanager
def serve_ui(workspace: Workspace, port: int = 5000) -> Iterator[Ui]:
    """Run ``mlflow ui`` on 127.0.0.1 while the block lasts.

    It executes no jobs, has no assistant and no gateway to language models, sends no telemetry,
    loads no pickles, and answers only requests that address this machine by its own name.

    Parameters
    ----------
    workspace : Workspace
        Whose runs, versions and files are shown; its ``mlruns/`` may be read-only.
    port : int
        On which nothing else listens.

    Raises
    ------
    RegistryError
        If the port is taken, or MLflow does not start; with its last words.
    StorageError
        If the database cannot be read, or cannot be made where there is none.
    """
    _require_free(port)
    _require_entry_points()
    database = Tracker(workspace).database
    database.open()
    with tempfile.TemporaryDirectory() as scratch, Path(scratch, "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, *_command(port, database.place.artifact_uri)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=scratch,  # python -m would import a file that lies in the current folder
            env=_environment(database.uri),
            start_new_session=True,  # Ctrl-C reaches us, who end it
        )
        try:
            ui = Ui(f"http://{_HOST}:{port}", process)
            if not _answers(ui):
                log.seek(0)
                words = (
                    log.read()
                    .decode(errors="replace")
                    .replace(database.uri, without_password(database.uri))
                )
                raise RegistryError(
                    f"MLflow does not start: {' '.join(words.split())[-600:] or 'no message'}",
                    where=ui.url,
                )
            yield ui
        finally:
            process.communicate()  # closes its input, and waits


def _command(port: int, artifact_uri: str) -> list[str]:
    options = {
        "host": _HOST,
        "port": str(port),
        "workers": "1",
        "app-name": SCHEME,  # see ui_app
        "allowed-hosts": f"{_HOST}:{port},localhost:{port}",
        "x-frame-options": "DENY",
        "default-artifact-root": artifact_uri,
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "mlflow", "ui", "--no-serve-artifacts", *given]


def _environment(database_uri: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
    return kept | {
        "MLFLOW_BACKEND_STORE_URI": database_uri,  # not as an option: others may list those
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_AI_GATEWAY": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            raise RegistryError(
                f"cannot be used: {error}", where=f"port {port}", fix="Name another one."
            ) from error


def _require_entry_points() -> None:
    """MLflow's server is a process of its own: it knows of us by the installed package."""
    for group in ("mlflow.artifact_repository", "mlflow.app"):
        if SCHEME not in entry_points(group=group).names:
            raise RegistryError(
                f"the installed package names no {group} to MLflow",
                where="storm-clinic",
                fix="Install it again: pip install storm-clinic, or pip install -e . in a "
                "checkout.",
            )


def _answers(ui: Ui) -> bool:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and ui._process.poll() is None:
        try:
            with urlopen(f"{ui.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    return False
