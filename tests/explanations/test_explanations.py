"""Occlusion, deletion curves, maps and their files."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import tifffile

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.explanations.faithfulness import DeletionCurve, deletion_curve, judge
from storm_clinic.explanations.maps import (
    SlideMap,
    draw_tiles,
    write_geojson,
    write_ome_tiff,
    write_overlay,
)
from storm_clinic.explanations.occlusion import blocks, occlusion, risks_of_parts
from storm_clinic.explanations.planted import land
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import ModelOutput, PatientData, Recipe, Sample
from storm_clinic.heads.zoo import find


class MeanModel:
    """The risk is the mean of the tiles' first feature: everything about it is known."""

    head = "mean"
    notes = ()

    def predict(self, data: PatientData) -> ModelOutput:
        risk = np.array([data.bags.bag(i)[:, 0].mean() for i in range(len(data))])
        return ModelOutput(risk.astype(np.float64), {})


def patient(values) -> PatientData:
    tiles = np.column_stack([values, np.zeros(len(values))])
    return PatientData(("p",), Bags.from_arrays([tiles]))


def test_occlusion_of_a_mean_is_its_closed_form():
    values = np.array([4.0, 1.0, 1.0, 0.0])
    found = occlusion(MeanModel(), patient(values), np.arange(4))
    without = (values.sum() - values) / 3
    np.testing.assert_allclose(found, values.mean() - without)


