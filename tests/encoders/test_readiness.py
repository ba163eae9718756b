"""Can an encoder run here, else why not: without network and without opening weights."""

from __future__ import annotations

import dataclasses

import pytest

from storm_clinic.encoders import readiness as room
from storm_clinic.encoders.catalogue import encoder_names, find_card, slide_encoder_names
from storm_clinic.encoders.readiness import encoder_readiness, readiness


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


def test_every_encoder_has_a_row_with_licence_and_width(empty_cache):
    rows = encoder_readiness()
    assert [row.name for row in rows if row.kind == "tile"] == encoder_names()
    assert [row.name for row in rows if row.kind == "slide"] == slide_encoder_names()
    assert all(row.licence and row.width for row in rows)
    assert all((row.state == "ready") == (row.reason == "") for row in rows)


def test_a_gated_encoder_without_weights_says_what_to_accept(empty_cache):
    state, reason = readiness(find_card("uni2-h"))
    assert state == "weights"
    assert "accept the terms at https://huggingface.co/MahmoodLab/UNI2-h" in reason


def test_an_open_encoder_would_be_fetched_unless_the_hub_is_offline(empty_cache, monkeypatch):
    assert readiness(find_card("phikon"))[0] == "fetches"
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    state, reason = readiness(find_card("phikon"))
    assert (state, "HF_HUB_OFFLINE" in reason) == ("weights", True)


def test_weights_in_the_hubs_cache_are_enough_and_are_not_opened(empty_cache):
    repository = empty_cache / "models--MahmoodLab--UNI2-h"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "pytorch_model.bin").write_bytes(b"no weights at all")
    assert readiness(find_card("uni2-h")) == ("ready", "")


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(empty_cache):
    state, reason = readiness(find_card("conch"))
    assert state == "no"
    assert reason == "needs conch: pip install git+https://github.com/mahmoodlab/CONCH"


def test_remote_code_asks_for_a_folder_and_consent(empty_cache):
    state, reason = readiness(find_card("hibou-l"))
    assert state == "weights"
    assert "histai/hibou-L" in reason
    assert "STORM_CLINIC_REMOTE_CODE" in reason


def test_a_file_that_is_not_on_the_hub_is_named(empty_cache):
    assert "ctranspath.pth" in readiness(find_card("ctranspath"))[1]


def test_too_little_memory_is_said_with_both_numbers(monkeypatch):
    monkeypatch.setattr(room, "_memory_bytes", lambda: 8 * 2**30)
    # 1135 million parameters, 10 bytes each: 10.6 GiB.
    state, reason = readiness(find_card("prov-gigapath"))
    assert (state, reason) == ("no", "needs about 11 GiB of memory, this machine has 8")


def test_a_package_that_lost_its_weights_is_not_ready(tmp_path):
    card = find_card("efficientnet-lite0")
    gone = dataclasses.replace(card, packaged=lambda: tmp_path / "gone.pth")
    assert readiness(gone) == ("no", "its package has lost the weights")
