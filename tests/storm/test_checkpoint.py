from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from storm_clinic.errors import CheckpointError
from storm_clinic.storm.checkpoint import (
    Inputs,
    build_model,
    load_checkpoint,
    load_published,
    save_checkpoint,
)
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.domain import TrainingDomain
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.reliability import GeneReliability

CONFIG = StormConfig(
    width=16, n_layers=1, n_heads=2, image_width=6, n_genes=3, pitch_um=200.0, gene_hidden=4
)
GENES = GeneVocabulary(("ERBB2", "ESR1", "NECTIN4"), {"PVRL4": "NECTIN4"})
CARD = {"data": "made up", "licence": "CC-BY-4.0", "patients": 1}
RELIABILITY = GeneReliability([0.5, np.nan, 0.1], [0.3, np.nan, -0.1], [0.6, np.nan, 0.2], "guess")
INPUTS = Inputs(encoder="tiny", encoder_digest="ab" * 32, tile_um=112.0)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(4)
    model = StormModel(CONFIG)
    model.gene_scale.set(torch.rand(3), torch.rand(3) + 0.1)
    digest = save_checkpoint(tmp_path / "storm", model, inputs=INPUTS, vocabulary=GENES)
    return tmp_path / "storm", model, digest


def test_a_checkpoint_comes_back_bit_for_bit(saved):
    folder, model, digest = saved
    found = load_checkpoint(folder)
    assert (found.digest, found.inputs, found.vocabulary) == (digest, INPUTS, GENES)
    assert found.model.config == CONFIG
    assert not found.model.training
    own = model.state_dict()
    assert own.keys() == found.model.state_dict().keys()
    for name, value in found.model.state_dict().items():
        assert value.dtype == own[name].dtype
        assert value.numpy().tobytes() == own[name].numpy().tobytes(), name


def test_saving_the_same_network_twice_gives_the_same_bytes(saved, tmp_path):
    folder, model, digest = saved
    again = tmp_path / "again"
    assert save_checkpoint(again, model, inputs=INPUTS, vocabulary=GENES) == digest
    for name in ("model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_a_changed_weight_or_a_changed_fact_is_noticed(saved):
    folder, *_ = saved
    weights, config = folder / "model.safetensors", folder / "config.json"
    text = config.read_text()
    config.write_text(text.replace("112.0", "224.0"))
    with pytest.raises(CheckpointError, match="changed after it was written"):
        load_checkpoint(folder)
    config.write_text(text)
    state = load_file(weights)
    save_file({**state, "norm.bias": state["norm.bias"] + 1}, weights)
    with pytest.raises(CheckpointError, match="its weights are not those"):
        load_checkpoint(folder)


def test_what_is_no_checkpoint_is_refused(saved, tmp_path):
    folder, *_ = saved
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "format_version": 1}))
    with pytest.raises(CheckpointError, match="version 1, not"):
        load_checkpoint(folder)


def test_weights_of_no_use_are_not_saved(tmp_path):
    model = StormModel(CONFIG)
    with pytest.raises(CheckpointError, match="1 genes do not go with a network for 3"):
        save_checkpoint(tmp_path, model, inputs=INPUTS, vocabulary=GeneVocabulary(("ESR1",)))
    model.norm.bias.data[0] = torch.nan
    with pytest.raises(CheckpointError, match=r"not finite: norm\.bias"):
        save_checkpoint(tmp_path, model, inputs=INPUTS, vocabulary=GENES)
    assert list(tmp_path.iterdir()) == []


def test_every_way_of_not_fitting_is_named_at_once():
    state = dict(StormModel(CONFIG).state_dict())
    del state["norm.bias"]
    state["decoder.weight"] = torch.zeros(2)
    state["image_in.weight"] = torch.zeros(16, 7)
    with pytest.raises(CheckpointError) as refused:
        build_model(CONFIG, state, where="weights")
    assert "1 missing: norm.bias" in str(refused.value)
    assert "1 unexpected: decoder.weight" in str(refused.value)
    assert "image_in.weight (16, 7) instead of (16, 6)" in str(refused.value)


