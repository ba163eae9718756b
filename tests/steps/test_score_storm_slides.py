"""Scoring slides makes the STORM files that a model sees, with the checkpoint it learned from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import torch

from storm_clinic.bundle import write_bundle
from storm_clinic.encoders import hub
from storm_clinic.encoders.weights import read_weights, weights_digest
from storm_clinic.errors import CheckpointError, ContractMismatch, InputError
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.files import Workspace
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.steps.extraction import extract
from storm_clinic.steps.model_export import export_model
from storm_clinic.steps.scorable_model import ScorableModel
from storm_clinic.steps.score_request import request_tables
from storm_clinic.steps.score_rows import ScoredRows
from storm_clinic.steps.score_slides import Extraction
from storm_clinic.steps.score_sources import find_slides
from storm_clinic.steps.score_table import score
from storm_clinic.steps.scorer import Scorer
from storm_clinic.steps.storm_plan import StormChoice
from storm_clinic.steps.training import train
from storm_clinic.storm.checkpoint import Inputs, load_checkpoint, save_checkpoint
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.domain import TrainingDomain
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.reliability import GeneReliability
from storm_clinic.study import Study

N_SLIDES = 24
TISSUE = TissueParameters(min_area_um2=1000)
GENES = GeneVocabulary(("ACTB", "ERBB2", "ESR1", "MYC"))
LOWER = [0.1, 0.5, -0.1, 0.2]
EVIDENCE = GeneReliability(
    [low + 0.1 for low in LOWER], LOWER, [low + 0.2 for low in LOWER], "set by hand for a test"
)
COHORT = """\
format: 1
cohort: clinic
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
STUDY = """\
format: 1
study: from-slides
question: Are slides made into what the model learned from?
endpoint: {name: pfs, horizons_months: [6], tau_months: 18}
features: {encoder: tiny, storm: breast}
development: [clinic]
candidate: both
models:
  - {name: both, head: pca-cox, inputs: [image, storm, virtual_expression, imputed_expression]}
evaluation: {folds: 2, repeats: 1, inner_folds: 2, group: patient, seed: 7, bootstraps: 200}
"""


def make_checkpoint(folder, inputs, seed=0):
    torch.manual_seed(seed)
    config = StormConfig(width=8, n_layers=1, n_heads=2, image_width=12, n_genes=4, pitch_um=30.0)
    model = StormModel(config)
    model.gene_scale.set(torch.rand(4), torch.rand(4) + 0.5)
    rng = np.random.default_rng(0)
    far = TrainingDomain.fit({name: rng.normal(size=(50, 12)) - 9 for name in "ab"})
    save_checkpoint(
        folder,
        model,
        inputs=inputs,
        vocabulary=GENES,
        reliability=EVIDENCE,
        domain=far,
        card={"licence": "CC-BY-4.0"},
    )
    return folder


@pytest.fixture(scope="module")
def encoder(tiny_encoder):
    """The small encoder, found by its name as those of the catalogue are; and its weights."""
    card, weights = tiny_encoder
    load = hub.load_encoder

    def load_by_name(name, **options):
        assert name in ("tiny", "other", card)
        weighed = options | {"weights": options.get("weights") or weights}
        return load(replace(card, name="other") if name == "other" else card, **weighed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "load_encoder", load_by_name)
        yield weights


@pytest.fixture(scope="module")
def inputs(encoder):
    digest = weights_digest(read_weights(encoder))
    return Inputs(encoder="tiny", encoder_digest=digest, tile_um=24.0)


@pytest.fixture(scope="module")
def slides(tmp_path_factory, write_tissue_slide):
    folder = tmp_path_factory.mktemp("slides")
    rng = np.random.default_rng(1)
    for number in range(N_SLIDES):
        left, top = (int(edge) for edge in rng.integers(64, 160, 2))
        right, bottom = (int(edge) for edge in rng.integers(320, 448, 2))
        tissue = (left, top, right, bottom)
        write_tissue_slide(
            folder / f"c{number:02d}.tif", size=(512, 512), tissue=tissue, seed=number
        )
    return folder