def test_tiles_left_out_together_share_what_the_risk_loses():
    values = np.array([4.0, 2.0, 0.0, 0.0])
    found = occlusion(MeanModel(), patient(values), np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(found, [0.75, 0.75, -0.75, -0.75])


def test_a_single_tile_cannot_be_left_out():
    assert np.isnan(occlusion(MeanModel(), patient([1.0]), np.array([0]))).all()


def fitted(head: str):
    rng = np.random.default_rng(0)
    bags = [rng.normal(size=(n, 4)) for n in rng.integers(3, 9, 30)]
    places = [1000 * rng.normal(size=(len(b), 2)).astype(np.float32) for b in bags]
    data = PatientData(tuple(map(str, range(30))), Bags.from_arrays(bags, places))
    outcome = Survival.from_arrays(rng.integers(1, 20, 30).astype(float), rng.integers(0, 2, 30))
    settings = {name: option.default for name, option in find(head).options.items()}
    path = find(head).path(Sample(data, outcome), Recipe(("image",), settings, (), 0))
    return list(islice(path, 10))[-1].finish(), data


@pytest.mark.parametrize("head", ["attention-cox", "transformer-cox", "coxnet"])
def test_occlusion_is_the_brute_force_difference_for_every_kind_of_head(head):
    model, data = fitted(head)
    one = data.take(np.array([7]))
    n = int(one.bags.sizes[0])
    expected = []
    for tile in range(n):
        rest = [row for row in range(n) if row != tile]
        whole = one.bags.gather_places(slice(0, 1))
        bags = Bags.from_arrays([one.bags.bag(0)[rest]], [whole[rest]])
        expected.append(model.predict(one).risk[0] - model.predict(replace(one, bags=bags)).risk[0])
    np.testing.assert_allclose(occlusion(model, one, np.arange(n)), expected, rtol=1e-4, atol=1e-6)


def test_many_tiles_are_joined_to_squares_of_neighbours():
    x, y = np.meshgrid(np.arange(10), np.arange(10))
    coords = np.column_stack([x.ravel(), y.ravel()]) * 224
    groups = blocks(coords, 100, 224.0, 30)
    assert len(np.unique(groups)) == 25
    for group in np.unique(groups):
        assert np.ptp(coords[groups == group], axis=0).tolist() == [224, 224]
    assert blocks(coords, 100, 224.0, 100).tolist() == list(range(100))
    assert len(np.unique(blocks(None, 100, None, 30))) == 30


def test_a_deletion_curve_starts_at_zero_and_ends_at_the_last_tile():
    values = np.arange(11.0)
    curve = deletion_curve(MeanModel(), patient(values), values, seed=0)
    assert curve.highest[0] == curve.lowest[0] == curve.random[0] == 0
    assert curve.highest[-1] == 0.0 - values.mean()
    assert curve.lowest[-1] == 10.0 - values.mean()
    assert curve.gain > 0
    assert deletion_curve(MeanModel(), patient(values), -values, seed=0).gain < 0


def test_parts_are_risks_of_these_tiles_alone():
    values = np.array([3.0, 5.0, 9.0])
    parts = [np.array([0]), np.array([0, 2]), np.array([0, 1, 2])]
    assert risks_of_parts(MeanModel(), patient(values), parts).tolist() == [3, 6, 17 / 3]


@pytest.mark.parametrize(
    ("gains", "words"),
    [([0.5, 0.6, 0.7], "sooner"), ([-0.5, -0.6], "later"), ([-1, 1], "not shown")],
)
def test_the_sentence_says_no_more_than_the_interval(gains, words):
    share = np.array([0.0, 1.0])
    curves = [DeletionCurve(share, np.full(2, -gain), np.zeros(2), np.zeros(2)) for gain in gains]
    assert words in judge(curves, seed=0).sentence


def test_nothing_can_be_judged_of_no_curve():
    with pytest.raises(StatisticsError):
        judge([], seed=0)


MAP = SlideMap(
    "s",
    np.array([[100, 40], [324, 40], [100, 264]]),
    224.0,
    0.5,
    {"attention": np.array([2.0, 1.0, 0.0]), "occlusion": np.array([0.5, -0.25, np.nan])},
)


def test_geojson_holds_squares_in_level0_pixels(tmp_path):
    write_geojson(tmp_path / "s.geojson", MAP)
    document = json.loads((tmp_path / "s.geojson").read_text())
    first, _, third = document["features"]
    assert document["type"] == "FeatureCollection"
    assert first["geometry"]["coordinates"] == [
        [[100, 40], [324.0, 40], [324.0, 264.0], [100, 264.0], [100, 40]]
    ]
    assert first["properties"] == {
        "objectType": "tile",
        "measurements": {"attention": 2.0, "occlusion": 0.5},
    }
    assert third["properties"]["measurements"] == {"attention": 0.0}  # NaN is no JSON


def test_ome_tiff_is_read_again_with_sizes_and_channels(tmp_path):
    write_ome_tiff(tmp_path / "s.ome.tiff", MAP)
    with tifffile.TiffFile(tmp_path / "s.ome.tiff") as file:
        assert file.is_ome
        values = file.asarray()
        text = file.ome_metadata
    np.testing.assert_array_equal(values[0], np.array([[2, 1], [0, np.nan]], np.float32))
    np.testing.assert_array_equal(values[1], np.array([[0.5, -0.25], [np.nan, np.nan]], np.float32))
    assert 'PhysicalSizeX="112.0"' in text
    assert 'Name="attention"' in text
    assert 'Name="occlusion"' in text
    assert 'PositionX="50.0"' in text


def test_a_tile_is_tinted_where_it_lies_and_nothing_else_is():
    thumbnail = np.full((100, 120, 3), 200, np.uint8)
    red = np.array([[1.0, 0, 0]] * 3)
    drawn = draw_tiles(thumbnail, MAP, red, thumbnail_mpp=4.0)
    changed = (drawn != thumbnail).any(axis=2)
    rows, columns = np.nonzero(changed)
    # 100 px at 0.5 µm is 12.5 px at 4 µm; two tiles of 28 px lie beside and below one another.
    assert (columns.min(), columns.max() + 1) == (12, 68)
    assert (rows.min(), rows.max() + 1) == (5, 61)
    assert not changed[40, 60]  # there is no fourth tile
    assert changed[40, 20]


def test_overlapping_tiles_share_their_colour():
    map_ = replace(MAP, coords=np.array([[0, 0], [112, 0]]), values={"attention": np.ones(2)})
    colours = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    drawn = draw_tiles(np.zeros((30, 50, 3), np.uint8), map_, colours, thumbnail_mpp=4.0)
    left, both, right = drawn[5, 5].tolist(), drawn[5, 20].tolist(), drawn[5, 38].tolist()
    assert both == [left[0] // 2, 0, right[2] // 2]


def test_a_picture_is_written(tmp_path):
    from PIL import Image

    thumbnail = np.full((100, 120, 3), 200, np.uint8)
    for name in MAP.values:
        write_overlay(tmp_path / f"{name}.png", MAP, name, thumbnail, 4.0)
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 150


def test_landing_is_the_chance_that_a_planted_tile_has_more():
    scores = [np.array([3.0, 1.0, 9.0]), np.array([2.0, 0.5])]
    shares = [np.array([1.0, 0.0, 0.3]), np.array([0.6, 0.0])]
    found = land(scores, shares, seed=0)
    assert found.auc == 1.0
    assert (found.n_planted, found.n_other, found.n_mixed, found.n_patients) == (2, 2, 1, 2)
    assert land([-s for s in scores], shares, seed=0).auc == 0.0
    with pytest.raises(StatisticsError, match="all of one kind"):
        land(scores, [np.ones(3), np.ones(2)], seed=0)


# Orange has far more red than blue, deep purple only a little more blue than red.
@pytest.mark.parametrize(("sign", "least"), [(1, 60), (-1, 15)])
def test_a_signed_scale_has_its_middle_at_zero_whatever_the_values(tmp_path, sign, least):
    from PIL import Image

    # All on one side of 0: on a scale from the lowest to the highest some would have the other hue.
    map_ = replace(MAP, values={"attribution-virtual_expression": sign * np.array([1.0, 0.5, 0.2])})
    thumbnail = np.full((100, 120, 3), 255, np.uint8)
    write_overlay(tmp_path / "m.png", map_, "attribution-virtual_expression", thumbnail, 4.0)
    with Image.open(tmp_path / "m.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    left = pixels[:, : int(0.7 * pixels.shape[1])]  # the colour bar stands at the right
    warmer = sign * (left[..., 0] - left[..., 2])
    assert warmer.max() > least
    assert warmer.min() > -10
