"""Keys say who is the same, to those who have the secret, and nothing else."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import subprocess
import sys
import unicodedata

import pytest

from storm_clinic.errors import InputError, StorageError
from storm_clinic.files import Workspace
from storm_clinic.registry.identity import PatientKeys, load_keys, secret_path

SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def secret_file(tmp_path, monkeypatch):
    path = tmp_path / "private" / "secret"
    monkeypatch.setenv("STORM_CLINIC_SECRET_FILE", str(path))
    return path


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def test_a_key_is_the_hmac_that_the_documentation_gives():
    # Written out here, so that another institution's program can make the same keys.
    message = b"storm_clinic patient\0TCGA-B0-4810"
    expected = hmac.new(SECRET, message, hashlib.sha256).hexdigest()[:32]
    assert PatientKeys(SECRET).patient_key("TCGA-B0-4810") == expected


def test_space_and_unicode_form_do_not_change_a_key_but_case_does():
    keys = PatientKeys(SECRET)
    composed = unicodedata.normalize("NFC", "Müller-7")
    decomposed = unicodedata.normalize("NFD", "Müller-7")
    assert composed != decomposed
    assert keys.patient_key(f" {decomposed}\n") == keys.patient_key(composed)
    assert keys.patient_key("a-1") != keys.patient_key("A-1")


def test_patients_and_slides_of_one_id_have_different_keys():
    keys = PatientKeys(SECRET)
    assert keys.patient_key("A-1") != keys.slide_key("A-1")
    assert keys.patient_keys(["A-1", "A-2"]) == (keys.patient_key("A-1"), keys.patient_key("A-2"))


def test_another_secret_gives_other_keys_and_another_key_id():
    ours, theirs = PatientKeys(SECRET), PatientKeys(SECRET[::-1])
    assert ours.patient_key("A-1") != theirs.patient_key("A-1")
    assert ours.key_id != theirs.key_id
    assert SECRET.decode() not in repr(ours)


@pytest.mark.parametrize("bad", ["", "  ", None, 7])
def test_an_empty_id_or_a_number_is_refused(bad):
    with pytest.raises(InputError, match="is no id"):
        PatientKeys(SECRET).patient_key(bad)


def test_the_first_use_makes_a_private_secret_and_asks_to_back_it_up(
    secret_file, workspace, caplog
):
    with caplog.at_level(logging.WARNING):
        first = load_keys(workspace)
    assert "Back it up" in caplog.text
    assert str(secret_file) in caplog.text
    assert secret_file.stat().st_mode & 0o777 == 0o600
    assert len(secret_file.read_text().strip()) == 64
    assert secret_file.read_text().strip() not in caplog.text
    caplog.clear()
    assert load_keys(workspace).key_id == first.key_id
    assert caplog.text == ""
    assert [path.name for path in secret_file.parent.iterdir()] == ["secret"]


def test_processes_that_start_together_agree_on_one_secret(secret_file, workspace):
    code = """
import sys
from pathlib import Path
from storm_clinic.files import Workspace
from storm_clinic.registry.identity import load_keys
sys.stdin.read()  # until all processes are there
print(load_keys(Workspace(Path(sys.argv[1]))).key_id)
"""
    command = [sys.executable, "-c", code, str(workspace.root)]
    gate, opener = os.pipe()  # one pipe for all: closing it lets all go at once
    pipe = subprocess.PIPE
    crowd = [subprocess.Popen(command, stdin=gate, stdout=pipe, stderr=pipe) for _ in range(6)]
    os.close(gate)
    os.close(opener)
    answers = {process.communicate()[0] for process in crowd}
    assert answers == {f"{load_keys(workspace).key_id}\n".encode()}


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602])
def test_a_secret_that_others_can_read_or_change_is_refused(secret_file, workspace, mode):
    load_keys(workspace)
    secret_file.chmod(mode)
    with pytest.raises(InputError, match=rf"mode {mode:o}.*chmod 600"):
        load_keys(workspace)


def test_a_secret_that_the_group_may_read_is_accepted(secret_file, workspace):
    made = load_keys(workspace)
    secret_file.chmod(0o640)
    assert load_keys(workspace).key_id == made.key_id


def test_a_secret_inside_the_workspace_is_refused_even_by_a_link(tmp_path, workspace, monkeypatch):
    workspace.mlruns.mkdir(parents=True)
    (tmp_path / "link").symlink_to(workspace.mlruns)
    for place in (workspace.root / "secret", tmp_path / "link" / "secret"):
        monkeypatch.setenv("STORM_CLINIC_SECRET_FILE", str(place))
        with pytest.raises(InputError, match="lies inside the workspace"):
            load_keys(workspace)
        assert not place.exists()


def test_a_short_secret_is_refused(secret_file, workspace):
    secret_file.parent.mkdir()
    secret_file.write_text("password\n")
    secret_file.chmod(0o600)
    with pytest.raises(InputError, match="has 8 bytes, fewer than 32"):
        load_keys(workspace)


def test_a_place_that_cannot_be_written_is_named(tmp_path, workspace, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path / "file" / "secret"))
    with pytest.raises(StorageError, match="neither read nor made: File exists"):
        load_keys(workspace)


def test_without_the_variable_the_secret_is_in_the_users_configuration(monkeypatch, tmp_path):
    monkeypatch.delenv("STORM_CLINIC_SECRET_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert secret_path() == tmp_path / ".config" / "storm_clinic" / "secret"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert secret_path() == tmp_path / "config" / "storm_clinic" / "secret"