@pytest.fixture(scope="module")
def clinic(tmp_path_factory, encoder, inputs, slides):
    """A workspace with a model of slides that were extracted with a checkpoint."""
    workspace = Workspace(tmp_path_factory.mktemp("clinic"))
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "breast", inputs)
    folder = workspace.cohorts / "clinic"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"c{number:02d}" for number in range(N_SLIDES)]
    months = rng.exponential(12, N_SLIDES).clip(0.5).round(1)
    rows = {"patient": names, "months": months, "progressed": rng.integers(0, 2, N_SLIDES)}
    pd.DataFrame(rows).to_csv(folder / "clinical.csv", index=False)
    pd.DataFrame({"patient": names, "slide": names}).to_csv(folder / "slides.csv", index=False)
    (folder / "cohort.yaml").write_text(COHORT)
    extract(
        slides,
        cohort="clinic",
        encoder="tiny",
        weights=encoder,
        storm=StormChoice(checkpoint, genes="MYC, ERBB2", per_tile=True),
        tissue=TISSUE,
        workspace=workspace,
        device="cpu",
    )
    workspace.pipelines.mkdir()
    (workspace.pipelines / "study.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path_factory.getbasetemp() / "secret"))
        study = Study.read(workspace.pipelines / "study.yaml")
        train(study, workspace=workspace, by="c.trainer")
    return workspace, checkpoint


@pytest.fixture
def run(clinic, encoder, tmp_path):
    """`score` where nothing was ever extracted, with an archive of the model."""
    workspace, checkpoint = clinic
    archive = export_model("from-slides", tmp_path / "m.zip", workspace=workspace).path

    def call(source, *, storm=checkpoint, weights=encoder):
        extraction = Extraction(weights=weights, device="cpu", storm=storm)
        elsewhere = Workspace(tmp_path / "elsewhere")
        out = tmp_path / "risks.csv"
        return score(
            archive,
            source,
            out=out,
            extraction=extraction,
            workspace=elsewhere,
            allow_unapproved=True,
        )

    return call


def test_slides_score_as_their_stores_do_and_failures_have_their_row(
    run, clinic, slides, write_tissue_slide, tmp_path
):
    workspace, checkpoint = clinic
    known = score(
        "from-slides",
        cohort="clinic",
        out=tmp_path / "a.csv",
        allow_unapproved=True,
        workspace=workspace,
    )
    assert known.table["risk"].notna().all()
    assert known.table["risk"].nunique() > 1
    some = tmp_path / "some"
    some.mkdir()
    for name in ("c03.tif", "c11.tif"):
        shutil.copy(slides / name, some)
    write_tissue_slide(some / "unscaled.tif", mpp=None)
    renamed = shutil.copytree(checkpoint, tmp_path / "as_it_was_sent")
    done = run(some, storm=renamed)
    table = done.table.set_index("patient_id")
    expected = known.table.set_index("patient_id")["risk"]
    for patient in ("c03", "c11"):
        assert table.loc[patient, "risk"] == pytest.approx(expected[patient], abs=1e-9)
        assert "100% of tiles" in table.loc[patient, "storm_out_of_domain"]
    lost = table.loc["unscaled"]
    assert lost["problem"].startswith("no slide that can be used")
    assert lost["unread_slides"].lower().count("microns per pixel") == 1
    made = StormContract.read(tmp_path / "elsewhere" / "features" / "scored" / "breast")
    assert made == StormContract.read(workspace.store("clinic", "breast"))
    # What was made is found again, and used as it is.
    assert run(tmp_path / "elsewhere" / "features" / "scored").table["risk"].notna().sum() == 2


def test_another_checkpoint_is_refused_with_both_digests_before_a_slide_is_read(
    run, clinic, inputs, slides, tmp_path
):
    other = make_checkpoint(tmp_path / "breast", inputs, seed=1)
    theirs = load_checkpoint(clinic[1]).digest
    with pytest.raises(
        ContractMismatch, match=f"'{load_checkpoint(other).digest}', not '{theirs}'"
    ):
        run(slides, storm=other)
    with pytest.raises(InputError, match=f"checkpoint breast made, .*its digest is {theirs}"):
        run(slides, storm=None)
    with pytest.raises(CheckpointError, match="nor the name of a shipped one"):
        run(slides, storm=tmp_path / "nowhere")
    assert not (tmp_path / "elsewhere" / "features").exists()


def test_a_checkpoint_of_the_models_name_that_comes_with_the_package_is_found(
    run, clinic, slides, tmp_path, monkeypatch
):
    from storm_clinic.storm import shipped

    monkeypatch.setattr(shipped, "SHIPPED", clinic[1].parent)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(slides / "c05.tif", one)
    assert run(one, storm=None).table["risk"].notna().all()


def test_the_bundle_says_how_its_storm_files_were_made(clinic):
    workspace, _ = clinic
    declared = Scorer.load(
        "from-slides", workspace=workspace, allow_unapproved=True
    ).bundle.manifest.storm_input
    held = StormContract.read(workspace.store("clinic", "breast"))
    assert StormContract.from_json(declared.files, where="manifest") == held
    assert declared.genes == declared.evident == ("ERBB2", "MYC")
    assert declared.tiles["tissue"]["min_area_um2"] == 1000


def test_where_the_image_has_another_encoder_than_storm_each_gets_its_own_tiles(
    clinic, encoder, slides, tmp_path
):
    workspace, checkpoint = clinic
    bundle = Scorer.load("from-slides", workspace=workspace, allow_unapproved=True).bundle
    features = bundle.manifest.features | {"encoder": "other", "mpp": 0.5, "overlap_px": 0}
    made = write_bundle(
        tmp_path / "bundle",
        {"both": bundle.restore("both").state()},
        bundle.manifest.model_copy(update={"features": features}),
    )
    scorer = Scorer(ScorableModel(made, "from-slides", 1, "locked", datetime.now(UTC)))
    elsewhere = Workspace(tmp_path / "elsewhere")
    found = find_slides(
        scorer,
        slides / "c03.tif",
        cohort=None,
        extraction=Extraction(weights=encoder, device="cpu", storm=checkpoint),
        workspace=elsewhere,
        progress=None,
    )
    stores = {path.name for path in (elsewhere.root / "features" / "scored").iterdir()}
    assert stores == {"other", "tiny", "breast"}
    request = request_tables(scorer, found.every_slide, clinical=None, patients=None)
    [row] = ScoredRows(scorer, request, found).table(None).to_dict("records")
    theirs = find_slides(
        Scorer.load("from-slides", workspace=workspace, allow_unapproved=True),
        None,
        cohort="clinic",
        extraction=Extraction(),
        workspace=workspace,
        progress=None,
    )
    assert row["n_storm_tiles"] == theirs.storm.read("c03").n_tiles
    assert row["n_tiles"] == found.store.read("c03").n_tiles != row["n_storm_tiles"]
    assert np.isfinite(row["risk"])


def test_a_checkpoint_for_a_model_that_sees_none_is_refused(clinic, slides, tmp_path):
    bundle = Scorer.load("from-slides", workspace=clinic[0], allow_unapproved=True).bundle
    study = bundle.study.resolved()
    study["models"][0]["inputs"] = ["image"]
    made = write_bundle(
        tmp_path / "bundle",
        {"both": bundle.restore("both").state()},
        bundle.manifest.model_copy(update={"study": study}),
    )
    scorer = Scorer(ScorableModel(made, "from-slides", 1, "locked", datetime.now(UTC)))
    with pytest.raises(InputError, match="--storm: is not needed: the model sees nothing that"):
        find_slides(
            scorer,
            slides,
            cohort=None,
            extraction=Extraction(storm=clinic[1]),
            workspace=Workspace(tmp_path),
            progress=None,
        )
