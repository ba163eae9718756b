"""Encoders that were trained on here, as folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vit import NAME, SIDE, install_tiny_vit, tiny_vit, write_tiny_vit

from storm_clinic.encoders.encoder_folder import (
    ENCODER_FILE,
    WEIGHTS_FILE,
    TrainedFrom,
    copy_encoder,
    read_trained_on,
    write_encoder,
)
from storm_clinic.encoders.hub import load_encoder, load_network
from storm_clinic.errors import EncoderError
from storm_clinic.files import digest_value

SEEN = [{"image": "1", "section": "2", "patient": "3"}]


@pytest.fixture(autouse=True)
def _in_catalogue(monkeypatch):
    install_tiny_vit(monkeypatch)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The class token of an encoder whose weights were moved a little."""
    network, digest = load_network(tiny_vit(), write_tiny_vit(tmp_path / "start.safetensors"))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.01)
    card = replace(tiny_vit(), pooling="cls", width=24)
    start = TrainedFrom(encoder=NAME, digest=digest)
    write_encoder(tmp_path / "own", "own", card, start, network, trained_on=SEEN)
    return tmp_path / "own"


def tiles(n: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)


def test_it_is_loaded_by_its_name_and_folder_with_the_weights_that_were_written(folder, tmp_path):
    found = load_encoder("own", weights=folder, device="cpu")
    before = load_encoder(NAME, weights=tmp_path / "start.safetensors", device="cpu")
    for name, weight in before.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], weight + 0.01, msg=name)
    assert (found.card.name, found.card.width, found.card.licence) == (
        "own",
        24,
        before.card.licence,
    )
    tokens = found.model.forward_features(prepared(tiles()))
    torch.testing.assert_close(found.encode(tiles()), tokens[:, 0])
    assert found.digest != before.digest


def prepared(pixels: torch.Tensor) -> torch.Tensor:
    card = tiny_vit()
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (card.mean, card.std))
    return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std


def test_a_copy_is_the_same_encoder(folder, tmp_path):
    copy_encoder(folder, tmp_path / "copy")
    found = load_encoder("own", weights=tmp_path / "copy", device="cpu")
    assert found.digest == load_encoder("own", weights=folder, device="cpu").digest


def test_another_name_than_the_folder_s_is_refused_with_both(folder):
    with pytest.raises(EncoderError, match="holds own, not tiny-vit"):
        load_encoder(NAME, weights=folder, device="cpu")


def change_weights(folder: Path) -> None:
    state = load_file(folder / WEIGHTS_FILE)
    state["norm.bias"] = state["norm.bias"] + 1
    save_file(state, folder / WEIGHTS_FILE)


def change(**facts: object):
    def changed(folder: Path) -> None:
        path = folder / ENCODER_FILE
        found = {**json.loads(path.read_text()), **facts}
        del found["digest"]
        path.write_text(json.dumps({**found, "digest": digest_value(found)}))

    return changed


def edit(folder: Path) -> None:
    path = folder / ENCODER_FILE
    path.write_text(path.read_text().replace('"patient": "3"', '"patient": "4"'))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_weights, "not those that encoder.json was written with"),
        (edit, "was changed after it was written"),
        (change(format_version=2), "version 2, not"),
        (change(pooling="sum"), "is no encoder.*pooling 'sum'"),
        (
            change(trained_from={"encoder": "nobody", "digest": "0"}),
            "is called 'nobody'",
        ),
        (change(trained_from=None), "is no encoder"),
        (lambda folder: (folder / ENCODER_FILE).write_text("{"), "is no encoder"),
        (change(width=25), "24"),
        (change(name="../own"), r"encoder\.json: is no encoder.*\.\./own"),
        (change(pooling="pooled"), r"encoder\.json: is no encoder.*prefix tokens"),
        (change(trained_from={"encoder": "phikon", "digest": "0"}), "built by transformers"),
    ],
)
def test_a_folder_that_was_changed_is_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(EncoderError, match=message):
        load_encoder("own", weights=folder, device="cpu")


def test_changed_weights_are_not_copied(folder, tmp_path):
    change_weights(folder)
    with pytest.raises(EncoderError, match=r"not those that encoder\.json was written with"):
        copy_encoder(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_name_of_an_encoder_of_the_catalogue_cannot_be_taken(tmp_path):
    network, digest = load_network(tiny_vit(), write_tiny_vit(tmp_path / "start.safetensors"))
    start = TrainedFrom(encoder=NAME, digest=digest)
    with pytest.raises(EncoderError, match="h0-mini: is the name of an encoder of the catalogue"):
        write_encoder(tmp_path / "own", "h0-mini", tiny_vit(), start, network, trained_on=SEEN)


def test_what_it_has_seen_is_given_back_and_asked_for(folder):
    assert read_trained_on(folder) == SEEN
    change(trained_on=[])(folder)
    with pytest.raises(EncoderError, match="does not say what it was trained on"):
        read_trained_on(folder)


@pytest.mark.parametrize("start", ["phikon", "nobody"])
def test_a_start_whose_network_no_catalogue_describes_is_refused(tmp_path, start):
    network, digest = load_network(tiny_vit(), write_tiny_vit(tmp_path / "start.safetensors"))
    told = TrainedFrom(encoder=start, digest=digest)
    with pytest.raises(EncoderError, match=start):
        write_encoder(tmp_path / "own", "own", tiny_vit(), told, network, trained_on=SEEN)
