from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.slides.reader import open_slide
from storm_clinic.storm.her2st import her2st_sections, read_her2st
from storm_clinic.storm.paired import PairedSection


@pytest.fixture
def section() -> PairedSection:
    return PairedSection(
        name="s1",
        patient="p1",
        technology="st",
        grid="square",
        spot_um=100.0,
        pitch_um=200.0,
        image=None,
        mpp=0.5,
        centres_px=np.array([[100, 200], [500, 200], [100, 600]]),
        counts=np.array([[1, 0], [0, 3], [2, 2]]),
        symbols=("A", "B"),
        spots=("x", "y", "z"),
    )


def test_places_are_in_microns_and_counts_are_sparse_integers(section):
    assert section.centres_um.tolist() == [[50, 100], [250, 100], [50, 300]]
    assert sparse.issparse(section.counts)
    assert section.counts.dtype == np.int32
    assert section.counts.toarray().tolist() == [[1, 0], [0, 3], [2, 2]]


def test_a_subset_says_why_the_others_are_gone(section):
    part = section.subset(np.array([True, False, True]), why="no tile")
    assert part.spots == ("x", "z")
    assert part.counts.toarray().tolist() == [[1, 0], [2, 2]]
    assert part.left_out == {"no tile": 1}
    assert section.subset([2, 0], why="order").spots == ("z", "x")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"counts": np.array([[0.5, 0], [0, 3], [2, 2]])}, "1 values are no raw counts"),
        ({"counts": np.array([[-1, 0], [0, 3], [2, 2]])}, "1 values are no raw counts"),
        ({"counts": np.array([[np.nan, 0], [0, 3], [2, 2]])}, "1 values are no raw counts"),
        ({"counts": np.array([[2**31, 0], [0, 3], [2, 2]])}, "1 values are no raw counts"),
        ({"spots": ("x", "y", "x")}, "a spot occurs twice"),
        ({"spots": ("x", "y")}, "3 rows of counts"),
        ({"symbols": ("A",)}, "2 columns of counts, but 1 symbols"),
        ({"pitch_um": 0.0}, "must be lengths"),
        ({"mpp": 0.0}, "µm per pixel cannot be"),
        ({"grid": "round"}, "square or hexagonal"),
        ({"patient": ""}, "patient must not be empty"),
        ({"centres_px": np.full((3, 2), np.nan)}, "a centre is not a number"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(section, changed, message):
    with pytest.raises(SectionError, match=message):
        replace(section, **changed)


def test_real_her2st_sections_are_read_whole(her2st, shared_data):
    assert her2st_sections(shared_data / "her2st") == ("C2", "C3", "C4", "C5", "C6")
    sections = list(her2st.values())
    # Lines of the tables themselves, counted by hand.
    assert [section.n_spots for section in sections] == [187, 180, 184, 181, 178]
    assert [section.left_out for section in sections] == [
        {},
        {"no counts": 2},
        {"no counts": 3},
        {"no counts": 2},
        {"no counts": 1},
    ]
    assert {section.patient for section in sections} == {"C"}
    first = sections[0]
    row = first.spots.index("10x22")
    assert first.counts[row, first.symbols.index("SAMD11")] == 0
    assert first.counts[row, first.symbols.index("NOC2L")] == 1
    at = first.centres_px[first.spots.index("25x13")]
    assert at.tolist() == [6930.58, 3510.24]
    for section in sections:
        places = np.array([spot.split("x") for spot in section.spots], dtype=float)
        steps = np.polyfit(places[:, 0], section.centres_um[:, 0], 1)[0]
        assert steps == pytest.approx(section.pitch_um, rel=0.01), section.name


def test_spots_of_a_real_section_lie_on_tissue(her2st):
    section = her2st["C2"]
    with open_slide(section.image, mpp_override=section.mpp) as slide:
        picture, mpp = slide.thumbnail(40.0)
    x, y = np.floor(section.centres_um / mpp).astype(int).T
    # Glass is bright, stain is not; were x and y swapped, half of the spots would lie on glass.
    assert np.mean(picture[y, x].min(axis=1) < 210) > 0.95
    assert np.mean(picture.min(axis=2) < 210) < 0.6


def write_her2st(folder: Path) -> Path:
    for part in ("images", "counts", "spots"):
        (folder / part).mkdir()
    (folder / "images" / "A1.png").write_bytes(b"")
    (folder / "spots" / "A1.tsv").write_text(
        "x\ty\tpixel_x\tpixel_y\tselected\n1\t2\t10\t20\t1\n2\t2\t300\t20\t0\n9\t9\t1\t1\t1\n"
    )
    sparse_table = "\tG1\tG2\n1x2\t3\t0\n2x2\t1\t1\n5x5\t2\t2\n"
    (folder / "counts" / "A1.tsv.gz").write_bytes(gzip.compress(sparse_table.encode()))
    return folder


def test_every_spot_that_is_left_out_of_her2st_is_counted(tmp_path):
    section = read_her2st(write_her2st(tmp_path), "A1")
    assert section.spots == ("1x2",)
    assert section.counts.toarray().tolist() == [[3, 0]]
    # 2x2 is not under tissue, 9x9 has no counts, 5x5 has no place: each once.
    assert section.left_out == {"not under tissue": 1, "no counts": 1, "no place on the image": 1}


def test_a_damaged_her2st_section_is_named(tmp_path):
    folder = write_her2st(tmp_path)
    with pytest.raises(SectionError, match=r"B7\.tsv: cannot be read"):
        read_her2st(folder, "B7")
    with pytest.raises(SectionError, match="is no section"):
        read_her2st(folder, "../A1")
    (folder / "images" / "A1.png").unlink()
    with pytest.raises(SectionError, match="there is no image"):
        read_her2st(folder, "A1")
    (folder / "spots" / "A1.tsv").write_text("x\ty\tpixel_x\n1\t2\t3\n")
    with pytest.raises(SectionError, match="has no column pixel_y"):
        read_her2st(folder, "A1")
    (folder / "counts" / "A1.tsv.gz").write_bytes(b"no gzip")
    with pytest.raises(SectionError, match=r"A1\.tsv\.gz: cannot be read"):
        read_her2st(folder, "A1")


def test_the_caller_s_counts_stay_as_they_are(section):
    parts = (np.array([1, 2, 3]), np.array([1, 1, 0]), np.array([0, 2, 2, 3]))
    mine = sparse.csr_array(parts, shape=(3, 2))  # one place twice, unsorted
    made = replace(section, counts=mine)
    assert made.counts.toarray().tolist() == [[0, 3], [0, 0], [3, 0]]
    assert mine.data.tolist() == [1, 2, 3]
    assert mine.indptr.tolist() == [0, 2, 2, 3]
