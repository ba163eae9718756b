"""Other looks at a tile: the eight of a square, and other amounts of dyes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_sections import SYMBOLS, planted_section

from storm_clinic.errors import SectionError, TrainingError
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.impute import FinetunePlan, finetune, impute
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.taught_section import TaughtSection
from storm_clinic.storm.tile_views import TileView, tile_views

# Ruifrok and Johnston (2001), optical density of haematoxylin and eosin in red, green and blue.
HAEMATOXYLIN, EOSIN = (
    np.array(dye) / np.linalg.norm(dye) for dye in ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
)


def tiles(n: int = 2, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (n, side, side, 3), dtype=np.uint8)


def test_eight_looks_are_the_eight_ways_to_lay_a_square_the_first_as_it_is():
    given = tiles()
    found = [view(given) for view in tile_views(8, stain=0.0, seed=0)]
    np.testing.assert_array_equal(found[0], given)
    # Every way, spelled out with transpositions, which no view uses.
    ways = [
        np.moveaxis(given, (1, 2), axes)[:, ::up, ::left]
        for axes in ((1, 2), (2, 1))
        for up in (1, -1)
        for left in (1, -1)
    ]
    assert {look.tobytes() for look in found} == {np.ascontiguousarray(w).tobytes() for w in ways}
    assert len({look.tobytes() for look in found}) == 8


def test_dyes_change_by_the_law_of_beer_and_lambert():
    amounts = np.random.default_rng(1).uniform(0.1, 1.0, (1, 6, 6, 2))

    def colours(factors):
        density = (amounts * factors) @ np.stack([HAEMATOXYLIN, EOSIN])
        return 255 * np.exp(-density)

    given = np.rint(colours((1.0, 1.0))).astype(np.uint8)
    found = TileView(dyes=(1.1, 0.9, 1.0))(given).astype(float)
    # Rounding of what is given costs half a grey, and mixing three channels a little more.
    np.testing.assert_allclose(found, colours((1.1, 0.9)), atol=2)
    assert np.abs(found - given).max() > 4  # and that is not what was given
    glass = np.full((1, 2, 2, 3), 255, dtype=np.uint8)
    np.testing.assert_array_equal(TileView(dyes=(0.8, 1.2, 1.1))(glass), glass)


def test_looks_are_the_same_for_the_same_seed_and_the_first_keeps_its_colours():
    one, other = (tile_views(20, stain=0.1, seed=seed) for seed in (0, 1))
    assert one == tile_views(20, stain=0.1, seed=0)
    assert one[0] == other[0] == TileView()
    assert all(a.dyes != b.dyes for a, b in zip(one[1:], other[1:], strict=True))
    assert all(0.9 <= amount <= 1.1 for view in one for amount in view.dyes)


@pytest.mark.parametrize(("n_views", "stain"), [(0, 0.0), (65, 0.0), (8, 1.0), (8, -0.1)])
def test_looks_that_cannot_be_are_refused(n_views, stain):
    with pytest.raises(SectionError, match="cannot be"):
        tile_views(n_views, stain=stain, seed=0)


IMAGE = planted_section(0).image


def taught(looks: list[np.ndarray]) -> TaughtSection:
    vocabulary = GeneVocabulary(SYMBOLS)
    planted = planted_section(0).section
    return TaughtSection.of(planted, np.stack(looks), vocabulary, side=3, scaled=True)


def network(section: TaughtSection) -> StormModel:
    width, n_genes = section.image.shape[-1], len(section.panel)
    torch.manual_seed(0)
    return StormModel(
        StormConfig.of_size("tiny", image_width=width, n_genes=n_genes, pitch_um=100.0)
    )


def test_a_network_taught_by_equal_looks_is_that_of_one_look_and_by_others_is_not():
    turned = IMAGE + np.random.default_rng(3).normal(size=IMAGE.shape).astype(np.float32)
    said = {}
    for name, looks in {"one": [IMAGE], "equal": [IMAGE] * 3, "others": [IMAGE, turned]}.items():
        section = taught(looks)
        model = network(section)
        finetune(model, [section], FinetunePlan(epochs=2, batch=32))
        said[name] = impute(model, taught([IMAGE]))
    np.testing.assert_array_equal(said["one"], said["equal"])
    assert np.abs(said["one"] - said["others"]).max() > 1e-3


def test_inference_sees_the_first_look():
    model = network(taught([IMAGE])).eval()
    looks = taught([IMAGE, -IMAGE])
    np.testing.assert_array_equal(impute(model, looks), impute(model, taught([IMAGE])))


def test_sections_with_different_numbers_of_looks_are_refused():
    one, two = taught([IMAGE]), replace(taught([IMAGE, IMAGE]), name="other")
    with pytest.raises(TrainingError, match="different numbers of looks"):
        finetune(network(one), [one, two], FinetunePlan(epochs=1))
