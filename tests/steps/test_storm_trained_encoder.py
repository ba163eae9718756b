"""A pretraining that trains its image encoder, and what then uses both."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from her2st_files import write_section
from safetensors.torch import load_file, save_file
from tiny_vit import NAME, install_tiny_vit, tiny_vit, write_tiny_vit

from storm_clinic.encoders.encoder_folder import (
    TrainedFrom,
    read_encoder_card,
    read_trained_on,
    write_encoder,
)
from storm_clinic.encoders.hub import load_encoder, load_network
from storm_clinic.errors import (
    CheckpointError,
    ContractMismatch,
    EncoderError,
    InputError,
    LeakageError,
    StorageError,
    TrainingError,
)
from storm_clinic.features.storm_store import StormStore
from storm_clinic.files import Workspace
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.steps import storm_pretraining
from storm_clinic.steps.extraction import extract
from storm_clinic.steps.storm_evaluation import evaluate_storm
from storm_clinic.steps.storm_finetuning import finetune_storm
from storm_clinic.steps.storm_pretraining import PretrainingResult, pretrain_storm
from storm_clinic.storm.checkpoint import load_checkpoint
from storm_clinic.storm.pretraining_file import read_pretraining
from storm_clinic.storm.section_sources import read_sources
from storm_clinic.storm.spot_images import embed_spots

YAML = """\
format: 1
name: sees
sections:
  - {layout: her2st, root: "${SECTIONS}"}
encoder: {name: tiny-vit, weights: "${VIT}", tile_um: 56.0}
train_encoder: {tiles_at_once: 16}
n_genes: 4
network: {size: tiny, pitch_um: 200.0, side: 3}
updates: {learning_rate: 0.001, n_steps: 4, warm_up: 1}
batch: 8
seed: 3
card: {data: simulated for a test, licence: CC0-1.0, limits: says nothing}
"""
FINETUNING = """\
format: 1
name: taught
sections:
  - {layout: her2st, root: "${SECTIONS}"}
