"""A write is whole or absent, and no name leaves its folder."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storm_clinic.errors import MppError, StorageError, UnsafeName
from storm_clinic.files import (
    Workspace,
    atomic_write,
    digest_file,
    digest_folder,
    digest_value,
    part_of,
    safe_name,
    storage_errors,
    sweep_dead_parts,
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


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EMFILE, "too many files are open. Raise the limit"),
        (errno.EFBIG, "larger than the system allows"),
        (errno.ESTALE, "the disk is gone"),
        (errno.EIO, "the disk fails"),
    ],
)
def test_what_the_system_says_of_storage_is_put_in_words(tmp_path, code, said):
    with pytest.raises(StorageError, match=said), storage_errors(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    # The form in which HDF5 hands it on.
    with pytest.raises(StorageError, match=said), storage_errors(tmp_path / "a"):
        raise OSError(f"Can't write data (file write failed: fd = 4, errno = {code}, bytes = 8)")


def test_other_faults_of_the_system_are_not_called_a_problem_of_storage(tmp_path):
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path / "a"):
        (tmp_path / "absent" / "a").touch()


def test_parts_are_swept_whose_writer_is_dead_or_far_and_long_silent(tmp_path):
    mine = part_of(tmp_path / "a.h5")
    owner = mine.name.split(".")[-2].rpartition("-")[0]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old, new = time.time() - 2 * 24 * 3600, time.time()
    stays = {mine: old, tmp_path / f"a.h5.elsewhere-{dead.pid}.part": new, tmp_path / "b.part": old}
    goes = {
        tmp_path / f"a.h5.{owner}-{dead.pid}.part": new,
        tmp_path / f"index.parquet.elsewhere-{os.getpid()}.part": old,
    }
    for path, touched in {**stays, **goes}.items():
        path.touch()
        os.utime(path, (touched, touched))
    sweep_dead_parts(tmp_path)
    assert set(tmp_path.iterdir()) == set(stays)
    sweep_dead_parts(tmp_path / "absent")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_writer_that_ended_and_was_asked_by_nobody_is_dead(tmp_path):
    owner = part_of(tmp_path / "a.h5").name.split(".")[-2].rpartition("-")[0]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as writer:
        part = tmp_path / f"a.h5.{owner}-{writer.pid}.part"
        part.touch()
        sweep_dead_parts(tmp_path)
        assert part.exists()
        writer.kill()
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # its number stays taken
        os.kill(writer.pid, 0)
        sweep_dead_parts(tmp_path)
        assert not part.exists()


def test_two_processes_that_write_one_file_at_once_leave_one_of_the_two(tmp_path):
    path = tmp_path / "a.bin"
    code = """
import sys
from pathlib import Path
from storm_clinic.files import atomic_write
letter, path = sys.argv[1].encode(), Path(sys.argv[2])
for _ in range(40):
    with atomic_write(path) as part:
        part.write_bytes(letter * 100_000)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, letter, path]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            found = path.read_bytes()
            assert len(found) == 100_000
            seen |= {bytes([byte]) for byte in set(found)} if len(set(found)) == 1 else {b"torn"}
    assert seen <= {b"a", b"b"}
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


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
