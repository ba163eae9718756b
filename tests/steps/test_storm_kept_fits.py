"""Evaluations that go on where they were stopped, and networks that start from a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from her2st_files import write_section
from safetensors.numpy import load_file
from typer.testing import CliRunner

from storm_clinic.cli.main import app
from storm_clinic.errors import CheckpointError, InputError, LeakageError, TrainingError
from storm_clinic.files import Workspace
from storm_clinic.steps.storm_evaluation import EvaluationResult, evaluate_storm
from storm_clinic.steps.storm_finetuning import finetune_storm
from storm_clinic.steps.storm_pretraining import pretrain_storm
from storm_clinic.storm.checkpoint import load_checkpoint, save_checkpoint

YAML = """\
format: 1
name: small
sections:
  - {layout: her2st, root: "${SECTIONS}"}
encoder: {name: tiny, tile_um: 60.0}
leave_out: section
seeds: [0, 1]
top_genes: 2
network: {name: STORM, n_genes: 4, image_axes: 0, side: 3, epochs: 1}
ablations:
  - {name: other rate, learning_rate: 0.002}
baselines: [mean]
wide_um: 120.0
card: {data: simulated for a test, licence: CC0-1.0, limits: says nothing}
"""
PRETRAIN = """\
format: 1
name: before
sections:
  - {layout: her2st, root: "${OTHER_SECTIONS}"}
