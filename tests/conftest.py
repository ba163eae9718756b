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
