from __future__ import annotations

import pytest

from storm_clinic.errors import InputError
from storm_clinic.slides.discovery import find_slides


def _touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_searched_to_the_bottom_and_the_rest_is_counted(tmp_path):
    _touch(tmp_path, "a.svs", "x/b.NDPI", "x/y/c.tiff", "notes.txt", "x/more.txt", "LICENSE")
    found = find_slides([tmp_path])
    assert [path.name for path in found.paths] == ["a.svs", "b.NDPI", "c.tiff"]
    assert found.ignored == {".txt": 2, "(no suffix)": 1}


def test_what_a_mac_leaves_behind_is_no_slide(tmp_path):
    _touch(tmp_path, "a.svs", "._a.svs", ".cache/b.svs")
    assert [path.name for path in find_slides([tmp_path]).paths] == ["a.svs"]


def test_the_pictures_inside_a_hamamatsu_vms_are_no_slides(tmp_path):
    _touch(tmp_path, "vms/slide.vms", "vms/slide.jpg", "vms/map.jpg", "cores/core.jpg")
    assert [path.name for path in find_slides([tmp_path]).paths] == ["core.jpg", "slide.vms"]


def test_the_parts_of_a_mirax_slide_are_no_slides(tmp_path):
    _touch(tmp_path, "one.mrxs", "one/Data0000.dat", "one/Slidedat.ini")
    assert [path.name for path in find_slides([tmp_path]).paths] == ["one.mrxs"]


def test_a_slide_that_is_named_twice_counts_once(tmp_path):
    _touch(tmp_path, "a.svs")
    (tmp_path / "link").symlink_to(tmp_path)
    assert len(find_slides([tmp_path, tmp_path / "a.svs", tmp_path / "link"]).paths) == 1


def test_linked_folders_are_searched_and_loops_end(tmp_path):
    _touch(tmp_path / "elsewhere", "a.svs")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "batch").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    assert [path.name for path in find_slides([tmp_path / "study"]).paths] == ["a.svs"]


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tmp_path):
    _touch(tmp_path, "series.dcm")
    assert len(find_slides([tmp_path / "series.dcm"]).paths) == 1


def test_nothing_found_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no slide found"):
        find_slides([tmp_path])
    with pytest.raises(InputError, match="no such file or folder"):
        find_slides([tmp_path / "absent"])