encoder: {name: tiny, tile_um: 60.0}
n_genes: 3
network: {size: tiny, pitch_um: 200.0, side: 3}
updates: {learning_rate: 0.001, n_steps: 2}
batch: 8
seed: 3
card: {data: simulated for a test, licence: CC-BY-4.0, limits: says nothing}
"""
STARTED = YAML.replace("name: small", "name: started").replace(
    "epochs: 1}", "epochs: 1, start: storm/before/checkpoint}"
)
N_SECTIONS, N_SEEDS = 3, 2
A_ROW = N_SECTIONS * N_SEEDS


@pytest.fixture(scope="module")
def workspace(spatial_workspace, tiny_everywhere, module_patch) -> Workspace:
    others = spatial_workspace.root / "others"
    for name, seed in (("X1", 11), ("Y1", 12)):
        write_section(others, name, seed)
    module_patch.setenv("OTHER_SECTIONS", str(others))
    return spatial_workspace


def evaluate(workspace: Workspace, text: str = YAML, **how: object) -> EvaluationResult:
    path = workspace.root / "asked.yaml"
    path.write_text(text, encoding="utf-8")
    return evaluate_storm(path, workspace=workspace, **how)


@pytest.fixture(scope="module")
def first(workspace) -> EvaluationResult:
    return evaluate(workspace)


@pytest.fixture
def own(workspace, first, tmp_path) -> Workspace:
    """A copy that a test may spoil, with all fits of the first evaluation."""
    shutil.copytree(workspace.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


def written(found: EvaluationResult) -> dict[str, bytes]:
    return {name: (found.folder / name).read_bytes() for name in ("table.csv", "genes.csv")}


def test_a_second_run_fits_nothing_and_says_the_very_same(own, first):
    assert (first.n_kept, first.n_new) == (0, 2 * A_ROW + N_SECTIONS)
    again = evaluate(own)
    assert (again.n_kept, again.n_new) == (first.n_new, 0)
    assert written(again) == written(first)


def test_one_changed_setting_fits_that_row_anew_and_leaves_the_others(own, first):
    again = evaluate(own, YAML.replace("learning_rate: 0.002", "learning_rate: 0.003"))
    assert again.n_new == A_ROW
    before, after = first.table.set_index("recipe"), again.table.set_index("recipe")
    assert before.loc["other rate", "mse"] != after.loc["other rate", "mse"]
    assert before.loc["STORM"].equals(after.loc["STORM"])


def test_a_row_of_another_name_and_more_genes_looked_at_need_no_new_network(own):
    again = evaluate(own, YAML.replace("other rate", "renamed").replace("genes: 2", "genes: 3"))
    assert again.n_new == N_SECTIONS  # the mean's, which is of the genes looked at
    assert set(again.table["recipe"]) == {"STORM", "renamed", "mean"}
    assert (again.genes.groupby(["recipe", "seed", "section"]).size() == 3).all()


def test_another_section_of_the_training_data_fits_all_anew(own, monkeypatch):
    monkeypatch.setenv("SECTIONS", str(own.root / "data"))
    write_section(own.root / "data", "B1", seed=99)
    again = evaluate(own)
    assert again.n_kept == 0


def test_what_was_killed_goes_on_to_the_same_end(own, first):
    class Killed(Exception):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if what == "leave out and impute" and total == 2 * A_ROW and done == 5:
            raise Killed

    shutil.rmtree(own.root / "storm" / "fits")
    with pytest.raises(Killed):
        evaluate(own, progress=kill)
    again = evaluate(own)
    assert (again.n_kept, again.n_new) == (N_SECTIONS + 5, 2 * A_ROW - 5)
    assert written(again) == written(first)


def test_a_damaged_fit_is_named_and_made_anew_once_it_is_removed(own, first):
    path = sorted((own.root / "storm" / "fits").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TrainingError, match=f"{path.name}.*Remove this file"):
        evaluate(own)
    path.unlink()
    again = evaluate(own)
    assert again.n_new == 1
    assert written(again) == written(first)


def test_fine_tuning_makes_no_fit_that_an_evaluation_has_made(own):
    made = finetune_storm("asked.yaml", workspace=own)
    assert (made.n_kept, made.n_new) == (A_ROW, 0)
    assert made.table is not None
    card = load_checkpoint(made.checkpoint).card
    assert len(card["trained_on"]) == N_SECTIONS


def test_the_command_says_how_many_were_kept(own):
    result = CliRunner().invoke(
        app, ["storm", "evaluate", "asked.yaml", "--workspace", str(own.root), "--jobs", "1"]
    )
    assert result.exit_code == 0, result.output
    assert f"{2 * A_ROW + N_SECTIONS} kept from before, 0 new" in result.output


def test_a_network_of_size_small_is_evaluated_as_any_other(own):
    text = YAML.replace("{name: other rate, learning_rate: 0.002}", "{name: small, size: small}")
    found = evaluate(own, text)
    assert found.n_new == A_ROW
    row = found.table.set_index("recipe").loc["small"]
    assert row[["r", "mse", "ssim"]].notna().all()
    made = finetune_storm(
        _yaml(own, text.replace("name: STORM, ", "name: STORM, size: small, ")), workspace=own
    )
    assert made.n_new == 0  # now the network, a moment ago an ablation: the same fits
    assert load_checkpoint(made.checkpoint).model.config.width == 384


def _yaml(workspace: Workspace, text: str) -> Path:
    path = workspace.root / "asked.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def started(workspace, first) -> Workspace:
    """With a checkpoint that was pretrained on two other sections."""
    (workspace.root / "pretrain.yaml").write_text(PRETRAIN, encoding="utf-8")
    pretrain_storm("pretrain.yaml", workspace=workspace, device="cpu")
    return workspace


def test_a_network_starts_from_a_checkpoint_of_other_sections(started, first):
    found = evaluate(started, STARTED)
    assert found.n_new == 2 * A_ROW
    mse = found.table.set_index("recipe")["mse"]
    assert mse["STORM"] != first.table.set_index("recipe")["mse"]["STORM"]
    facts = json.loads((found.folder / "evaluation.json").read_text(encoding="utf-8"))
    digest = load_checkpoint(started.root / "storm" / "before" / "checkpoint").digest
    assert facts["starts"] == {"storm/before/checkpoint": digest}


def test_image_axes_come_from_the_checkpoint(started):
    text = PRETRAIN.replace("name: before", "name: axes").replace(
        "pitch_um: 200.0", "pitch_um: 200.0, image_axes: 2"
    )
    (started.root / "axes.yaml").write_text(text, encoding="utf-8")
    made = pretrain_storm("axes.yaml", workspace=started, device="cpu")
    assert made is not None
    asked = STARTED.replace("storm/before/", "storm/axes/").replace(
        "image_axes: 0", "image_axes: 2"
    )
    fine = finetune_storm(_yaml(started, asked), workspace=started)
    given = load_checkpoint(made.checkpoint).model.image_axes
    assert torch.equal(load_checkpoint(fine.checkpoint).model.image_axes, given)
    # The two axes of the pretraining's own spots, each scaled on its slide.
    images = []
    for path in (started.root / "storm" / "spots" / "tiny").glob("[XY]1-*"):
        [image] = load_file(path)["image"].astype(np.float64)
        images.append((image - image.mean(axis=0)) / (image.std(axis=0) + 1e-6))
    scaled = np.concatenate(images)
    values, axes = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    for axis, direction, value in zip(given.numpy(), axes.T[::-1], values[::-1], strict=False):
        assert abs(axis @ direction) == pytest.approx(value**-0.25, rel=1e-3)


def test_a_row_may_start_with_new_weights_where_the_network_has_a_start(started):
    found = evaluate(started, STARTED.replace("learning_rate: 0.002", "start: null"))
    assert found.n_new == 0  # new weights, and what the network had: both kept
    assert found.n_kept == 2 * A_ROW + N_SECTIONS


def test_other_weights_in_the_checkpoint_are_another_fit(started, tmp_path):
    shutil.copytree(started.root, tmp_path / "copy")
    copy = Workspace(tmp_path / "copy")
    (copy.root / "pretrain.yaml").write_text(PRETRAIN.replace("seed: 3", "seed: 4"))
    pretrain_storm("pretrain.yaml", workspace=copy, device="cpu", resume=False)
    assert evaluate(copy, STARTED).n_new == 2 * A_ROW


def test_a_fine_tuned_checkpoint_names_its_start_and_all_that_both_were_trained_on(started):
    made = finetune_storm(_yaml(started, STARTED), workspace=started)
    found = load_checkpoint(made.checkpoint)
    assert len(found.card["trained_on"]) == N_SECTIONS + 2
    assert found.card["start"]["name"] == "before"
    assert found.card["licence"] == "CC0-1.0 AND CC-BY-4.0"
    assert found.reliability is not None
    # What it was fine-tuned on has been seen as well, and is never left out of it.
    again = STARTED.replace("storm/before/", "storm/started/").replace("name: started", "name: two")
    with pytest.raises(LeakageError, match=r"section A1 \(same image\), section A2 .*section B1"):
        evaluate(started, again)


def test_a_start_that_saw_a_left_out_section_is_refused_by_its_name(started, monkeypatch):
    shutil.copytree(started.root / "others", started.root / "mixed")
    for part in ("images", "counts", "spots"):
        for path in (started.root / "data" / part).glob("A2*"):
            shutil.copy(path, started.root / "mixed" / part / path.name.replace("A2", "Z9"))
    monkeypatch.setenv("OTHER_SECTIONS", str(started.root / "mixed"))
    text = PRETRAIN.replace("name: before", "name: leaking")
    (started.root / "leaking.yaml").write_text(text, encoding="utf-8")
    pretrain_storm("leaking.yaml", workspace=started, device="cpu")
    asked = STARTED.replace("storm/before/", "storm/leaking/")
    # It went by another name there.
    with pytest.raises(LeakageError, match=r"left out: section A2 \(same image\)\. Start from"):
        evaluate(started, asked)
    made = finetune_storm(_yaml(started, asked), workspace=started)
    assert (made.table, made.n_with_evidence, made.n_new) == (None, 0, 0)
    assert made.seen_by_start == ("A2",)
    found = load_checkpoint(made.checkpoint)
    assert found.reliability is None
    assert "trained on 1 of the 3 sections" in found.card["held_out"]["how"]
    assert "A2" not in json.dumps(found.card)


def test_a_start_that_does_not_say_what_it_saw_is_refused(started, tmp_path):
    found = load_checkpoint(started.root / "storm" / "before" / "checkpoint")
    card = {name: value for name, value in found.card.items() if name != "trained_on"}
    save_checkpoint(
        tmp_path / "old", found.model, inputs=found.inputs, vocabulary=found.vocabulary, card=card
    )
    asked = STARTED.replace("storm/before/checkpoint", str(tmp_path / "old"))
    with pytest.raises(CheckpointError, match=r"old: does not say which sections"):
        evaluate(started, asked)


def test_a_start_of_another_shape_and_two_starts_at_once_are_refused(started):
    with pytest.raises(CheckpointError, match="image_axes is 2, but 0 there"):
        evaluate(started, STARTED.replace("image_axes: 0", "image_axes: 2"))
    with pytest.raises(CheckpointError, match=r"other rate cannot start.*width is 384, but 128"):
        evaluate(started, STARTED.replace("learning_rate: 0.002", "size: small"))
    with pytest.raises(InputError, match="other rate starts from a checkpoint and is pretrained"):
        evaluate(started, STARTED.replace("learning_rate: 0.002", "pretrain_steps: 3"))
