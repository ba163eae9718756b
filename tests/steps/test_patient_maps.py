"""Maps of one patient against closed forms, input by input."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Survival
from storm_clinic.explanations.occlusion import risks_of_parts
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Recipe, Sample
from storm_clinic.heads.network_head import NetworkModel
from storm_clinic.heads.zoo import find
from storm_clinic.steps.patient_maps import map_name, patient_maps, sheets
from storm_clinic.steps.tile_sources import TileLayout

INPUTS = ("image", "virtual_expression")
AT = 5


@pytest.fixture(scope="module")
def sample() -> Sample:
    """Every patient has as many tiles of the image as of genes."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(4, 9, 40)
    image = Bags.from_arrays([rng.normal(size=(n, 5)) for n in sizes])
    genes = Bags.from_arrays([rng.normal(size=(n, 3)) for n in sizes])
    data = PatientData(
        tuple(f"p{i}" for i in range(40)),
        image,
        virtual_expression=replace(genes, columns=("ERBB2", "GNAS", "MKI67")),
    )
    return Sample(data, Survival.from_arrays(rng.integers(1, 30, 40).astype(float), np.ones(40)))


@pytest.fixture(scope="module")
def linear(sample) -> NetworkModel:
    """A fitted network whose hidden units are always far above zero: it is linear in its tiles."""
    settings = {name: option.default for name, option in find("mean-cox").options.items()}
    settings |= {"hidden": 8, "learning_rate": 0.02}
    recipe = Recipe(INPUTS, settings, (12.0,), 1)
    model = list(islice(find("mean-cox").path(sample, recipe), 10))[-1].finish()
    weights = {
        name: array + 1e3 if name.endswith("bias") and name.startswith("tile.") else array
        for name, array in model.weights.items()
    }
    return replace(model, weights=weights)


def layout(n_tiles: int, step: int = 448) -> TileLayout:
    coords = np.column_stack([np.arange(n_tiles) * step, np.zeros(n_tiles)]).astype(np.int64)
    return TileLayout("s", n_tiles, coords, 0.25, 448.0)


def asked(model, sample, **layouts):
    patient = sample.data.take(np.array([AT]))
    return patient_maps(model, patient, AT, INPUTS, layouts, seed=0)


def test_what_each_tile_adds_to_a_linear_risk_has_its_closed_form(linear, sample):
    n = int(sample.data.bags.sizes[AT])
    item = asked(linear, sample, image=(layout(n),), virtual_expression=(layout(n),))
    assert item.why_none is None
    for name, bags in sample.data.all_tiles.items():
        scale = linear.inputs.tiles[name]
        slope = linear.weights[f"readouts.{name}.weight"][0] @ linear.weights[f"tile.{name}.weight"]
        expected = (bags.bag(AT) - scale.centre) / scale.scale @ slope / n
        found = item.maps[f"attribution-{name}"]
        assert found.input_name == name
        np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-9)


def test_occlusion_of_one_input_leaves_the_other_as_it_is(linear, sample):
    n = int(sample.data.bags.sizes[AT])
    item = asked(linear, sample, image=(layout(n),), virtual_expression=(layout(n),))
    name = "virtual_expression"
    scale, bags = linear.inputs.tiles[name], sample.data.virtual_expression
    slope = linear.weights[f"readouts.{name}.weight"][0] @ linear.weights[f"tile.{name}.weight"]
    each = (bags.bag(AT) - scale.centre) / scale.scale @ slope
    # The mean over n tiles, less the mean over the others.
    expected = each.mean() - (each.sum() - each) / (n - 1)
    np.testing.assert_allclose(item.maps[f"occlusion-{name}"].values, expected, atol=1e-3)
    one = sample.data.take(np.array([AT]))
    risks = risks_of_parts(linear, one, [np.arange(n), np.arange(1, n)], input_name=name)
    assert risks[0] == pytest.approx(linear.predict(one).risk[0], abs=1e-4)
    assert risks[0] - risks[1] == pytest.approx(expected[0], abs=1e-3)


def test_a_linear_models_attribution_passes_its_deletion_curve(linear, sample):
    n = int(sample.data.bags.sizes[AT])
    item = asked(linear, sample, image=(layout(n),), virtual_expression=(layout(n),))
    for name in INPUTS:
        assert item.curves[f"attribution-{name}"].gain > 0


def test_tiles_that_lie_alike_share_a_sheet_and_others_have_their_own(linear, sample):
    n = int(sample.data.bags.sizes[AT])
    alike = sheets(asked(linear, sample, image=(layout(n),), virtual_expression=(layout(n),)))
    assert [sheet.inputs for sheet in alike] == [list(INPUTS)]
    apart = sheets(asked(linear, sample, image=(layout(n),), virtual_expression=(layout(n, 800),)))
    assert [sheet.inputs for sheet in apart] == [["image"], ["virtual_expression"]]
    assert set(apart[1].values) == {
        "occlusion-virtual_expression",
        "attribution-virtual_expression",
    }
    np.testing.assert_array_equal(
        apart[1].values["attribution-virtual_expression"],
        alike[0].values["attribution-virtual_expression"],
    )


def test_a_bag_of_two_slides_is_cut_where_one_ends(linear, sample):
    n = int(sample.data.bags.sizes[AT])
    other = replace(layout(n - 2), slide_id="t")
    whole = sheets(asked(linear, sample, image=(layout(n),)))
    cut = sheets(asked(linear, sample, image=(layout(2), other)))
    assert [sheet.layout.slide_id for sheet in cut] == ["s", "t"]
    parts = np.concatenate([sheet.values["attribution-image"] for sheet in cut])
    np.testing.assert_array_equal(parts, whole[0].values["attribution-image"])


def test_maps_carry_their_input_unless_it_is_the_image_alone():
    assert map_name("occlusion", "image", ("image",)) == "occlusion"
    assert map_name("occlusion", "storm", ("storm",)) == "occlusion-storm"
    assert map_name("attribution", "image", INPUTS) == "attribution-image"
