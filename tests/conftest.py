"""What every room's tests share: where the real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides and cohorts; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STORM_CLINIC_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").exists():
        pytest.skip(f"no real data at {folder.name}/: set STORM_CLINIC_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def empty_mlflow_database(tmp_path_factory) -> Path:
    """A fresh ``mlflow.db`` to copy: MLflow takes over a second to make one."""
    from storm_clinic.files import Workspace
    from storm_clinic.tracking import Tracker

    database = Tracker(Workspace(tmp_path_factory.mktemp("mlflow"))).database
    assert database.client is not None
    return database.path
