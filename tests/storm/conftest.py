"""Real paired sections, read once."""

from __future__ import annotations

import pytest

from storm_clinic.storm.her2st import her2st_sections, read_her2st
from storm_clinic.storm.paired import PairedSection


@pytest.fixture(scope="session")
def her2st(shared_data) -> dict[str, PairedSection]:
    """The real sections by name; skipped where the data are absent."""
    folder = shared_data / "her2st"
    if not folder.is_dir():
        pytest.skip("no real paired sections: her2st/ is absent from the shared data")
    return {name: read_her2st(folder, name) for name in her2st_sections(folder)}
