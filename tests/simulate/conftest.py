"""Two tiny simulated hospitals, made once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.workspace import make_workspace


@pytest.fixture(scope="session")
def tiny_hospitals():
    """Few patients and small slides, but everything that the real ones have."""
    first, second, _ = HOSPITALS
    return (
        replace(first, n_patients=7, size_um=(560, 448)),
        replace(second, n_patients=4, size_um=(448, 448)),
    )


@pytest.fixture(scope="session")
def tiny_workspace(tmp_path_factory, tiny_hospitals):
    """Their workspace, seed 3."""
    return make_workspace(tmp_path_factory.mktemp("tiny"), seed=3, hospitals=tiny_hospitals)
