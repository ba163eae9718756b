"""Networks that are Python files beside their weights run by consent alone."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from storm_clinic.encoders.catalogue import find_card
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.encoders.remote_code import CONSENT, code_digest
from storm_clinic.errors import EncoderError

_MODELING = """
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import PretrainedConfig, PreTrainedModel

Path({mark!r}).touch()


class TinyConfig(PretrainedConfig):
    model_type = "tiny-remote"


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(3, 4)
        self.post_init()

    def forward(self, pixel_values):
        pooled = self.layer(pixel_values.mean((2, 3)))
        tokens = torch.zeros(len(pooled), 5, 4)
        return SimpleNamespace(pooler_output=pooled, last_hidden_state=tokens)

    def return_conch(self):
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), self.layer), 0
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A copied repository whose code leaves a mark when it runs, and its weights."""
    from safetensors.torch import save_file
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.delenv(CONSENT, raising=False)
    folder = tmp_path / "repository"
    folder.mkdir()
    config = {
        "model_type": "tiny-remote",
        "architectures": ["TinyModel"],
        "auto_map": {
            "AutoConfig": "modeling_tiny.TinyConfig",
            "AutoModel": "modeling_tiny.TinyModel",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_tiny.py").write_text(_MODELING.format(mark=str(tmp_path / "ran")))
    generator = torch.Generator().manual_seed(1)
    state = {
        "layer.weight": torch.randn(4, 3, generator=generator),
        "layer.bias": torch.randn(4, generator=generator),
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, state, tmp_path / "ran"


@pytest.fixture
def hibou():
    return dataclasses.replace(find_card("hibou-b"), width=4)


def _expected(card, state):
    white = (1 - torch.tensor(card.mean)) / torch.tensor(card.std)
    return state["layer.weight"] @ white + state["layer.bias"]


WHITE = torch.full((1, 224, 224, 3), 255, dtype=torch.uint8)


def test_without_consent_nothing_runs_and_the_digest_is_told(repository, hibou):
    folder, _, ran = repository
    with pytest.raises(EncoderError, match=f"{CONSENT}={code_digest(folder)}"):
        load_encoder(hibou, weights=folder, device="cpu")
    assert not ran.exists()


def test_with_consent_hibou_gives_its_pooler_output(repository, hibou, monkeypatch):
    folder, state, ran = repository
    monkeypatch.setenv(CONSENT, f"0123, {code_digest(folder)}")
    encoder = load_encoder(hibou, weights=folder, device="cpu")
    assert ran.exists()
    torch.testing.assert_close(encoder.encode(WHITE)[0], _expected(hibou, state))


def test_conch_v15_is_the_part_that_its_repository_returns(repository, monkeypatch):
    folder, state, _ = repository
    monkeypatch.setenv(CONSENT, code_digest(folder))
    card = dataclasses.replace(find_card("conch-v1.5"), width=4)
    encoder = load_encoder(card, weights=folder, device="cpu")
    assert isinstance(encoder.model, torch.nn.Sequential)
    white = torch.full((1, 512, 512, 3), 255, dtype=torch.uint8)
    torch.testing.assert_close(encoder.encode(white)[0], _expected(card, state))


@pytest.mark.parametrize("change", ["modeling_tiny.py", "extra.py", "config.json"])
def test_consent_ends_when_a_file_of_code_changes(repository, hibou, monkeypatch, change):
    folder, _, ran = repository
    monkeypatch.setenv(CONSENT, code_digest(folder))
    path = folder / change
    before = path.read_text() if path.exists() else ""
    path.write_text(before + "\n")
    with pytest.raises(EncoderError, match="nobody has agreed to run"):
        load_encoder(hibou, weights=folder, device="cpu")
    assert not ran.exists()


def test_code_that_is_named_in_another_repository_is_refused(repository, hibou, monkeypatch):
    folder, _, _ = repository
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "someone/else--modeling_tiny.TinyModel"
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv(CONSENT, code_digest(folder))
    with pytest.raises(EncoderError, match="code of another repository"):
        load_encoder(hibou, weights=folder, device="cpu")


def test_code_is_never_run_straight_from_the_hub(hibou):
    with pytest.raises(EncoderError, match="from a folder of yours") as caught:
        load_encoder(hibou, device="cpu")
    assert "https://huggingface.co/histai/hibou-b" in str(caught.value)


def test_a_folder_without_configuration_is_named(tmp_path, hibou):
    with pytest.raises(EncoderError, match=r"config\.json"):
        load_encoder(hibou, weights=tmp_path, device="cpu")
