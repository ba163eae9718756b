"""STORM's clinical head beside its rivals in one study, on simulated STORM files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.features.storm_store import StormStore
from storm_clinic.features.storm_tiles import VirtualExpression
from storm_clinic.features.storm_writer import ImputedGenes, SlideStorm, write_storm_file
from storm_clinic.files import Workspace
from storm_clinic.registry.identity import load_keys
from storm_clinic.steps.study_patients import scored_patients
from storm_clinic.steps.study_report import report
from storm_clinic.steps.training import Candidate, train
from storm_clinic.study import Study

WIDTH = 6
# Of the last one nothing is known to be learnt: no model may see it.
GENES = tuple(f"SIM{number:02d}" for number in range(1, 13))
DRIVER, BLIND = "SIM03", "SIM12"
LOWER = np.array([0.3] * 11 + [-0.1], np.float32)
CONTRACT = StormContract(
    checkpoint="simulated-storm",
    checkpoint_digest="c" * 64,
    encoder="toy",
    encoder_digest="e" * 64,
    source_digest="d" * 64,
    width=4,
    mpp=0.5,
    tile_px=224,
    overlap_px=0,
    n_genes=len(GENES),
    genes_digest="f" * 64,
    min_r=None,
    per_tile=True,
)

COHORT = """\
format: 1
cohort: west
tables:
  clinical: {path: clinical.csv, patient_id: patient}
  slides: {path: slides.csv, patient_id: patient, slide_id: slide}
endpoints:
  pfs:
    kind: survival
    time: months
    unit: months
    event: progressed
    codes: {0: censored, 1: event}
missing: [""]
origin: {source: simulated for a test, licence: CC0, simulated: true}
"""
OPTIONS = "{epochs: 20, learning_rate: 0.02, hidden: 8, attention: 4, dropout: 0.0"
# Layers of attention want smaller steps.
STORM_OPTIONS = "{epochs: 20, learning_rate: 0.005, hidden: 16, attention: 4, dropout: 0.0"
STUDY = f"""\
format: 1
study: storm-head
question: Do imputed genes of tiles add to the image in a simulated hospital?
endpoint: {{name: pfs, horizons_months: [6], tau_months: 18}}
features: {{encoder: toy, storm: simulated-storm}}
development: [west]
require: []
candidate: storm
models:
  - {{name: abmil-image, head: attention-cox, inputs: [image], options: {OPTIONS}}}}}
  - {{name: abmil-genes, head: attention-cox, inputs: [virtual_expression], options: {OPTIONS}}}}}
  - name: late
    head: attention-cox
    inputs: [image, virtual_expression]
    options: {OPTIONS}, fusion: late}}
  - name: storm
    head: storm-cox
    inputs: [image, virtual_expression]
    options: {STORM_OPTIONS}}}
evaluation:
  {{folds: 3, repeats: 1, inner_folds: 2, group: patient, seed: 7, bootstraps: 200, patience: 4}}
"""


def imputed(lower=LOWER, genes=GENES) -> ImputedGenes:
    return ImputedGenes(
        symbols=genes,
        places=np.arange(len(genes)),
        r=lower + np.float32(0.1),
        lower=lower,
        upper=lower + np.float32(0.2),
        how="simulated",
        min_r=None,
        vocabulary_digest="f" * 64,
    )


def write_storm(folder: Path, slide_id: str, values, genes: ImputedGenes | None = None, **changed):
    """One STORM file with these values of tiles."""
    n = len(values)
    slide = SlideStorm(
        slide_id=slide_id,
        spots=values[:, :4],
        slide=np.zeros(4),
        coords=np.column_stack([np.arange(n) * 448, np.zeros(n)]).astype(np.int64),
        source_digest="d" * 64,
        slide_mpp=0.25,
        expression=values.mean(axis=0),
        tiles=[values[:2], values[2:]],
    )
    contract = replace(CONTRACT, **changed)
    if not contract.per_tile:
        slide = replace(slide, tiles=None)
    folder.mkdir(parents=True, exist_ok=True)
    write_storm_file(folder / f"{slide_id}.h5", slide, contract, genes or imputed())


def study_of(workspace: Workspace) -> Study:
    return Study.read(workspace.pipelines / "study.yaml")


def make_west(workspace: Workspace, n_patients: int = 90) -> Workspace:
    """A hospital where the image knows one half of the risk and an imputed gene the other.

    In a share of tiles the gene is high; the last one, without evidence, tells all and must not be
    seen. Patient 0 has no slide, of patients 1 and 2 only the image is there, patient 3 has two
    slides.
    """
    rng = np.random.default_rng(3)
    folder = workspace.cohorts / "west"
    folder.mkdir(parents=True)
    store = FeatureStore.create(
        workspace.store("west", "toy"),
        FeatureContract("toy", None, WIDTH, None, None, dtype="float32", provenance="declared"),
    )
    storm = workspace.store("west", "simulated-storm")
    clinical, slides = ["patient,months,progressed"], ["patient,slide"]
    for number in range(n_patients):
        seen, hidden = rng.normal(size=2)
        time = rng.exponential(12 * np.exp(-1.5 * (seen + hidden)))
        censored = rng.uniform(6, 36)
        patient = f"WEST-{number:03d}"
        clinical.append(f"{patient},{max(min(time, censored), 0.5):.1f},{int(time <= censored)}")
        for part in range(0 if number == 0 else 2 if number == 3 else 1):
            slide, n_tiles = f"{patient}-S{part}", int(rng.integers(3, 7))
            tiles = rng.normal(size=(n_tiles, WIDTH)).astype(np.float32)
            tiles[:, 0] += seen
            store.write(SlideFeatures(slide, tiles))
            slides.append(f"{patient},{slide}")
            if number not in (1, 2):
                values = 2 + 0.5 * rng.normal(size=(n_tiles, len(GENES)))
                values[:, GENES.index(DRIVER)] += hidden
                values[:, GENES.index(BLIND)] = 9 + seen + hidden
                write_storm(storm, slide, values)
    workspace.pipelines.mkdir()
    (workspace.pipelines / "study.yaml").write_text(STUDY)
    (folder / "cohort.yaml").write_text(COHORT)
    (folder / "clinical.csv").write_text("\n".join(clinical) + "\n")
    (folder / "slides.csv").write_text("\n".join(slides) + "\n")
    return workspace


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
