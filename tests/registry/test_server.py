"""MLflow's pages are for this machine alone, and end with whoever started them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request

import pytest

from storm_clinic.errors import RegistryError
from storm_clinic.registry.server import serve_ui

SERVE = """
    import sys, time
    from pathlib import Path
    from storm_clinic.files import Workspace
    from storm_clinic.registry.server import serve_ui
    with serve_ui(Workspace(Path(sys.argv[1])), int(sys.argv[2])) as ui:
        print(ui.url, flush=True)
        ui.wait()
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_mlflows_pages_show_files_to_this_machine_alone_and_end_when_we_are_killed(
    candidate, workspace, port
):
    command = [sys.executable, "-c", textwrap.dedent(SERVE), str(workspace.root), str(port)]
    ours = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert ours.stdout.readline() == f"http://127.0.0.1:{port}\n"
        body = candidate.find_event("candidate").body
        path = workspace.mlruns / "artifacts" / "demo-pfi" / body["run_id"] / "artifacts"
        study = (path / "study.json").read_bytes()
        query = f"get-artifact?run_id={body['run_id']}&path="
        assert _get(port, f"{query}study.json") == (200, study)
        model = f"ajax-api/2.0/mlflow/logged-models/{body['model_id']}/artifacts"
        _, listed = _get(port, f"{model}/directories")
        assert {"MLmodel", "data"} <= {item["path"] for item in json.loads(listed)["files"]}
        manifest = (workspace.mlruns / body["folder"] / "data/bundle/manifest.json").read_bytes()
        found = _get(port, f"{model}/files?artifact_file_path=data/bundle/manifest.json")
        assert found == (200, manifest)
        for escape in ("../../../../mlflow.db", "%252e%252e/%252e%252e/mlflow.db", "/etc/passwd"):
            assert _get(port, f"{query}{escape}")[0] >= 400
        assert _get(port, f"{query}study.json", host="registry.example")[0] == 403
        for closed in ("assistant/providers", "assistant/config", "gateway/endpoints/list"):
            assert _get(port, f"ajax-api/3.0/mlflow/{closed}")[0] in (404, 501), closed
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))  # this machine, too, by another name
    finally:
        ours.kill()
        ours.communicate()
    end = time.monotonic() + 60
    while time.monotonic() < end and _listens(port):
        time.sleep(0.1)
    assert not _listens(port)


def test_a_port_that_is_taken_is_named(workspace, port):
    with socket.create_server(("127.0.0.1", port)):
        for taken in (port, 70_000):
            with pytest.raises(RegistryError, match=f"port {taken}: cannot be used"):
                serve_ui(workspace, taken).__enter__()


def _get(port: int, path: str, *, host: str | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{path}", headers={"Host": host} if host else {}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
