from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from storm_clinic.errors import SectionError
from storm_clinic.storm.lattice import with_points_between
from storm_clinic.storm.neighbourhood import neighbourhoods
from storm_clinic.storm.paired import PairedSection


@pytest.fixture
def section() -> PairedSection:
    """Three by three spots, 200 µm apart, turned by a tenth."""
    x, y = np.meshgrid(np.arange(3.0), np.arange(3.0))
    centres = np.stack([x, y], axis=-1).reshape(-1, 2) * 200
    turn = np.array([[np.cos(0.1), np.sin(0.1)], [-np.sin(0.1), np.cos(0.1)]])
    return PairedSection(
        name="s",
        patient="p",
        technology="st",
        grid="square",
        spot_um=100.0,
        pitch_um=200.0,
        image=None,
        mpp=0.5,
        centres_px=(centres @ turn + 1000) / 0.5,
        counts=np.arange(1, 10)[:, None],
        symbols=("A",),
        spots=tuple("abcdefghi"),
    )


def test_points_between_spots_make_a_whole_lattice_of_half_the_pitch(section):
    finer = with_points_between(section, 2)
    assert finer.pitch_um == 100.0
    assert finer.n_spots == 49  # 3 x 3 spots, and points half a pitch around them: 7 x 7
    around = neighbourhoods(finer.centres_um, pitch_um=100.0)
    assert around.valid[4].all()  # the middle spot
    assert (around.valid[:9].sum(axis=1) >= 16).all()  # a corner


def test_spots_stay_first_and_points_between_have_no_counts(section):
    finer = with_points_between(section, 2)
    np.testing.assert_array_equal(finer.centres_px[:9], section.centres_px)
    assert finer.spots[:9] == section.spots
    assert finer.counts[:9].sum() == section.counts.sum() == finer.counts.sum()


def test_no_division_changes_nothing(section):
    assert with_points_between(section, 1) is section


def test_a_hexagonal_grid_is_refused(section):
    with pytest.raises(SectionError, match="hexagonal"):
        with_points_between(replace(section, grid="hexagonal"), 2)


def test_on_the_real_arrays_hardly_a_spot_lacks_its_eight_nearest_points(her2st):
    for section in her2st.values():
        finer = with_points_between(section, 2)
        around = neighbourhoods(finer.centres_um, pitch_um=100.0)
        near = around.valid[: section.n_spots].reshape(-1, 5, 5)[:, 1:4, 1:4]
        assert (near.sum(axis=(1, 2)) >= 8).mean() > 0.9