def test_published_weights_load_through_an_explicit_map(tmp_path):
    torch.manual_seed(5)
    model = StormModel(CONFIG)
    own = model.state_dict()
    path = tmp_path / "published.safetensors"
    published = {f"module.{name}": value.clone() for name, value in own.items()}
    save_file({**published, "decoder.weight": torch.ones(2)}, path)
    key_map = {f"module.{name}": name for name in own}
    found = load_published(path, CONFIG, key_map, ignored=["decoder.weight"])
    for name, value in found.state_dict().items():
        assert torch.equal(value, own[name]), name
    with pytest.raises(CheckpointError, match=r"neither mapped nor ignored: decoder\.weight"):
        load_published(path, CONFIG, key_map)
    with pytest.raises(CheckpointError, match="1 missing"):
        mapped = dict(key_map)
        dropped = next(iter(mapped))
        del mapped[dropped]
        load_published(path, CONFIG, mapped, ignored=["decoder.weight", dropped])
    with pytest.raises(CheckpointError, match="not in the file: ghost"):
        load_published(path, CONFIG, {**key_map, "ghost": "x"}, ignored=["decoder.weight"])
    with pytest.raises(CheckpointError, match="led to twice"):
        load_published(path, CONFIG, {**key_map, "decoder.weight": "norm.bias"})


def test_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "published.safetensors"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="no readable safetensors"):
        load_published(path, CONFIG, {"weight": "norm.bias"})


@pytest.fixture
def with_evidence(tmp_path):
    rng = np.random.default_rng(3)
    domain = TrainingDomain.fit({name: rng.normal(size=(40, 6)) for name in "abc"})
    facts = {"reliability": RELIABILITY, "domain": domain, "card": CARD}
    folder, model = tmp_path / "with_evidence", StormModel(CONFIG)
    save_checkpoint(folder, model, inputs=INPUTS, vocabulary=GENES, **facts)
    return folder, model, facts


def test_evidence_and_card_come_back_with_the_network(with_evidence):
    folder, _, facts = with_evidence
    found = load_checkpoint(folder)
    assert found.card == CARD
    assert found.reliability.how == "guess"
    for own, read in ((RELIABILITY, found.reliability), (facts["domain"], found.domain)):
        for name, array in own.to_arrays().items():
            assert read.to_arrays()[name].tobytes() == array.tobytes(), name


def test_evidence_cannot_be_bettered_in_silence(with_evidence):
    folder, *_ = with_evidence
    path = folder / "evidence.safetensors"
    tensors = load_file(path)
    tensors["reliability.lower"][2] = 0.1
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"tensors of evidence are not those"):
        load_checkpoint(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="no readable safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("key", ["how", "licence"])
def test_what_evidence_and_card_say_is_inside_the_digest(with_evidence, key):
    folder, *_ = with_evidence
    path = folder / "config.json"
    facts = json.loads(path.read_text())
    (facts["reliability"] if key == "how" else facts["card"])[key] = "other"
    path.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="changed after it was written"):
        load_checkpoint(folder)


def test_a_folder_that_is_written_again_keeps_nothing_of_before(with_evidence):
    folder, model, _ = with_evidence
    save_checkpoint(folder, model, inputs=INPUTS, vocabulary=GENES)
    assert load_checkpoint(folder).reliability is None
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}


def test_evidence_of_another_network_is_refused(with_evidence, tmp_path):
    _, model, _ = with_evidence
    short = GeneReliability([0.5], [0.3], [0.6], "guess")
    with pytest.raises(CheckpointError, match="reliability of 1 genes, but there are 3"):
        save_checkpoint(tmp_path, model, inputs=INPUTS, vocabulary=GENES, reliability=short)
    rng = np.random.default_rng(3)
    wide = TrainingDomain.fit({name: rng.normal(size=(40, 7)) for name in "ab"})
    with pytest.raises(CheckpointError, match="7 wide, but image embeddings of 6"):
        save_checkpoint(tmp_path, model, inputs=INPUTS, vocabulary=GENES, domain=wide)
    with pytest.raises(CheckpointError, match="not plain JSON"):
        save_checkpoint(tmp_path, model, inputs=INPUTS, vocabulary=GENES, card={"x": np.nan})
