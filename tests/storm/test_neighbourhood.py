from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import SectionError
from storm_clinic.storm.neighbourhood import grid_angle, neighbourhoods


def lattice(grid: str, n_rows: int = 9, n_columns: int = 8, pitch_um: float = 100.0):
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    if grid == "square":
        return np.stack([column, row], axis=1) * pitch_um
    return np.stack([column + (row % 2) / 2, row * np.sqrt(3) / 2], axis=1) * pitch_um


def turned(points, angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def test_a_small_square_grid_is_read_in_raster_order():
    found = neighbourhoods(lattice("square", 3, 3), pitch_um=100.0, side=3)
    assert found.rows[4].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert found.rows[0].tolist() == [-1, -1, -1, -1, 0, 1, -1, 3, 4]
    np.testing.assert_array_equal(found.valid, found.rows >= 0)


def test_a_hexagonal_spot_has_six_neighbours_at_one_pitch_among_its_3_by_3():
    spots = lattice("hexagonal")
    found = neighbourhoods(spots, pitch_um=100.0, grid="hexagonal", side=3)
    middle = 4 * 8 + 4
    assert found.valid[middle].all()
    away = np.linalg.norm(spots[found.rows[middle]] - spots[middle], axis=1)
    # The 3 x 3 window of a hexagonal grid: itself, six at one pitch, two at the square root of 3.
    assert np.sort(away / 100) == pytest.approx([0, *[1] * 6, *[np.sqrt(3)] * 2])


@pytest.mark.parametrize("grid", ["square", "hexagonal"])
@pytest.mark.parametrize("angle", [0.0, 0.2, -0.4])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_the_centre_is_in_the_middle_and_neighbours_are_mutual(grid, angle, side):
    rng = np.random.default_rng(3)
    spots = turned(lattice(grid), angle) + rng.uniform(-8, 8, (72, 2))
    spots = spots[rng.permutation(72)[:60]]  # with holes
    found = neighbourhoods(spots, pitch_um=100.0, grid=grid, side=side)
    last = side * side - 1
    assert found.rows[:, last // 2].tolist() == list(range(60))
    for place in range(side * side):
        has = np.flatnonzero(found.valid[:, place])
        # Whoever is k-th around me has me in the opposite place.
        np.testing.assert_array_equal(found.rows[found.rows[has, place], last - place], has)


@pytest.mark.parametrize(("grid", "most"), [("square", np.pi / 4), ("hexagonal", np.pi / 6)])
def test_a_turn_of_the_grid_is_measured(grid, most):
    for angle in (0.0, 0.1, -0.3, 0.9 * most):
        spots = turned(lattice(grid), angle)
        assert grid_angle(spots, pitch_um=100.0, grid=grid) == pytest.approx(angle, abs=1e-9)


def test_shuffling_spots_renames_neighbours_and_changes_nothing_else():
    spots = lattice("square")
    order = np.random.default_rng(0).permutation(len(spots))
    plain = neighbourhoods(spots, pitch_um=100.0)
    shuffled = neighbourhoods(spots[order], pitch_um=100.0)
    renamed = np.where(shuffled.valid, order[shuffled.rows], -1)
    np.testing.assert_array_equal(renamed, plain.rows[order])


def test_neighbours_on_real_arrays_are_those_of_the_array_s_own_numbers(her2st):
    for name, section in her2st.items():
        found = neighbourhoods(section.centres_um, pitch_um=section.pitch_um)
        places = [tuple(map(int, spot.split("x"))) for spot in section.spots]
        row_at = {place: row for row, place in enumerate(places)}
        expected = [
            [row_at.get((x + i, y + j), -1) for j in range(-2, 3) for i in range(-2, 3)]
            for x, y in places
        ]
        assert found.rows.tolist() == expected, name


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pitch_um": 0.0}, "pitch must be a length"),
        ({"side": 4}, "side must be 1, 3 or 5"),
        ({"tolerance": 0.5}, "tolerance must be between"),
        ({"pitch_um": 1000.0}, "nearer than"),
        ({"grid": "round"}, "grid must be"),
    ],
)
def test_what_cannot_be_is_refused(changed, message):
    with pytest.raises(SectionError, match=message):
        neighbourhoods(lattice("square"), **{"pitch_um": 100.0, **changed})
