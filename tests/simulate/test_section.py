"""Drawn sections: dyes by the law of Beer and Lambert, regions of the shares asked for."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.nuclei import EVEN, PLEOMORPHIC, draw_variants, scatter
from storm_clinic.simulate.regions import FAT, GLASS, LOW, PLANTED, REGION_MPP, lay_regions
from storm_clinic.simulate.section import draw_section
from storm_clinic.simulate.stain import Stain, colour_section
from storm_clinic.slides.tiles import TileGeometry, lay_tissue_tiles, tissue_fraction
from storm_clinic.slides.tissue import TissueMask, find_tissue

STAIN = Stain(
    haematoxylin=(3.0, 0.0, 4.0), eosin=(0.0, 2.0, 0.0), strength=(2.0, 1.0), glass=(250, 240, 230)
)


def test_colours_obey_beer_and_lambert():
    rng = np.random.default_rng(0)
    haematoxylin, eosin = rng.integers(0, 256, (2, 40, 50), dtype=np.uint8)
    made = colour_section(haematoxylin, eosin, STAIN)
    # Unit vectors: haematoxylin has 0.6 in red and 0.8 in blue, eosin all in green.
    first, second = haematoxylin / 255, eosin / 255
    red = 250 * np.exp(-2.0 * 0.6 * first)
    green = 240 * np.exp(-1.0 * second)
    blue = 230 * np.exp(-2.0 * 0.8 * first)
    np.testing.assert_allclose(made, np.stack([red, green, blue], axis=-1), atol=0.51)


def test_without_dye_there_is_glass():
    nothing = np.zeros((3, 4), dtype=np.uint8)
    assert (colour_section(nothing, nothing, STAIN) == (250, 240, 230)).all()


@pytest.mark.parametrize("share", [0.03, 0.4, 0.9])
def test_the_planted_morphology_has_its_share_of_the_tumour(share):
    regions = lay_regions((896, 672), share, np.random.default_rng(4))
    tumour = (regions.tissue > 0) & (regions.fat <= 0) & (regions.tumour > 0)
    assert regions.planted_mask.sum() / tumour.sum() == pytest.approx(share, abs=0.01)
    assert not (regions.planted_mask & ~tumour).any()
    assert 0.5 < (regions.tissue > 0).mean() < 0.9


@pytest.mark.parametrize("factor", [16, 32])
def test_enlarged_regions_lie_where_the_truth_says(factor):
    regions = lay_regions((896, 672), 0.5, np.random.default_rng(5))
    height, width = regions.planted_mask.shape
    classes = regions.classes((width * factor, height * factor))
    by_majority = (classes == PLANTED).reshape(height, factor, width, factor).mean(
        axis=(1, 3)
    ) > 0.5
    assert (by_majority == regions.planted_mask).mean() > 0.97
    assert {GLASS, LOW, PLANTED} <= set(np.unique(classes)) <= set(range(FAT + 1))


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_planted_nuclei_are_larger_darker_and_more_unequal(mpp):
    planted, even = (
        draw_variants(kind, mpp, np.random.default_rng(1)) for kind in (PLEOMORPHIC, EVEN)
    )
    areas = [
        np.array([(nucleus > 40).sum() * mpp**2 for nucleus in kind]) for kind in (planted, even)
    ]
    assert areas[0].mean() > 2 * areas[1].mean()
    assert areas[0].std() / areas[0].mean() > 2 * areas[1].std() / areas[1].mean()
    # A round nucleus of 3 µm radius, of which the rim of 0.6 µm is a third lost at this threshold.
    assert areas[1].mean() == pytest.approx(np.pi * 2.8**2, rel=0.1)
    assert np.mean([k.max() for k in planted]) > np.mean([k.max() for k in even]) + 40


def test_centres_are_as_dense_as_their_spacing_says():
    centres = scatter(EVEN, (2000, 1500), np.random.default_rng(0))
    per_um2 = len(centres) / (2000 * 1500)
    assert per_um2 == pytest.approx(1 / (EVEN.spacing_um**2 * 0.87), rel=0.02)


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda hospital: hospital.cohort)
def test_the_planted_morphology_can_be_seen_in_a_tile_at_half_a_micron(hospital):
    rng = np.random.default_rng(8)
    regions = lay_regions(hospital.size_um, 0.45, rng)
    width, height = (round(side / hospital.mpp) for side in hospital.size_um)
    picture = draw_section(
        regions, (width, height), hospital.mpp, hospital.stain, inked=False, rng=rng
    )
    step = round(REGION_MPP / hospital.mpp)
    thumbnail = picture.reshape(height // step, step, width // step, step, 3).mean(axis=(1, 3))
    tissue = find_tissue(np.rint(thumbnail).astype(np.uint8), REGION_MPP)
    # What was drawn is found, but for fat and rims.
    drawn = TissueMask(regions.tissue > 0, REGION_MPP)
    assert tissue.area_mm2 == pytest.approx(drawn.area_mm2, rel=0.15)
    geometry = TileGeometry(112, 0.5)
    side = geometry.tile_level0_px(hospital.mpp)
    corners, _ = lay_tissue_tiles((width, height), hospital.mpp, geometry, tissue, 0.8)
    truth = TissueMask(regions.planted_mask, REGION_MPP)
    planted = tissue_fraction(corners, side, truth, hospital.mpp)
    clear = (planted < 0.1) | (planted > 0.9)
    darkness = [
        -picture[y : y + round(side), x : x + round(side)].mean() for x, y in corners.tolist()
    ]
    assert clear.sum() > 20
    assert roc_auc_score(planted[clear] > 0.5, np.array(darkness)[clear]) > 0.95


def test_ink_is_drawn_only_where_it_is_asked_for():
    hospital = HOSPITALS[0]
    pictures = []
    for inked in (False, True):
        rng = np.random.default_rng(6)
        regions = lay_regions((448, 448), 0.3, rng)
        pictures.append(
            draw_section(regions, (896, 896), 0.5, hospital.stain, inked=inked, rng=rng)
        )
    changed = (pictures[0] != pictures[1]).any(axis=2)
    # A stroke 45 µm wide from top to bottom.
    assert 0.05 < changed.mean() < 0.2
    assert changed.any(axis=1).mean() > 0.8
