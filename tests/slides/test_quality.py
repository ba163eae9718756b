"""Focus, and pictures that show what is kept."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from storm_clinic.slides.quality import (
    BLURRED_BELOW,
    SheetCell,
    contact_sheet,
    draw_qc,
    focus_score,
    slide_focus,
    write_picture,
)
from storm_clinic.slides.reader import open_slide
from storm_clinic.slides.tissue import TissueMask


def test_blank_glass_has_no_focus():
    assert focus_score(np.full((256, 256, 3), 240, np.uint8)) == 0.0


def test_a_real_scan_is_sharp_and_a_blurred_copy_is_not(shared_data):
    with open_slide(shared_data / "slides/CMU-1-Small-Region.svs") as slide:
        corners = np.array([[900, 1500], [900, 2000], [700, 2500]])
        assert slide_focus(slide, corners) > 0.65
        tile = slide.read((900, 1500), 256, 0.5)
    by_blur = [focus_score(cv2.GaussianBlur(tile, (0, 0), sigma)) for sigma in (0.5, 1, 2, 3, 5)]
    assert by_blur == sorted(by_blur, reverse=True)
    # Three pixels of half a micron: nuclei are still there, chromatin is not.
    assert by_blur[3] < BLURRED_BELOW < by_blur[1]


@pytest.mark.parametrize("contrast", [0.3, 0.6])
def test_focus_depends_little_on_the_strength_of_the_stain(shared_data, contrast):
    with open_slide(shared_data / "slides/CMU-1-Small-Region.svs") as slide:
        tile = slide.read((900, 1500), 256, 0.5)
    paler = np.rint(255 - (255 - tile.astype(float)) * contrast).astype(np.uint8)
    assert focus_score(paler) == pytest.approx(focus_score(tile), abs=0.05)


def test_the_picture_shows_contour_and_tiles_where_they_are():
    thumbnail = np.full((350, 700, 3), 255, np.uint8)  # drawn twice as large
    mask = TissueMask(np.zeros((350, 700), bool), 8.0)
    mask.mask[100:200, 300:500] = True
    corners_um = np.array([[3200.0, 800.0]])
    picture = draw_qc(thumbnail, 8.0, mask, corners_um, 160.0, ["first line", "second line"])
    assert picture.shape[1] == 1400
    assert picture.shape[0] > 700
    drawn = (picture[:700] != 255).any(axis=2)
    rows, columns = np.nonzero(drawn)
    assert (rows.min(), columns.min()) == (pytest.approx(200, abs=3), pytest.approx(600, abs=3))
    assert (rows.max(), columns.max()) == (pytest.approx(400, abs=3), pytest.approx(1000, abs=3))
    blue = (picture[:700] == (0, 114, 178)).all(axis=2)
    rows, columns = np.nonzero(blue)
    # 3200 µm are 400 thumbnail px and 800 px here; 160 µm are 40.
    assert (columns.min(), columns.max(), rows.max()) == (800, 840, 240)
    assert (picture[700:] < 100).any()  # the caption


def test_a_picture_without_tissue_can_be_drawn():
    thumbnail = np.full((60, 90, 3), 250, np.uint8)
    picture = draw_qc(thumbnail, 8.0, None, np.empty((0, 2)), 112.0, ["nothing on it is tissue"])
    assert picture.shape[1] == 1400


def test_a_contact_sheet_has_a_framed_cell_a_slide(tmp_path):
    write_picture(np.full((300, 400, 3), 120, np.uint8), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as written:
        assert written.format == "JPEG"
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]
    cells = [
        SheetCell("a", "", "good", tmp_path / "a.jpg"),
        *(SheetCell(f"b{k}", "cannot be decoded " * 20, "unusable", None) for k in range(6)),
    ]
    sheet = contact_sheet(cells)
    assert sheet.shape == (720, 1920, 3)
    assert tuple(sheet[160, 6]) == (0, 114, 178)
    assert tuple(sheet[160, 326]) == (213, 94, 0)
    assert abs(int(sheet[160, 160, 0]) - 120) < 8
    assert (sheet[360:, 320:] == 255).all()  # the second row has one cell
