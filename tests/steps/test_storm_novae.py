"""A pretraining on expression as Novae embeds it (a stand-in here), and fine-tuning from it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from fake_novae import fake_novae
from PIL import Image

from storm_clinic.errors import InputError
from storm_clinic.files import Workspace
from storm_clinic.steps.storm_finetuning import finetune_storm
from storm_clinic.steps.storm_pretraining import PretrainingResult, pretrain_storm
from storm_clinic.storm.checkpoint import load_checkpoint
from storm_clinic.storm.evaluation_file import read_evaluation
from storm_clinic.storm.novae import load_novae
from storm_clinic.tracking import Tracker

YAML = """\
format: 1
name: read
sections:
  - {layout: her2st, root: "${SECTIONS}"}
encoder: {name: tiny, tile_um: 60.0}
novae: {model: stand-in, n_draws: 2, visible_share: 0.7}
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
encoder: {name: tiny, tile_um: 60.0}
leave_out: section
seeds: [0, 1]
top_genes: 2
network:
  name: STORM
  start: storm/read/checkpoint
  gene_encoder: novae
  gene_width: 5
  image_axes: 0
  n_genes: 4
  side: 3
  epochs: 1
baselines: []
card: {data: simulated for a test, licence: CC0-1.0, limits: says nothing}
"""


@pytest.fixture(scope="module")
def workspace(spatial_workspace, tiny_everywhere, module_patch) -> Workspace:
    pytest.importorskip("anndata")
    root = spatial_workspace.root
    (root / "read.yaml").write_text(YAML, encoding="utf-8")
    (root / "taught.yaml").write_text(FINETUNING, encoding="utf-8")
    module_patch.setitem(sys.modules, "novae", fake_novae())
    return spatial_workspace


@pytest.fixture(scope="module")
def result(workspace) -> PretrainingResult:
    made = pretrain_storm("read.yaml", workspace=workspace, device="cpu")
    assert made is not None
    return made


def test_the_checkpoint_says_which_novae_it_reads(result):
    found = load_checkpoint(result.checkpoint)
    # The stand-in gives as many numbers as there are genes.
    assert (found.model.config.gene_encoder, found.model.config.gene_width) == ("novae", 5)
    assert found.card["novae"] == {"model": "stand-in", "digest": load_novae("stand-in").digest}


def test_the_picture_of_the_reconstruction_shows_what_could_be_masked(workspace, result):
    run = Tracker(workspace).read_run(result.run_id)
    with Image.open(run.artifacts / "reconstruction.png") as picture:
        assert np.asarray(picture).std() > 10


def test_the_same_pretraining_again_comes_to_the_same_and_other_sets_to_another(workspace, result):
    again = pretrain_storm("read.yaml", workspace=workspace, device="cpu", resume=False)
    assert again is not None
    assert again.digest == result.digest
    other = YAML.replace("name: read", "name: other").replace("n_draws: 2", "n_draws: 3")
    (workspace.root / "other.yaml").write_text(other, encoding="utf-8")
    changed = pretrain_storm("other.yaml", workspace=workspace, device="cpu")
    assert changed is not None
    assert changed.history != result.history


def test_fine_tuning_starts_from_it_though_it_is_shown_no_expression(workspace, result):
    made = finetune_storm("taught.yaml", workspace=workspace)
    found = load_checkpoint(made.checkpoint)
    assert found.model.config.gene_encoder == "novae"
    assert found.card["start"]["digest"] == result.digest


def test_without_a_start_a_network_that_reads_novae_is_refused(workspace):
    text = FINETUNING.replace("  start: storm/read/checkpoint\n", "")
    path = workspace.root / "bare.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="STORM reads expression as Novae embeds it"):
        read_evaluation(path)
