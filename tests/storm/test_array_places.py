from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storm_clinic.errors import SectionError
from storm_clinic.storm.array_places import grid_places
from storm_clinic.storm.neighbourhood import grid_angle


def turned(points, angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


@pytest.mark.parametrize("grid", ["square", "hexagonal"])
@pytest.mark.parametrize("angle", [0.0, 0.2, -0.4])
def test_places_are_found_again_from_turned_shifted_and_strayed_centres(grid, angle):
    chosen = np.random.default_rng(3).permutation(169)[:90]  # with holes
    places = np.stack(np.divmod(chosen, 13), axis=1)
    places = places - places.min(axis=0)
    x, y = places[:, 1].astype(float), places[:, 0].astype(float)
    if grid == "hexagonal":
        x, y = x + (places[:, 0] % 2) / 2, y * np.sqrt(3) / 2
    strayed = np.random.default_rng(1).uniform(-20, 20, (90, 2))
    centres = turned(np.stack([x, y], axis=1) * 100 + strayed, angle) + np.array([137.0, -61.0])
    np.testing.assert_array_equal(grid_places(centres, 100.0, angle, grid=grid), places)


def test_two_spots_on_one_place_are_refused():
    centres = np.array([[0.0, 0.0], [100.0, 0.0], [110.0, 5.0]])
    with pytest.raises(SectionError, match="3 spots fall on 2 places"):
        grid_places(centres, 100.0, 0.0)


def test_real_spots_get_the_places_that_their_names_say(shared_data):
    tables = sorted((shared_data / "her2st" / "spots").glob("*.tsv"))
    if not tables:
        pytest.skip("no real paired sections: her2st/ is absent from the shared data")
    for table in tables:
        spots = pd.read_csv(table, sep="\t")
        centres = spots[["pixel_x", "pixel_y"]].to_numpy() * 0.688
        angle = grid_angle(centres, pitch_um=200.0, grid="square")
        named = spots[["y", "x"]].to_numpy()
        np.testing.assert_array_equal(
            grid_places(centres, 200.0, angle), named - named.min(axis=0), err_msg=table.name
        )
