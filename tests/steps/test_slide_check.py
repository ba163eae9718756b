"""Checking a batch: every file has its row, whatever is wrong with it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from storm_clinic.errors import CohortError, InputError
from storm_clinic.files import Workspace
from storm_clinic.slides.examination import examine_slide
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.steps import slide_check
from storm_clinic.steps.slide_check import check_slides

GLASS, STAIN = (242, 242, 242), (200, 120, 165)


def write_section(path, *, seed=0, mpp=0.5, tissue=True, blur=0.0, compression="jpeg"):
    """A square of grainy stained tissue, 0.25 mm², in the middle of 1 mm² of glass."""
    rng = np.random.default_rng(seed)
    side = round(1000 / mpp)
    pixels = np.full((side, side, 3), GLASS, dtype=np.uint8)
    if tissue:
        quarter = side // 4
        grain = rng.normal(0, 25, (2 * quarter, 2 * quarter, 1))
        if blur:
            grain = 6 * cv2.GaussianBlur(grain, (0, 0), blur)[..., None]
        stained = np.clip(np.array(STAIN) + grain, 0, 255).astype(np.uint8)
        pixels[quarter : 3 * quarter, quarter : 3 * quarter] = stained
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        compression=compression,
        photometric="rgb",
        resolution=None if mpp is None else (10_000 / mpp, 10_000 / mpp),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path


def row_of(check, slide_id):
    return next(row for row in check.rows if row.slide_id == slide_id)


def test_a_good_slide_is_described_in_one_row(tmp_path):
    write_section(tmp_path / "S-1.tiff")
    told = []
    check = check_slides([tmp_path], progress=lambda *now: told.append(now))
    (row,) = check.rows
    assert (row.slide_id, row.status, row.problems) == ("S-1", "good", ())
    assert (row.vendor, row.width, row.height, row.levels) == ("generic-tiff", 2000, 2000, 1)
    assert (row.codec, row.mpp_source) == ("JPEG", "slide")
    assert row.mpp == pytest.approx(0.5)
    assert row.tissue_mm2 == pytest.approx(0.25, rel=0.05)
    # Tissue spans 500 to 1500 px. Tiles at 448, 672 ... 1344 are 77, 100, 100, 100 and 70% in it
    # each way; of the last one, in the corner, 48%.
    assert row.tiles == 5 * 5 - 1
    assert row.focus > 0.6
    assert told == [("checking slides", 1, 1)]
    assert check.exit_code == 0


def test_tiles_are_counted_for_the_geometry_that_is_asked_for(tmp_path):
    write_section(tmp_path / "S-1.tiff")
    check = check_slides([tmp_path], geometry=TileGeometry(250, 1.0))
    assert check.rows[0].tiles == 4


def test_bad_slides_are_rows_and_the_others_are_checked(tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    write_section(folder / "good.tiff")
    write_section(folder / "blurred.tiff", seed=1, blur=6.0)
    write_section(folder / "empty.tiff", tissue=False)
    (folder / "text.svs").write_text("dear colleague\n")
    (folder / "cut.tiff").write_bytes((folder / "good.tiff").read_bytes()[:40_000])
    Image.fromarray(np.full((600, 600, 3), STAIN, np.uint8)).save(folder / "no-mpp.png")
    write_section(folder / "copy.tiff")
    (folder / "notes.txt").write_text("not a slide")
    write_section(folder / "-unsafe.tiff", seed=3)
    check = check_slides([folder, tmp_path / "gone.svs"], pictures=tmp_path / "qc")
    status = {row.slide_id: row.status for row in check.rows}
    assert status == {
        "good": "doubtful",  # its copy comes first
        "copy": "good",
        "blurred": "doubtful",
        "empty": "unusable",
        "text": "unusable",
        "cut": "unusable",
        "no-mpp": "unusable",
        "gone": "unusable",
        "-unsafe": "unusable",
    }
    assert check.ignored == {".txt": 1}
    assert check.exit_code == 3
    said = {row.slide_id: " ".join(row.problems) for row in check.rows}
    assert "content equals that of copy" in said["good"]
    assert "out of focus" in said["blurred"]
    assert "nothing on it is tissue" in said["empty"]
    assert "holds text" in said["text"]
    assert "nothing states its microns per pixel" in said["no-mpp"]
    assert "--mpp" in said["no-mpp"]
    assert "there is no such file" in said["gone"]
    assert "cannot become a file name" in said["-unsafe"]
    assert said["cut"]
    # What could be found out is still there.
    assert (row_of(check, "no-mpp").width, row_of(check, "no-mpp").vendor) == (600, "png")
    assert row_of(check, "empty").tissue_mm2 == 0.0
    made = {path.name for path in (tmp_path / "qc").iterdir()}
    assert made == {
        "good.jpg",
        "copy.jpg",
        "blurred.jpg",
        "empty.jpg",
        "_contact_sheet_1.jpg",
    }
    assert [path.name for path in check.sheets] == ["_contact_sheet_1.jpg"]


def test_two_files_of_one_name_are_refused_both(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_section(tmp_path / folder / "S-1.tiff", seed=ord(folder))
    check = check_slides([tmp_path])
    assert [row.status for row in check.rows] == ["unusable", "unusable"]
    assert f"same name: {tmp_path / 'b' / 'S-1.tiff'}" in check.rows[0].problems[0]


def test_a_damaged_part_is_a_doubt(tmp_path):
    path = write_section(tmp_path / "S-1.tiff")
    whole = check_slides([path]).rows[0]
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        # Tile columns are 256 px: number 3 of row 3 lies in the tissue. The thumbnail needs it
        # too, so nothing can be said of the slide.
        offset, n_bytes = page.dataoffsets[3 * 8 + 3], page.databytecounts[3 * 8 + 3]
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(b"\0" * n_bytes)
    (row,) = check_slides([path]).rows
    assert row.status == "unusable"
    assert "cannot be decoded" in row.problems[0]
    assert whole.status == "good"


def test_the_override_the_manifest_and_masks_are_heeded(tmp_path):
    Image.fromarray(np.full((1000, 1000, 3), STAIN, np.uint8)).save(tmp_path / "core.png")
    masks = tmp_path / "masks"
    masks.mkdir()
    half = np.zeros((100, 100), np.uint8)
    half[:, :50] = 255
    Image.fromarray(half).save(masks / "core.png")
    by_manifest = check_slides([tmp_path / "core.png"], manifest_mpp={"core": 0.5}).rows[0]
    assert (by_manifest.mpp, by_manifest.mpp_source) == (0.5, "manifest")
    assert by_manifest.tissue_mm2 == pytest.approx(0.25, rel=0.02)
    by_override = check_slides(
        [tmp_path / "core.png"], manifest_mpp={"core": 0.5}, mpp_override=0.25
    ).rows[0]
    assert (by_override.mpp, by_override.mpp_source) == (0.25, "override")
    masked = check_slides([tmp_path / "core.png"], mpp_override=0.5, masks=masks).rows[0]
    assert masked.tissue_mm2 == pytest.approx(0.125)


@pytest.fixture
def declare(tmp_path):
    """Declare a cohort of patients P1 and P2, with this table of slides, whose files lie beside."""

    def write(table):
        folder, data = tmp_path / "cohorts" / "toy", tmp_path / "slides"
        folder.mkdir(parents=True)
        data.mkdir(exist_ok=True)
        (data / "clinical.csv").write_text("id\nP1\nP2\n")
        (data / "slides.csv").write_text(table)
        facts = {
            "format": 1,
            "cohort": "toy",
            "data_root": str(data),
            "tables": {
                "clinical": {"path": "clinical.csv", "patient_id": "id"},
                "slides": {"path": "slides.csv", "patient_id": "pid", "slide_id": "sid"},
            },
            "origin": {"source": "invented", "licence": "none"},
        }
        (folder / "cohort.yaml").write_text(json.dumps(facts))  # JSON is YAML
        return {"cohort": "toy", "workspace": Workspace(tmp_path)}

    return write


def test_files_are_held_against_the_checksums_of_the_slides_table(tmp_path, declare):
    (tmp_path / "slides").mkdir()
    paths = [
        write_section(tmp_path / "slides" / f"{name}.tiff", seed=seed, mpp=1.0)
        for seed, name in enumerate("abc")
    ]
    md5 = hashlib.md5(paths[0].read_bytes()).hexdigest()
    sha256 = hashlib.sha256(paths[1].read_bytes()).hexdigest().upper()
    given = declare(
        f"sid,pid,path,checksum\na,P1,a.tiff,{md5}\nb,P1,b.tiff,{sha256}\nc,P2,c.tiff,\n"
    )
    assert [row.status for row in check_slides(**given).rows] == ["good"] * 3
    whole = bytearray(paths[0].read_bytes())
    whole[-1] ^= 1  # OpenSlide would not notice
    paths[0].write_bytes(whole)
    for check in (check_slides(**given), check_slides([tmp_path / "slides"], **given)):
        assert [row.status for row in check.rows] == ["unusable", "good", "good"]
        (problem,) = check.rows[0].problems
        assert f"the slides table says {md5}" in problem
        assert hashlib.md5(whole).hexdigest() in problem
        assert check.rows[0].tiles == check.rows[1].tiles  # looked at all the same
        assert check.exit_code == 3


def test_the_files_of_a_table_go_by_its_ids_and_under_its_mpp(tmp_path, declare):
    given = declare("sid,pid,path,mpp\nS-2,P1,core.png,0.5\nS-1,P1,,\nS-3,P2,gone.png,0.5\n")
    picture = np.full((1000, 1000, 3), STAIN, np.uint8)
    Image.fromarray(picture).save(tmp_path / "slides" / "core.png")
    check = check_slides(**given)
    assert [row.slide_id for row in check.rows] == ["S-1", "S-2", "S-3"]
    assert check.rows[0].problems == ("the slides table names no file for it",)
    assert (check.rows[1].mpp, check.rows[1].mpp_source) == (0.5, "manifest")
    # Stain without grain looks out of focus.
    assert [row.status for row in check.rows] == ["unusable", "doubtful", "unusable"]


def test_files_of_no_slide_of_the_cohort_are_an_error(tmp_path, declare):
    given = declare("sid,pid,path\nS-1,P1,a.tiff\n")
    write_section(tmp_path / "slides" / "other.tiff", mpp=1.0)
    with pytest.raises(InputError, match="none of 1 slides is one of the cohort's"):
        check_slides([tmp_path / "slides"], **given)


def test_a_table_that_names_no_files_needs_sources(declare):
    with pytest.raises(CohortError, match="its slides table names no slide files"):
        check_slides(**declare("sid,pid\nS-1,P1\n"))
    with pytest.raises(InputError, match="name slides, folders to search, or a cohort"):
        check_slides()


def test_tables_say_the_same_in_every_form(tmp_path):
    write_section(tmp_path / "S-1.tiff")
    (tmp_path / "text.svs").write_text("dear colleague\n")
    check = check_slides([tmp_path])
    check.write(tmp_path / "out.csv")
    check.write(tmp_path / "out.json")
    from_csv = pd.read_csv(tmp_path / "out.csv")
    from_json = json.loads((tmp_path / "out.json").read_text())
    assert list(from_csv["slide_id"]) == [row["slide_id"] for row in from_json] == ["S-1", "text"]
    assert list(from_csv["tiles"].astype("Int64")) == list(check.table["tiles"])
    assert from_json[1]["tiles"] is None
    assert from_json[1]["problems"] == ["it holds text, not a slide"]
    with pytest.raises(InputError, match=r"\.csv or \.json"):
        check.write(tmp_path / "out.xlsx")


def test_nothing_to_check_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no slide found"):
        check_slides([tmp_path])


def test_processes_find_what_one_process_finds(tmp_path):
    for number in range(3):
        write_section(tmp_path / f"S-{number}.tiff", seed=number, mpp=1.0)
    (tmp_path / "text.svs").write_text("dear colleague\n")
    assert check_slides([tmp_path], processes=2).rows == check_slides([tmp_path]).rows


def crash_on_second(job):
    """Stands in for a decoder that takes its process with it."""
    if job.slide_id == "S-1":
        os.kill(os.getpid(), signal.SIGKILL)
    return examine_slide(job)


def test_a_slide_that_crashes_its_decoder_is_a_row(tmp_path, monkeypatch):
    for number in range(4):
        write_section(tmp_path / f"S-{number}.tiff", seed=number, mpp=1.0)
    monkeypatch.setattr(slide_check, "examine_slide", crash_on_second)
    # Forked, so that workers know this module's function.
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(slide_check, "get_context", lambda method: forked)
    check = check_slides([tmp_path], processes=2)
    assert [row.status for row in check.rows] == ["good", "unusable", "good", "good"]
    assert "the decoder crashed" in check.rows[1].problems[0]


def test_a_fault_of_the_program_is_a_row_too(tmp_path, monkeypatch):
    write_section(tmp_path / "S-1.tiff", mpp=1.0)

    def fail(*arguments, **named):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("storm_clinic.slides.examination.find_tissue", fail)
    (row,) = check_slides([tmp_path]).rows
    assert row.status == "unusable"
    assert "unexpected ZeroDivisionError: by zero (test_slide_check.py:" in row.problems[0]


def test_a_real_slide_is_good(shared_data, tmp_path):
    check = check_slides([shared_data / "slides"], pictures=tmp_path)
    (row,) = check.rows
    assert (row.slide_id, row.status, row.codec) == ("CMU-1-Small-Region", "good", "JPEG")
    # Of 9 x 13 tiles on the picture, tissue covers somewhat over a third.
    assert 40 <= row.tiles <= 55
    with Image.open(tmp_path / "CMU-1-Small-Region.jpg") as picture:
        assert max(picture.size) > 1400
