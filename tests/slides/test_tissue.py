"""What counts as tissue and what does not."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from PIL import Image

from storm_clinic.errors import NoTissue, SlideError, UnreadableSlide
from storm_clinic.slides.reader import open_slide
from storm_clinic.slides.tissue import TissueParameters, find_tissue, read_mask, tissue_of

MPP = 8.0
EOSIN, HAEMATOXYLIN, PALE = (225, 150, 190), (120, 80, 150), (236, 214, 228)
GLASS = (243, 242, 244)


def disc_mm2(*radii_px):
    return sum(np.pi * (radius * MPP / 1000) ** 2 for radius in radii_px)


def test_stained_discs_are_found_with_their_area(paint_tissue):
    picture = paint_tissue((300, 200), (80, 100, 60, EOSIN), (220, 80, 40, HAEMATOXYLIN))
    found = find_tissue(picture, MPP)
    assert found.mpp == MPP
    assert found.area_mm2 == pytest.approx(disc_mm2(60, 40), rel=0.03)
    assert found.mask[100, 80]
    assert found.mask[80, 220]
    assert not found.mask[5, 5]


def test_pale_tissue_beside_dark_tissue_is_found_by_its_texture(paint_tissue):
    discs = (80, 100, 60, PALE), (220, 80, 60, HAEMATOXYLIN)
    textured = find_tissue(paint_tissue((300, 200), *discs, grain=10.0), MPP)
    assert textured.area_mm2 == pytest.approx(disc_mm2(60, 60), rel=0.05)
    # The same colour without texture is dye that was not washed off the glass.
    smooth = find_tissue(paint_tissue((300, 200), *discs), MPP)
    assert smooth.mask[80, 220]
    assert not smooth.mask[60:140, 40:120].any()


def test_tinted_glass_is_no_tissue(paint_tissue):
    tinted = (236, 214, 226)  # as saturated as pale stroma
    picture = paint_tissue((300, 200), (150, 100, 60, HAEMATOXYLIN), glass=tinted)
    assert find_tissue(picture, MPP).area_mm2 == pytest.approx(disc_mm2(60), rel=0.03)


def test_a_slide_that_is_all_tissue_stays_whole(paint_tissue):
    picture = paint_tissue((120, 120), (30, 60, 40, HAEMATOXYLIN), glass=EOSIN)
    assert find_tissue(picture, MPP).mask.mean() > 0.99


@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (230, 228, 222), (200, 200, 200)])
def test_empty_glass_is_no_tissue(paint_tissue, glass):
    with pytest.raises(NoTissue, match=r"a\.svs: nothing on it is tissue"):
        find_tissue(paint_tissue((200, 200), glass=glass), MPP, where="a.svs")


@pytest.mark.parametrize(
    "ink",
    [(40, 70, 190), (30, 140, 70), (20, 160, 180), (25, 25, 30), (190, 40, 50), (70, 120, 200)],
    ids=["blue", "green", "cyan", "black", "red", "light blue"],
)
def test_pen_marks_are_no_tissue(paint_tissue, ink):
    picture = paint_tissue((300, 200), (80, 100, 60, EOSIN))
    picture[20:180, 200:212] = ink
    picture[150:162, 150:290] = ink
    found = find_tissue(picture, MPP)
    assert found.area_mm2 == pytest.approx(disc_mm2(60), rel=0.03)
    assert not found.mask[:, 190:].any()


@pytest.mark.parametrize(
    "stain",
    [(170, 60, 130), (92, 76, 140), (80, 70, 120), (200, 90, 100), (230, 190, 150), (60, 45, 95)],
    ids=["strong eosin", "haematoxylin", "bluish nuclei", "blood", "saffron", "dense nuclei"],
)
def test_stains_are_not_mistaken_for_ink(paint_tissue, stain):
    picture = paint_tissue((200, 200), (100, 100, 60, stain))
    assert find_tissue(picture, MPP).area_mm2 == pytest.approx(disc_mm2(60), rel=0.03)


def test_black_borders_are_no_tissue(paint_tissue):
    picture = paint_tissue((300, 200), (150, 100, 60, EOSIN))
    rng = np.random.default_rng(0)
    # Not quite black: sensor noise there has any hue and saturation.
    picture[:, :30] = rng.integers(0, 25, (200, 30, 3))
    picture[180:] = rng.integers(0, 25, (20, 300, 3))
    found = find_tissue(picture, MPP)
    assert found.area_mm2 == pytest.approx(disc_mm2(60), rel=0.03)


def test_small_holes_are_filled_and_large_ones_are_not(paint_tissue):
    small, large = 5, 20  # radii: 5,000 and 80,000 µm²
    picture = paint_tissue(
        (300, 200), (150, 100, 90, EOSIN), (110, 100, small, GLASS), (180, 100, large, GLASS)
    )
    found = find_tissue(picture, MPP)
    assert found.mask[100, 110]
    assert not found.mask[100, 180]
    wanted = disc_mm2(90) - disc_mm2(large)
    assert found.area_mm2 == pytest.approx(wanted, rel=0.03)


def test_a_hole_at_the_slides_rim_is_glass(paint_tissue):
    picture = paint_tissue((100, 100), (50, 0, 5, GLASS), glass=EOSIN)
    assert not find_tissue(picture, MPP).mask[0, 50]


def test_specks_below_the_minimum_area_are_dropped(paint_tissue):
    # 25,000 µm² are a disc of 11.2 px.
    picture = paint_tissue((200, 100), (40, 50, 9, EOSIN), (140, 50, 14, EOSIN))
    found = find_tissue(picture, MPP)
    assert not found.mask[50, 40]
    assert found.mask[50, 140]
    both = find_tissue(picture, MPP, TissueParameters(min_area_um2=5_000))
    assert both.mask[50, 40]


def test_parameters_are_frozen_comparable_and_ready_for_a_contract():
    parameters = TissueParameters(min_area_um2=1.0)
    assert parameters == TissueParameters(min_area_um2=1.0)
    assert parameters != TissueParameters()
    assert json.loads(json.dumps(parameters.as_dict()))["min_area_um2"] == 1.0
    with pytest.raises(FrozenInstanceError):
        parameters.min_area_um2 = 2.0


def test_a_real_slide_has_the_area_that_an_independent_rule_gives(shared_data):
    with open_slide(shared_data / "slides/CMU-1-Small-Region.svs") as slide:
        found = tissue_of(slide)
        pixels = slide.read((0, 0), slide.size, slide.mpp)
    # Independent of saturation: what lets clearly less green through than the glass.
    green = pixels[..., 1].reshape(-1)
    plain = np.count_nonzero(green < 200) * slide.mpp**2 / 1e6
    assert found.area_mm2 == pytest.approx(plain, rel=0.2)
    assert 0.45 < found.area_mm2 < 0.70


def test_dye_on_the_glass_of_a_real_section_is_no_tissue(shared_data):
    with open_slide(shared_data / "her2st/images/C3.jpg", mpp_override=0.688) as image:
        thumbnail, mpp = image.thumbnail()
        found = find_tissue(thumbnail, mpp)
    # Independent of saturation: haematoxylin leaves nothing of the section as bright as the glass.
    grey = thumbnail.mean(axis=2)
    plain = np.count_nonzero(grey < np.median(grey) - 12) * mpp**2 / 1e6
    assert found.area_mm2 == pytest.approx(plain, rel=0.12)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_mask_file_replaces_what_would_be_found(tmp_path, suffix):
    marked = np.zeros((75, 55), dtype=np.uint8)
    marked[:30] = 255
    path = tmp_path / f"mask.{suffix}"
    Image.fromarray(marked).save(path)
    mask = read_mask(path, (2220, 2967), 0.499)
    np.testing.assert_array_equal(mask.mask, marked > 0)
    assert mask.mpp == pytest.approx(0.499 * 2220 / 55)


@pytest.mark.parametrize("high", [1, 255])
def test_masks_may_be_ones_or_255_or_two_colours(tmp_path, high):
    marked = np.zeros((20, 20, 3), dtype=np.uint8)
    marked[5:9] = high
    Image.fromarray(marked).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (200, 200), 0.5).mask.sum() == 80


def test_a_wholly_marked_mask_is_all_tissue(tmp_path):
    Image.fromarray(np.full((20, 20), 255, np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (200, 200), 0.5).area_mm2 == pytest.approx(0.01)


def test_unfit_masks_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "m.png"
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(path)
    with pytest.raises(SlideError, match=r"m\.png: the mask is 30 x 20 px.*other proportions"):
        read_mask(path, (200, 200), 0.5)
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(path)
    with pytest.raises(SlideError, match="has 256 values; two are needed"):
        read_mask(path, (200, 200), 0.5)
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(path)
    with pytest.raises(NoTissue, match="marks no tissue"):
        read_mask(path, (200, 200), 0.5)
    path.write_text("no image")
    with pytest.raises(UnreadableSlide, match="neither PNG"):
        read_mask(path, (200, 200), 0.5)


def test_tissue_of_a_slide_comes_from_its_mask_where_there_is_one(tmp_path, write_slide, texture):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.5)
    marked = np.zeros((90, 120), dtype=np.uint8)
    marked[:45] = 255
    Image.fromarray(marked).save(tmp_path / "m.png")
    with open_slide(path) as slide:
        masked = tissue_of(slide, mask_path=tmp_path / "m.png")
        assert masked.mask.sum() == 45 * 120
        blank = TissueParameters(saturation_at_least=1.0, saturation_at_most=1.0)
        with pytest.raises(NoTissue, match=r"a\.tiff"):
            tissue_of(slide, blank)
