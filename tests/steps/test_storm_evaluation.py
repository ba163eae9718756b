"""From a YAML and files of the her2st layout to tables, maps and a checkpoint with evidence."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from storm_clinic.errors import InputError, SectionError
from storm_clinic.files import Workspace
from storm_clinic.steps.storm_evaluation import (
    EvaluationResult,
    evaluate_storm,
)
from storm_clinic.steps.storm_finetuning import finetune_storm
from storm_clinic.storm.checkpoint import load_checkpoint
from storm_clinic.storm.shipped import checkpoint_folder
from storm_clinic.tracking import Tracker

YAML = """\
format: 1
name: small
sections:
  - {layout: her2st, root: "${SECTIONS}"}
encoder: {name: tiny, tile_um: 60.0}
points_per_pitch: 1
leave_out: section
seeds: [0, 1]
top_genes: 2
network: {name: STORM, n_genes: 4, image_axes: 2, side: 3, epochs: 1}
ablations:
  - {name: random encoder, n_genes: 2, image_axes: 0, side: 1, epochs: 1, encoder: random}
baselines: [mean, ridge]
wide_um: 120.0
card: {data: simulated for a test, licence: CC0-1.0, limits: says nothing}
"""


@pytest.fixture(scope="module")
def workspace(spatial_workspace, tiny_everywhere) -> Workspace:
    root = spatial_workspace.root
    (root / "small.yaml").write_text(YAML, encoding="utf-8")
    by_patient = YAML.replace("leave_out: section", "leave_out: patient").replace(", ridge]", "]")
    (root / "patients.yaml").write_text(by_patient, encoding="utf-8")
    return spatial_workspace


@pytest.fixture(scope="module")
def result(workspace) -> EvaluationResult:
    return evaluate_storm("small.yaml", workspace=workspace)


def test_every_row_leaves_every_section_out_once_a_seed(result):
    assert result.table["recipe"].tolist() == ["STORM", "random encoder", "mean", "ridge"]
    n_rows = result.genes.groupby(["recipe", "section"]).size().unstack()
    assert (n_rows.loc[["STORM", "random encoder"]] == 2 * 2).all(axis=None)  # seeds, genes
    assert (n_rows.loc[["mean", "ridge"]] == 2).all(axis=None)
    assert result.how == "leave one section out, 3 sections of 2 patients, 2 seeds"


def test_rows_of_one_fold_are_about_the_same_genes_and_errors_of_the_mean_are_known(result):
    genes = result.genes.groupby(["section", "recipe"])["gene"].agg(set).unstack()
    assert all(len(set(map(frozenset, row))) == 1 for row in genes.to_numpy())
    mean = result.table.set_index("recipe").loc["mean"]
    assert np.isnan(mean["r"])
    assert mean["mse"] > 0


def test_tables_settings_and_maps_lie_beside_one_another(result):
    pd.testing.assert_frame_equal(
        pd.read_csv(result.folder / "genes.csv"), result.genes, check_dtype=False
    )
    facts = json.loads((result.folder / "evaluation.json").read_text(encoding="utf-8"))
    assert facts["settings"]["sections"][0]["root"] == "${SECTIONS}"
    with Image.open(result.folder / "maps.png") as picture:
        assert np.asarray(picture).std() > 10


def test_the_run_holds_the_table_but_no_name_of_a_section_or_patient(workspace, result):
    (found,) = Tracker(workspace).database.search("small", {"storm_clinic.kind": "evaluation"})
    run = Tracker(workspace).read_run(found.info.run_id)
    assert run.status == "FINISHED"
    assert run.metrics["r"] == pytest.approx(result.table["r"][0], nan_ok=True)
    assert run.params["network.image_axes"] == "2"
    logged = pd.read_csv(run.artifacts / "table.csv")
    pd.testing.assert_frame_equal(logged, result.table, check_dtype=False)
    texts = [path.read_text(encoding="utf-8") for path in run.artifacts.iterdir()]
    assert not any(name in text for text in texts for name in ("A1", "B1", "SECTIONS"))


def test_a_patient_is_left_out_with_all_sections(workspace):
    found = evaluate_storm("patients.yaml", workspace=workspace)
    by_section = found.genes.groupby("section")["gene"].agg(set)
    assert by_section["A1"] == by_section["A2"]  # chosen on B1 alone
    assert found.how == "leave one patient out, 3 sections of 2 patients, 2 seeds"


def test_a_checkpoint_states_each_genes_held_out_correlation(workspace):
    made = finetune_storm("small.yaml", workspace=workspace)
    found = load_checkpoint(made.checkpoint)
    assert found.digest == made.digest
    assert found.reliability is not None
    assert np.isfinite(found.reliability.r).sum() > 0
    assert found.reliability.how.startswith("leave one section out")
    assert made.n_with_evidence == found.reliability.exceeds(0).sum()
    assert (found.card["licence"], found.card["n_patients"]) == ("CC0-1.0", 2)


def test_more_genes_to_look_at_than_are_taught_is_refused(workspace):
    path = workspace.root / "many.yaml"
    path.write_text(YAML.replace("top_genes: 2", "top_genes: 3"), encoding="utf-8")
    with pytest.raises(InputError, match="random encoder teaches fewer genes than the 3"):
        evaluate_storm(path, workspace=workspace)


def test_other_looks_and_axes_of_genes_reach_the_fits_and_change_them(workspace):
    plain = evaluate_storm("small.yaml", workspace=workspace).table.set_index("recipe")
    path = workspace.root / "looks.yaml"
    taught = "epochs: 1, n_looks: 3, stain: 0.2, gene_axes: 1}\nablations"
    path.write_text(YAML.replace("epochs: 1}\nablations", taught), encoding="utf-8")
    looked = evaluate_storm(path, workspace=workspace).table.set_index("recipe")
    assert set(looked.index) == set(plain.index)
    for row in ("STORM", "random encoder"):  # the ablation has its looks from the network
        assert looked.loc[row, "mse"] != plain.loc[row, "mse"]
    assert looked.loc["ridge", "mse"] == plain.loc["ridge", "mse"]  # rivals see tiles as they are


def test_stain_that_no_look_would_show_is_refused(workspace):
    path = workspace.root / "stain.yaml"
    path.write_text(
        YAML.replace("epochs: 1}\nabl", "epochs: 1, stain: 0.1}\nabl"), encoding="utf-8"
    )
    with pytest.raises(InputError, match="STORM varies the stain of other looks, and shows one"):
        evaluate_storm(path, workspace=workspace)


def test_one_section_alone_cannot_be_left_out(workspace):
    path = workspace.root / "alone.yaml"
    one = YAML.replace('root: "${SECTIONS}"', 'root: "${SECTIONS}", sections: [A1]')
    path.write_text(one, encoding="utf-8")
    with pytest.raises(SectionError, match="none can be left out"):
        evaluate_storm(path, workspace=workspace)


def test_the_shipped_checkpoint_is_small_and_says_what_it_knows_and_of_whom():
    folder = checkpoint_folder("storm-tiny-her2st")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000_000
    found = load_checkpoint(folder)
    assert (found.card["n_patients"], found.card["licence"]) == (1, "CC-BY-4.0")
    assert found.inputs.encoder == "efficientnet-lite0"
    assert found.domain is not None
    assert found.reliability is not None
    assert 0 < found.reliability.exceeds(0).sum() <= len(found.vocabulary)
