"""STORM's clinical head beside its rivals in one study, on simulated STORM files."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
from storm_hospital import BLIND, DRIVER, GENES, imputed, make_west, study_of, write_storm

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_store import StormStore
from storm_clinic.features.storm_tiles import VirtualExpression
from storm_clinic.files import Workspace
from storm_clinic.registry.identity import load_keys
from storm_clinic.steps.study_patients import scored_patients
from storm_clinic.steps.study_report import report
from storm_clinic.steps.training import Candidate, train


@pytest.fixture(scope="module")
def west(tmp_path_factory) -> Workspace:
    return make_west(Workspace(tmp_path_factory.mktemp("west")))


@pytest.fixture(scope="module")
def trained(west, tmp_path_factory) -> Candidate:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path_factory.getbasetemp() / "secret"))
        return train(study_of(west), workspace=west, by="c.trainer")


def test_genes_of_tiles_reach_models_patient_by_patient(west):
    patients = scored_patients(study_of(west), "west", workspace=west, keys=load_keys(west))
    bags = patients.data.tiles("virtual_expression")
    assert bags.columns == GENES[:11]
    assert patients.lacking == {"image": 1, "virtual_expression": 3}
    image = patients.data.tiles("image")
    assert (bags.sizes[3:] == image.sizes[3:]).all()
    assert (bags.sizes[:3] == 0).all()
    assert bags.bag(3).dtype == np.float16
    assert bags.has_places
    assert "west/virtual-expression" in patients.inputs


def test_the_storm_head_finds_both_planted_halves_and_is_compared_with_its_rivals(trained):
    evidence = trained.evidence
    c = {name: evidence.one("c_index", model=name).value for name in evidence.models}
    assert set(c) == {"abmil-image", "abmil-genes", "late", "storm"}
    for alone in ("abmil-image", "abmil-genes"):
        assert c["storm"] > c[alone] + 0.03
    assert c["storm"] > c["late"] - 0.05
    assert c["storm"] > 0.72


def test_the_planted_gene_leads_in_every_fold_and_the_report_says_so(trained, west):
    [found] = trained.evidence.analyses.attributions
    assert (found.model, found.n_folds, found.n_genes, found.n_top) == ("storm", 3, 11, 2)
    first = found.genes[0]
    assert (first.gene, first.direction, first.in_top) == (DRIVER, "higher", 1.0)
    assert (first.heldout_r, first.heldout_r_lower) == pytest.approx((0.4, 0.3))
    assert found.n_patients + found.n_incomplete == 3 * 16
    assert found.n_incomplete == 0
    assert sum(gene.importance for gene in found.genes) == pytest.approx(1)
    assert BLIND not in {gene.gene for gene in found.genes}
    page = report(trained, workspace=west)
    [table] = [text for name, text in page.tables().items() if name.endswith("attributions-1")]
    assert table.splitlines()[1].startswith(f"west,storm,imputed,{DRIVER},")


def test_a_study_refuses_storm_files_of_other_slides_than_its_tiles(tmp_path):
    workspace = make_west(Workspace(tmp_path), n_patients=8)
    store = FeatureStore.open(workspace.store("west", "toy"))
    store.write(replace(store.read("WEST-005-S0"), slide_digest="1" * 64))
    path = workspace.store("west", "simulated-storm") / "WEST-005-S0.h5"
    with h5py.File(path, "r+") as file:
        file.attrs["slide_digest"] = np.bytes_(b"2" * 64)  # of fixed length, as we write it
    with pytest.raises(ContractMismatch, match=r"1 of 6 STORM files.*made of another slide"):
        scored_patients(study_of(workspace), "west", workspace=workspace, keys=load_keys(workspace))


def test_files_without_values_of_tiles_are_refused_with_what_to_do(tmp_path):
    values = np.ones((3, len(GENES)))
    write_storm(tmp_path, "S1", values, per_tile=False)
    with pytest.raises(FeatureError, match=r"mean expression alone.*\n?.*--per-tile"):
        VirtualExpression.open(StormStore.open(tmp_path))


def test_values_that_were_changed_and_files_of_other_genes_are_refused(tmp_path):
    values = np.random.default_rng(0).random((2100, len(GENES)))
    write_storm(tmp_path, "S1", values)
    store = VirtualExpression.open(StormStore.open(tmp_path))
    np.testing.assert_array_equal(store.read("S1").features, values[:, :11].astype(np.float16))
    with h5py.File(tmp_path / "S1.h5", "r+") as file:
        file["expression/values"][2000, 11] = 5  # of a gene that no model sees
    with pytest.raises(FeatureError, match="not those that were written"):
        store.read("S1")
    write_storm(tmp_path, "S2", values, imputed(genes=GENES[::-1]))
    with pytest.raises(ContractMismatch, match="imputes other genes than the files before"):
        VirtualExpression.open(StormStore.open(tmp_path))


def test_a_checkpoint_without_evidence_for_any_gene_is_refused(tmp_path):
    write_storm(tmp_path, "S1", np.ones((3, len(GENES))), imputed(np.full(12, np.nan, np.float32)))
    with pytest.raises(FeatureError, match="none of its 12 genes has evidence"):
        VirtualExpression.open(StormStore.open(tmp_path))
