"""A write is whole or absent, and no name leaves its folder."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
from pathlib import Path

import pytest

from storm_clinic.errors import MppError, StorageError, UnsafeName
from storm_clinic.files import (
    Workspace,
    atomic_write,
    digest_file,
    digest_folder,
    digest_value,
    safe_name,
    storage_errors,
    write_json,
)


@pytest.mark.parametrize("name", ["TCGA-3Z-A93Z-01Z-00-DX1.79F4D1A6", "a", "A 1+2@x_y", "x" * 180])
def test_ordinary_ids_may_be_file_names(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        ".hidden",
        "-rf",
        "a\x00b",
        "a\nb",
        "x" * 181,
        "é",
        "a ",
        "a.",
    ],
)
def test_ids_that_could_leave_their_folder_are_refused(name):
    with pytest.raises(UnsafeName, match="slide_id"):
        safe_name(name, what="slide_id")


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(RuntimeError), atomic_write(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_the_file(tmp_path, code):
    path = tmp_path / "x.json"
    with (
        pytest.raises(StorageError, match=r"x\.json: the disk is full"),
        atomic_write(path) as part,
    ):
        part.write_text("half")
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_a_truly_full_file_system_is_reported():
    # /dev/full refuses every byte with ENOSPC, as a full disk does.
    path = Path("/dev/full")
    with pytest.raises(StorageError, match="the disk is full"), storage_errors(path):
        path.write_bytes(b"x")


def test_digests_agree_with_hashlib(tmp_path):
    path = tmp_path / "sub" / "data.bin"
    path.parent.mkdir()
    path.write_bytes(b"abc" * 1000)
    expected = hashlib.sha256(b"abc" * 1000).hexdigest()
    assert digest_file(path) == expected
    assert digest_folder(tmp_path) == {"sub/data.bin": expected}


def test_a_values_digest_ignores_the_order_of_keys_only():
    assert digest_value({"a": 1, "b": [1, 2]}) == digest_value({"b": [1, 2], "a": 1})
    assert digest_value({"b": [1, 2]}) != digest_value({"b": [2, 1]})


def test_a_workspace_resolves_relative_paths_and_keeps_absolute_ones(tmp_path):
    workspace = Workspace(tmp_path)
    assert Workspace(str(tmp_path)) == workspace
    assert workspace.path("pipelines/a.yaml") == tmp_path / "pipelines" / "a.yaml"
    assert workspace.path(tmp_path / "b") == tmp_path / "b"
    with pytest.raises(UnsafeName):
        workspace.store("../outside", "encoder")


def test_an_error_survives_the_way_back_from_a_worker_process():
    error = MppError("mpp is missing", where="a.svs", fix="Give --mpp.")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  as multiprocessing does
    assert str(again) == "a.svs: mpp is missing. Give --mpp."
    assert type(again) is MppError