encoder: {name: sees-encoder, weights: storm/sees/checkpoint/encoder, tile_um: 56.0}
points_per_pitch: 1
leave_out: section
seeds: [0, 1]
top_genes: 2
network: {name: STORM, start: storm/sees/checkpoint, image_axes: 0, n_genes: 4, side: 3, epochs: 1}
ablations: []
baselines: []
wide_um: 120.0
card: {data: simulated for a test, licence: CC0-1.0, limits: says nothing}
"""


@pytest.fixture(scope="module")
def workspace(spatial_workspace, module_patch) -> Workspace:
    root = spatial_workspace.root
    (root / "sees.yaml").write_text(YAML, encoding="utf-8")
    (root / "taught.yaml").write_text(FINETUNING, encoding="utf-8")
    install_tiny_vit(module_patch)
    module_patch.setenv("VIT", str(write_tiny_vit(root / "vit.safetensors")))
    return spatial_workspace


@pytest.fixture(scope="module")
def result(workspace) -> PretrainingResult:
    made = pretrain_storm("sees.yaml", workspace=workspace, device="cpu")
    assert made is not None
    return made


@pytest.fixture(scope="module")
def slides(tmp_path_factory, write_tissue_slide) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_tissue_slide(folder / "a.tif", size=(2048, 1536), tissue=(100, 100, 1900, 1400))
    return folder


def extracted(workspace: Workspace, slides: Path, checkpoint: Path, cohort: str, **options):
    return extract(
        slides,
        cohort=cohort,
        storm=checkpoint,
        workspace=workspace,
        tissue=TissueParameters(min_area_um2=1000),
        device="cpu",
        readers=1,
        **options,
    )


def test_the_checkpoint_names_the_encoder_that_lies_in_its_folder(workspace, result):
    found = load_checkpoint(result.checkpoint)
    own = load_encoder("sees-encoder", weights=result.checkpoint / "encoder", device="cpu")
    before = load_encoder(NAME, weights=workspace.root / "vit.safetensors", device="cpu")
    assert (found.inputs.encoder, found.inputs.encoder_digest) == (own.card.name, own.digest)
    assert found.model.config.image_width == own.card.width == 24
    assert found.card["encoder_trained_from"] == {"encoder": NAME, "digest": before.digest}
    # Terms of the encoder's weights go with what was made of them.
    assert found.card["licence"] == "CC0-1.0 AND CC-BY-NC-ND-4.0"
    moved = own.model.state_dict()["norm.weight"] - before.model.state_dict()["norm.weight"]
    assert 1e-4 < float(moved.abs().max()) < 0.1


def test_its_domain_is_that_of_the_trained_encoder(workspace, result):
    own = load_encoder("sees-encoder", weights=result.checkpoint / "encoder", device="cpu")
    asked = read_pretraining(workspace.root / "sees.yaml")
    section = next(read_sources(asked.sections, workspace))
    domain = load_checkpoint(result.checkpoint).domain
    assert domain is not None
    seen = embed_spots(section, own, tile_um=56.0)
    assert domain.judge(seen).share_outside < 0.2
    assert domain.judge(seen + 3.0).share_outside == 1.0
    before = load_encoder(NAME, weights=workspace.root / "vit.safetensors", device="cpu")
    assert not np.allclose(embed_spots(section, before, tile_um=56.0)[:, :24], seen, atol=1e-3)


def test_extract_uses_the_checkpoint_s_own_encoder(workspace, result, slides):
    made = extracted(workspace, slides, result.checkpoint, "toy")
    assert (made.exit_code, made.store.contract.encoder) == (0, "sees-encoder")
    tiles = made.store.read("a")
    assert tiles.features.shape[1] == 24
    assert len(StormStore.open(made.storm.folder).read("a").features) == len(tiles.features)


def test_extract_refuses_other_weights_than_the_checkpoint_s(workspace, result, slides, tmp_path):
    with pytest.raises(ContractMismatch, match="encoder is 'sees-encoder', not 'tiny-vit'"):
        extracted(workspace, slides, result.checkpoint, "other", encoder=NAME)
    copy = tmp_path / "checkpoint"
    shutil.copytree(result.checkpoint, copy)
    network, digest = load_network(tiny_vit(), workspace.root / "vit.safetensors")
    card = read_encoder_card(copy / "encoder")
    start = TrainedFrom(encoder=NAME, digest=digest)
    seen = read_trained_on(copy / "encoder")
    write_encoder(copy / "encoder", "sees-encoder", card, start, network, trained_on=seen)
    with pytest.raises(EncoderError, match=r"holds weights of digest .* made together"):
        extracted(workspace, slides, copy, "other")
    shutil.copytree(result.checkpoint, copy, dirs_exist_ok=True)
    path = copy / "encoder" / "model.safetensors"
    state = load_file(path)
    save_file({**state, "norm.bias": state["norm.bias"] + 1}, path)
    with pytest.raises(EncoderError, match=r"not those that encoder\.json was written with"):
        extracted(workspace, slides, copy, "other")


def test_fine_tuning_starts_from_both_and_passes_the_encoder_on(workspace, result, slides):
    made = finetune_storm("taught.yaml", workspace=workspace)
    assert made.seen_by_start == ("A1", "A2", "B1")
    found, start = load_checkpoint(made.checkpoint), load_checkpoint(result.checkpoint)
    assert found.inputs.encoder_digest == start.inputs.encoder_digest
    assert found.card["start"]["digest"] == start.digest
    of_slides = extracted(workspace, slides, made.checkpoint, "taught")
    assert (of_slides.exit_code, of_slides.store.contract.encoder) == (0, "sees-encoder")


def test_the_same_pretraining_again_finds_its_shards_and_comes_to_the_same(workspace, result):
    shards = workspace.root / "storm" / "sees" / "shards"
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    again = pretrain_storm("sees.yaml", workspace=workspace, device="cpu", resume=False)
    assert again is not None
    assert (again.digest, again.history) == (result.digest, result.history)
    assert {path.name: path.stat().st_mtime_ns for path in shards.iterdir()} == before


NO_START = FINETUNING.replace("name: taught", "name: bare").replace(
    "start: storm/sees/checkpoint, ", ""
)


def test_what_the_encoder_has_seen_is_never_left_out_though_the_network_is_new(workspace, result):
    (workspace.root / "bare.yaml").write_text(NO_START, encoding="utf-8")
    with pytest.raises(LeakageError, match=r"encoder sees-encoder: .*section A1 \(same image\)"):
        evaluate_storm("bare.yaml", workspace=workspace)
    file = NO_START.replace("checkpoint/encoder,", "checkpoint/encoder/model.safetensors,")
    (workspace.root / "file.yaml").write_text(file, encoding="utf-8")
    with pytest.raises(LeakageError, match="encoder sees-encoder"):
        evaluate_storm("file.yaml", workspace=workspace)
    named = file.replace("name: sees-encoder", "name: tiny-vit")
    (workspace.root / "named.yaml").write_text(named, encoding="utf-8")
    with pytest.raises(EncoderError, match="holds sees-encoder, not tiny-vit"):
        evaluate_storm("named.yaml", workspace=workspace)
    made = finetune_storm("bare.yaml", workspace=workspace)
    assert (made.table, made.seen_by_start) == (None, ("A1", "A2", "B1"))
    found = load_checkpoint(made.checkpoint)
    assert "or its encoder, had been trained on 3 of the 3" in found.card["held_out"]["how"]
    assert found.card["licence"] == "CC0-1.0 AND CC-BY-NC-ND-4.0"


def test_an_encoder_is_evaluated_on_sections_that_it_has_not_seen(workspace, result, monkeypatch):
    for name, seed in (("X1", 11), ("Y1", 12)):
        write_section(workspace.root / "others", name, seed)
    monkeypatch.setenv("SECTIONS", str(workspace.root / "others"))
    text = NO_START.replace("name: bare", "name: fair").replace(
        "ablations: []",
        "ablations: [{name: random encoder, encoder: random, n_genes: 2}]",
    )
    (workspace.root / "fair.yaml").write_text(text, encoding="utf-8")
    found = evaluate_storm("fair.yaml", workspace=workspace)
    assert found.table["recipe"].tolist() == ["STORM", "random encoder"]
    # What is made on these embeddings goes back to what the encoder has seen as well.
    made = finetune_storm("fair.yaml", workspace=workspace)
    assert len(load_checkpoint(made.checkpoint).card["trained_on"]) == 2 + 3


@pytest.mark.parametrize("trains", [False, True])
def test_a_pretraining_on_a_trained_encoder_brings_it_along_with_all_that_it_saw(
    workspace, result, slides, monkeypatch, trains
):
    write_section(workspace.root / "more", "Z1", 21)
    write_section(workspace.root / "more", "Z2", 22)
    monkeypatch.setenv("SECTIONS", str(workspace.root / "more"))
    name = f"second-{trains}".lower()
    text = (
        YAML.replace("name: sees", f"name: {name}")
        .replace("name: tiny-vit", "name: sees-encoder")
        .replace('"${VIT}"', "storm/sees/checkpoint/encoder")
    )
    if not trains:
        text = text.replace("train_encoder: {tiles_at_once: 16}\n", "")
    (workspace.root / "second.yaml").write_text(text, encoding="utf-8")
    made = pretrain_storm("second.yaml", workspace=workspace, device="cpu")
    assert made is not None
    found = load_checkpoint(made.checkpoint)
    assert found.inputs.encoder == (f"{name}-encoder" if trains else "sees-encoder")
    assert len(found.card["trained_on"]) == 2 + 3
    assert found.card["licence"] == "CC0-1.0 AND CC-BY-NC-ND-4.0"
    assert extracted(workspace, slides, made.checkpoint, name).exit_code == 0
    # The network is still the catalogue's, however often its weights were trained on.
    card = read_encoder_card(made.checkpoint / "encoder")
    assert "tiny-vit" in card.notes


def test_a_pretraining_does_not_read_weights_that_it_is_about_to_replace(workspace, result):
    text = YAML.replace('"${VIT}"', "storm/sees/checkpoint/encoder")
    path = workspace.root / "circle.yaml"
    path.write_text(text.replace("name: tiny-vit", "name: sees-encoder"), encoding="utf-8")
    with pytest.raises(InputError, match="that this pretraining would replace"):
        pretrain_storm("circle.yaml", workspace=workspace, device="cpu")


def test_while_an_encoder_is_exchanged_there_is_no_checkpoint(workspace, result, monkeypatch):
    """The next run of the same makes both."""
    before = (result.checkpoint / "config.json").read_bytes()

    def full(*_, **__):
        raise StorageError("the disk is full", where="somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(storm_pretraining, "save_checkpoint", full)
        with pytest.raises(StorageError):
            pretrain_storm("sees.yaml", workspace=workspace, device="cpu")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load_checkpoint(result.checkpoint)
    pretrain_storm("sees.yaml", workspace=workspace, device="cpu")
    assert (result.checkpoint / "config.json").read_bytes() == before


def test_image_axes_do_not_go_with_an_encoder_that_changes(workspace, tmp_path):
    path = tmp_path / "axes.yaml"
    path.write_text(YAML.replace("side: 3", "side: 3, image_axes: 4"), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"image_axes .* train_encoder changes them"):
        read_pretraining(path)
