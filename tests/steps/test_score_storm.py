"""Models that see what STORM made of slides score as their validation did."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime

import h5py
import mlflow
import numpy as np
import pandas as pd
import pytest
from storm_hospitals import (
    CHECKPOINT,
    CONTRACT,
    ENCODER,
    GENES,
    LOWER,
    SEEN,
    STORM_WIDTH,
    UNUSUAL,
    WIDTH,
    imputed,
    write_hospital,
    write_storm,
)
from typer.testing import CliRunner

from storm_clinic.bundle import write_bundle
from storm_clinic.bundle.pyfunc import write_mlflow_model
from storm_clinic.cli.main import app
from storm_clinic.errors import ContractMismatch, FeatureError, InputError, RegistryError
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_store import StormStore
from storm_clinic.features.storm_tiles import VirtualExpression
from storm_clinic.files import Workspace
from storm_clinic.predictions import Predictions
from storm_clinic.registry.identity import load_keys
from storm_clinic.steps import score_stream
from storm_clinic.steps.feature_drift import drift_from_development
from storm_clinic.steps.model_export import export_model
from storm_clinic.steps.scorable_model import ScorableModel
from storm_clinic.steps.score_distribution import compare_with_development
from storm_clinic.steps.score_request import request_cohort, request_tables
from storm_clinic.steps.score_rows import ScoredRows
from storm_clinic.steps.score_slides import Extraction
from storm_clinic.steps.score_sources import find_slides
from storm_clinic.steps.score_table import score
from storm_clinic.steps.scorer import Scorer
from storm_clinic.steps.study_patients import scored_patients
from storm_clinic.steps.study_run import run_study

NETWORK = "{epochs: 8, learning_rate: 0.01, hidden: 4, attention: 2}"
STORM_NETWORK = "{epochs: 6, learning_rate: 0.005, hidden: 8, attention: 4}"
INPUTS = {
    "spots": ("pca-cox", "storm"),
    "genes-of-tiles": ("attention-cox", "virtual_expression"),
    "genes": ("coxnet", "imputed_expression"),
    "image-spots": ("attention-cox", "image, storm"),
    "image-genes-of-tiles": ("pca-cox", "image, virtual_expression"),
    "image-genes": ("attention-cox", "image, imputed_expression, clinical"),
    "all": ("storm-cox", "image, storm, virtual_expression, imputed_expression"),
}
SETTINGS = {"attention-cox": NETWORK, "storm-cox": STORM_NETWORK}
STUDY = f"""\
format: 1
study: storm-scores
question: Does scoring see what validation saw?
endpoint: {{name: pfs, horizons_months: [6], tau_months: 18}}
features: {{encoder: {ENCODER}, storm: {CHECKPOINT}}}
development: [west]
validation: [east]
clinical: [age]
require: []
candidate: all
models:
""" + "".join(
    f"  - {{name: {name}, head: {head}, inputs: [{inputs}], options: {SETTINGS.get(head, '{}')}}}\n"
    for name, (head, inputs) in INPUTS.items()
)
STUDY += """\
  - {name: clinical, head: cox, inputs: [clinical]}
evaluation:
  {folds: 2, repeats: 1, inner_folds: 2, group: patient, seed: 7, bootstraps: 200, patience: 4}
claims:
""" + "".join(
    f"  - {{metric: c_index_gain, over: {name}, lower_bound_at_least: 0.0}}\n"
    for name in INPUTS
    if name != "all"
)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """A workspace with a study that was locked and validated, and what its validation sealed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path_factory.getbasetemp() / "secret"))
        workspace = Workspace(tmp_path_factory.mktemp("storm"))
        write_hospital(workspace, "west", n_patients=60, seed=1)
        write_hospital(workspace, "east", n_patients=30, seed=2)
        workspace.pipelines.mkdir()
        (workspace.pipelines / "study.yaml").write_text(STUDY)
        result = run_study("pipelines/study.yaml", workspace=workspace, lock_by="a.weber")
    sealed = Predictions.read(result.validations[0].folder / "predictions.parquet")
    return workspace, result.model.bundle, sealed


@pytest.fixture(scope="module")
def scorers(hospitals, tmp_path_factory):
    """By model: the bundle with that model as its candidate, as its own study would lock it."""
    _, bundle, _ = hospitals
    found = {}
    for name in INPUTS:
        study = bundle.study.resolved() | {"candidate": name, "claims": []}
        made = write_bundle(
            tmp_path_factory.mktemp("bundles") / name,
            {key: bundle.restore(key).state() for key in (name, "clinical")},
            bundle.manifest.model_copy(update={"study": study}),
            references=bundle.references,
        )
        found[name] = Scorer(ScorableModel(made, "storm-scores", 1, "locked", datetime.now(UTC)))
    return found


def find(scorer, workspace, source=None, *, cohort="east", **extraction):
    return find_slides(
        scorer,
        source,
        cohort=cohort,
        extraction=Extraction(**extraction),
        workspace=workspace,
        progress=None,
    )


def table_of(scorer, workspace, source=None) -> pd.DataFrame:
    """Rows of the cohort east by patient."""
    found = find(scorer, workspace, source)
    request = request_cohort(scorer, "east", workspace)
    return ScoredRows(scorer, request, found).table(None).set_index("patient_id")


def stores_of(workspace) -> tuple:
    return workspace.store("east", ENCODER), workspace.store("east", CHECKPOINT)


@pytest.fixture
def copied(hospitals, tmp_path):
    """The two stores of east in a folder that a test may spoil."""
    for store in stores_of(hospitals[0]):
        shutil.copytree(store, tmp_path / "east" / store.name)
    return tmp_path / "east"


# ---- the same risks ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", INPUTS)
def test_risks_are_those_that_validate_sealed_whatever_the_model_sees_of_storm(
    name, hospitals, scorers
):
    workspace, _, sealed = hospitals
    ours = table_of(scorers[name], workspace)
    theirs = sealed.of(model=name).table.set_index("patient_key")
    keys = list(load_keys(workspace).patient_keys(list(ours.index)))
    assert sorted(keys) == sorted(theirs.index)
    for column in ("risk", "risk_at_6m"):
        np.testing.assert_allclose(ours[column], theirs.loc[keys, column], rtol=0, atol=1e-6)


def test_the_verb_scores_the_cohort_whose_stores_it_finds_by_name(hospitals, scorers, tmp_path):
    workspace, bundle, _ = hospitals
    done = score("storm-scores", cohort="east", out=tmp_path / "risks.csv", workspace=workspace)
    expected = table_of(scorers["all"], workspace)["risk"]
    np.testing.assert_allclose(done.table["risk"], expected, rtol=0, atol=1e-6)
    assert set(done.table["storm_checkpoint"]) == {CHECKPOINT}
    assert set(done.table["storm_checkpoint_digest"]) == {"c" * 64}
    assert set(done.table["bundle_digest"]) == {bundle.digest}
    assert done.counts["out_of_storm_domain"] == 1
    # Four patients of whom something lies in one store and not in the other.
    assert done.counts["with_unread_slides"] == 4
    assert done.exit_code == 3


def test_the_command_prints_counts_and_no_id(hospitals, tmp_path):
    workspace, _, _ = hospitals
    out, root = str(tmp_path / "risks.csv"), str(workspace.root)
    source = str(stores_of(workspace)[1])
    command = ["score", source, "--model", "storm-scores", "--cohort", "east", "--out", out]
    result = CliRunner().invoke(app, [*command, "-w", root])
    assert result.exit_code == 3, result.output
    assert "30 of 30 patients scored" in result.output
    assert "1 out of storm domain; the table says why" in result.output
    assert "4 with unread slides; the table says why" in result.output
    assert "EAST-" not in result.output
    assert pd.read_csv(out)["storm_out_of_domain"].notna().sum() == 1


def test_one_patient_in_python_scores_as_in_the_cohort(hospitals, scorers):
    workspace, _, _ = hospitals
    image, files = (
        FeatureStore.open(stores_of(workspace)[0]),
        StormStore.open(stores_of(workspace)[1]),
    )
    tiles = VirtualExpression.open(files)
    slides = ["EAST-005-S0", "EAST-005-S1"]
    mean = files.mean_expression([slides]).iloc[0]
    given = {
        "storm": [files.read(slide) for slide in slides],
        "virtual_expression": [tiles.read(slide) for slide in slides],
        "imputed_expression": mean[::-1],  # by name, in whatever order
    }
    for name, scorer in scorers.items():
        row = table_of(scorer, workspace).loc["EAST-005"]
        clinical = None
        if scorer.sees_clinical:
            cohort = request_cohort(scorer, "east", workspace)
            clinical = {"age": cohort.clinical.loc["EAST-005", "age"]}
        got = scorer(
            [image.read(slide) for slide in slides],
            clinical=clinical,
            **{key: value for key, value in given.items() if key in scorer.inputs},
        )
        assert got.risk == pytest.approx(row["risk"], abs=1e-6), name
        assert got.out_of_distribution_reason == row["out_of_distribution_reason"]
        assert got.missing_inputs == ()


def test_an_archive_scores_as_the_registry_does(hospitals, tmp_path):
    workspace, _, _ = hospitals
    archive = export_model("storm-scores", tmp_path / "m.zip", workspace=workspace)
    ours = score("storm-scores", cohort="east", out=tmp_path / "a.csv", workspace=workspace)
    theirs = score(archive.path, cohort="east", out=tmp_path / "b.csv", workspace=workspace)
    assert theirs.table["risk"].tolist() == ours.table["risk"].tolist()


def test_nobodys_risk_depends_on_his_company_or_on_who_reads_his_files(
    hospitals, scorers, monkeypatch
):
    workspace, _, _ = hospitals
    together = table_of(scorers["all"], workspace)
    monkeypatch.setattr(score_stream, "WORTH_PROCESSES", 1)
    pd.testing.assert_frame_equal(table_of(scorers["all"], workspace), together)
    monkeypatch.setattr(score_stream, "BATCH_TILES", 1)
    alone = table_of(scorers["all"], workspace)
    np.testing.assert_allclose(alone["risk"], together["risk"], rtol=0, atol=1e-6)
    assert (alone.drop(columns=["risk", "risk_at_6m"]).astype(str)).equals(
        together.drop(columns=["risk", "risk_at_6m"]).astype(str)
    )


# ---- what a patient lacks ----------------------------------------------------------------------


def test_slides_that_lack_one_of_the_two_files_are_told_and_counted(hospitals, scorers):
    table = table_of(scorers["all"], hospitals[0])
    counted = table[["n_slides", "n_storm_slides"]].apply(tuple, axis=1)
    assert counted.iloc[:6].tolist() == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (2, 2)]
    unread = table["unread_slides"]
    assert unread.iloc[:6].tolist() == [
        "",
        "slide EAST-001-S0: has no STORM file",
        "slide EAST-002-S0: has no features",
        "slide EAST-003-S1: has no STORM file",
        "slide EAST-004-S1: has no features",
        "",
    ]
    of_storm = "storm, virtual_expression, imputed_expression"
    assert table["missing_inputs"].iloc[:6].tolist() == [
        f"image, {of_storm}",
        of_storm,
        "image",
        "",
        "",
        "",
    ]
    assert table["n_tiles"].iloc[1] > 0
    assert table["n_storm_tiles"].iloc[1] == 0
    assert table["risk"].notna().all()


def test_where_the_study_requires_them_patients_without_have_their_row_and_no_number(
    hospitals, scorers, tmp_path
):
    scorer = scorers["image-spots"]
    study = scorer.bundle.study.resolved() | {"require": ["image", "storm"]}
    made = write_bundle(
        tmp_path / "strict",
        {key: scorer.bundle.restore(key).state() for key in ("image-spots", "clinical")},
        scorer.bundle.manifest.model_copy(update={"study": study}),
    )
    strict = Scorer(ScorableModel(made, "storm-scores", 1, "locked", datetime.now(UTC)))
    table = table_of(strict, hospitals[0])
    assert table["problem"].iloc[:4].tolist() == [
        "no slide; no STORM file",
        "no STORM file that can be used",
        "no slide that can be used",
        "",
    ]
    assert table["risk"].isna().tolist() == [True] * 3 + [False] * 27
    with pytest.raises(InputError, match=r"storm: holds no tile, and the model needs some"):
        strict(np.ones((3, WIDTH), np.float32))


def test_a_slide_unlike_the_checkpoints_training_data_shows_in_its_patients_row(hospitals, scorers):
    table = table_of(scorers["spots"], hospitals[0])
    told = table["storm_out_of_domain"]
    assert told.pop("EAST-006") == f"slide EAST-006-S0: {UNUSUAL}"
    assert set(told) == {""}


def test_what_storm_made_is_compared_with_development_too(hospitals, scorers, copied):
    workspace, bundle, _ = hospitals
    assert set(bundle.references) == {"image", "storm", "virtual_expression", "imputed_expression"}
    files = StormStore.open(copied / CHECKPOINT)
    spots = files.read("EAST-007-S0").features.astype(float)
    values = files.gene_maps("EAST-007-S0", GENES).to_numpy()
    write_storm(copied / CHECKPOINT, "EAST-007-S0", spots + 50, values + 50)
    for name, seen in (("spots", "storm"), ("genes", "imputed_expression")):
        row = table_of(scorers[name], workspace, copied).loc["EAST-007"]
        assert row["out_of_distribution"] == "yes"
        assert row["out_of_distribution_reason"].startswith(f"{seen}: distance ")
        before = table_of(scorers[name], workspace).loc["EAST-007"]
        assert (before["out_of_distribution"], before["out_of_distribution_reason"]) == ("no", "")


@pytest.fixture
def eastern(hospitals):
    """The validation cohort as validation saw it."""
    workspace, bundle, _ = hospitals
    return scored_patients(bundle.study, "east", workspace=workspace, keys=load_keys(workspace))


def by_features(bundle, patients):
    return {item.features: item for item in drift_from_development(bundle, patients)}


def with_table(patients, table):
    return replace(patients, data=replace(patients.data, tables={"imputed_expression": table}))


def test_drift_is_of_imputed_expression_too_and_counts_whom_scoring_would_name(
    hospitals, scorers, eastern
):
    _, bundle, _ = hospitals
    drift = by_features(bundle, eastern)
    assert list(drift) == ["image", "storm", "virtual_expression", "imputed_expression"]
    table = eastern.data.table("imputed_expression")
    table = table + np.linspace(0, 3, len(table))[:, None]  # ever further from development
    moved = with_table(eastern, table)
    found = by_features(bundle, moved)["imputed_expression"]
    (whole,) = (group for group in found.comparisons if group.division == "all")
    assert whole.n_patients == table.notna().all(axis=1).sum() == 28
    assert "2 patients without these features are left out" in found.note
    model = scorers["genes"]._fitted
    said = compare_with_development(bundle, model, moved.data, ["imputed_expression"])
    assert whole.n_outside == said.outside.count(True) > 3
    assert whole.p < 0.01 < drift["imputed_expression"].comparisons[0].p


def test_drift_finds_genes_by_name_and_says_which_are_not_imputed(hospitals, eastern):
    _, bundle, _ = hospitals
    table = eastern.data.table("imputed_expression")
    expected = by_features(bundle, eastern)["imputed_expression"]
    turned = with_table(eastern, table.iloc[:, ::-1].assign(NEW7=1.0))
    assert by_features(bundle, turned)["imputed_expression"] == expected
    lacking = by_features(bundle, with_table(eastern, table.drop(columns="DDD4")))
    assert lacking["imputed_expression"].comparisons == ()
    assert lacking["imputed_expression"].note == (
        "1 of the 5 genes that development is described in are not imputed here, the first is DDD4"
    )
    nobody = by_features(bundle, with_table(eastern, table.iloc[:, :0]))["imputed_expression"]
    assert "30 patients without these features are left out" in nobody.note
    assert nobody.comparisons[0].note == "fewer than 10 patients are not compared"


def test_a_record_of_imputed_expression_without_a_table_is_an_error_of_ours(hospitals, eastern):
    _, bundle, _ = hospitals
    unnamed = bundle.manifest.model_copy(update={"measurements": ()})
    message = "has a reference of imputed_expression, but its manifest does not say of which genes"
    with pytest.raises(RegistryError, match=message):
        drift_from_development(replace(bundle, manifest=unnamed), eastern)
    without = replace(eastern, data=replace(eastern.data, tables={}))
    with pytest.raises(InputError, match="these patients have no such table"):
        drift_from_development(bundle, without)


def test_drift_of_imputed_expression_says_why_there_is_no_record(hospitals, eastern):
    _, bundle, _ = hospitals
    bare = replace(bundle, references={})
    for item in drift_from_development(bare, eastern):
        assert item.comparisons == ()
        assert "trained before such records were kept" in item.note


def test_without_a_record_of_development_it_says_that_nothing_was_compared(
    hospitals, scorers, tmp_path
):
    old = scorers["spots"].bundle
    made = write_bundle(
        tmp_path / "old",
        {key: old.restore(key).state() for key in ("spots", "clinical")},
        old.manifest,
    )
    scorer = Scorer(ScorableModel(made, "storm-scores", 1, "locked", datetime.now(UTC)))
    row = table_of(scorer, hospitals[0]).loc["EAST-007"]
    assert row["out_of_distribution"] == "not known"
    assert row["out_of_distribution_reason"] == "not compared: storm (the bundle has no reference)"


def test_a_damaged_or_foreign_file_takes_out_its_slide_and_no_other(hospitals, scorers, copied):
    workspace, _, _ = hospitals
    files = copied / CHECKPOINT
    (files / "EAST-005-S0.h5").write_bytes(b"no HDF5")
    rng = np.random.default_rng(0)
    spots, values = rng.normal(size=(4, STORM_WIDTH)), rng.normal(size=(4, len(GENES)))
    write_storm(files, "EAST-008-S0", spots, values, genes=imputed(lower=LOWER + 0.5))
    table, whole = (table_of(scorers["all"], workspace, at) for at in (copied, None))
    assert "EAST-005-S0.h5: cannot be read as HDF5" in table.loc["EAST-005", "unread_slides"]
    assert tuple(table.loc["EAST-005", ["n_slides", "n_storm_slides"]]) == (2, 1)
    assert "imputes other genes than the files before" in table.loc["EAST-008", "unread_slides"]
    others = [patient for patient in whole.index if patient not in ("EAST-005", "EAST-008")]
    np.testing.assert_allclose(
        table.loc[others, "risk"], whole.loc[others, "risk"], rtol=0, atol=1e-6
    )


def test_a_storm_file_of_another_slide_is_not_put_beside_the_tiles_of_its_id(
    hospitals, scorers, copied
):
    workspace, _, _ = hospitals
    store = FeatureStore.open(copied / ENCODER)
    store.write(replace(store.read("EAST-005-S0"), slide_digest="1" * 64))
    with h5py.File(copied / CHECKPOINT / "EAST-005-S0.h5", "r+") as file:
        file.attrs["slide_digest"] = np.bytes_(b"2" * 64)  # of fixed length, as we write it
    row = table_of(scorers["all"], workspace, copied).loc["EAST-005"]
    assert "EAST-005-S0: its STORM file was made of another slide" in row["unread_slides"]
    assert tuple(row[["n_slides", "n_storm_slides"]]) == (2, 1)


# ---- where files are found ---------------------------------------------------------------------


def test_either_store_or_the_folder_of_both_names_both(hospitals, scorers, copied):
    workspace, _, _ = hospitals
    expected = table_of(scorers["all"], workspace)
    for at in (copied, copied / ENCODER, copied / CHECKPOINT):
        pd.testing.assert_frame_equal(table_of(scorers["all"], workspace, at), expected)


def test_storm_files_alone_need_no_contract_and_no_name_where_the_model_sees_them_alone(
    hospitals, scorers, copied
):
    workspace, _, _ = hospitals
    renamed = copied / "from_a_colleague"
    (copied / CHECKPOINT).rename(renamed)
    (renamed / "contract.json").unlink()
    shutil.rmtree(copied / ENCODER)
    for name in ("spots", "genes", "genes-of-tiles"):
        expected = table_of(scorers[name], workspace)
        pd.testing.assert_frame_equal(table_of(scorers[name], workspace, renamed), expected)
    scorer = scorers["spots"]
    found = find(scorer, workspace, renamed, cohort=None)
    request = request_tables(scorer, found.every_slide, clinical=None, patients=None)
    rows = ScoredRows(scorer, request, found).table(None)
    assert rows["patient_id"].tolist() == sorted(path.stem for path in renamed.glob("*.h5"))


def test_what_is_not_there_is_said_with_where_it_was_looked_for(hospitals, scorers, copied):
    workspace, _, _ = hospitals
    with pytest.raises(InputError, match=r"sees what toy-storm made of them.*Give the folder of"):
        find(scorers["spots"], workspace, copied / ENCODER)
    shutil.rmtree(copied / CHECKPOINT)
    with pytest.raises(FeatureError, match=r"east/toy-storm: holds no STORM file"):
        find(scorers["all"], workspace, copied / ENCODER)
    with pytest.raises(InputError, match="no such file or folder"):
        find(scorers["all"], workspace, copied / "nowhere")
    with pytest.raises(InputError, match="name a folder of slides, a feature store, or a cohort"):
        find(scorers["all"], workspace, cohort=None)
    empty = copied / "slides"
    empty.mkdir()
    with pytest.raises(InputError, match="does not say how its STORM files were made"):
        find(scorers["all"], workspace, empty)


def test_files_of_another_checkpoint_are_refused_with_both_values(hospitals, scorers, tmp_path):
    workspace, _, _ = hospitals
    other = replace(CONTRACT, checkpoint_digest="9" * 64)
    spots, values = np.ones((3, STORM_WIDTH)), np.ones((3, len(GENES)))
    write_storm(tmp_path / CHECKPOINT, "S1", spots, values, contract=other)
    with pytest.raises(ContractMismatch, match=f"'{'9' * 64}', not '{'c' * 64}'"):
        find(scorers["spots"], workspace, tmp_path / CHECKPOINT)


def test_other_genes_of_tiles_are_refused_before_anybody_is_scored(hospitals, scorers, tmp_path):
    workspace, _, _ = hospitals
    spots, values = np.ones((3, STORM_WIDTH)), np.ones((3, len(GENES)))
    write_storm(tmp_path / CHECKPOINT, "S1", spots, values, genes=imputed(genes=GENES[::-1]))
    with pytest.raises(ContractMismatch, match="gene 1 is FFF6, not AAA1"):
        find(scorers["genes-of-tiles"], workspace, tmp_path / CHECKPOINT)


def test_a_bundle_from_before_the_declaration_scores_stores_and_says_what_it_lacks(
    hospitals, scorers, tmp_path
):
    workspace, _, _ = hospitals
    for name in ("genes-of-tiles", "image-genes-of-tiles"):
        new = scorers[name].bundle
        made = write_bundle(
            tmp_path / name,
            {key: new.restore(key).state() for key in (name, "clinical")},
            new.manifest.model_copy(update={"storm_input": None}),
            references=new.references,
        )
        assert "storm_input" not in (tmp_path / name / "manifest.json").read_text()
        old = Scorer(ScorableModel(made, "storm-scores", 1, "locked", datetime.now(UTC)))
        assert old.virtual_genes == SEEN
        risks = table_of(old, workspace)["risk"]
        assert risks.tolist() == table_of(scorers[name], workspace)["risk"].tolist()


# ---- arrays by hand ----------------------------------------------------------------------------


def test_arrays_that_are_not_the_models_are_refused_in_words(scorers):
    spots, tiles, genes = scorers["spots"], scorers["genes-of-tiles"], scorers["genes"]
    assert tiles.virtual_genes == SEEN
    assert genes.imputed_genes == SEEN
    with pytest.raises(ContractMismatch, match=r"storm: tiles of shape \(2, 9\).*\(n_tiles, 4\)"):
        spots(storm=np.ones((2, 9), np.float32))
    with pytest.raises(InputError, match="storm: holds NaN or infinity"):
        spots(storm=np.full((2, 4), np.nan, np.float32))
    with pytest.raises(ContractMismatch, match=r"shape \(2, 6\).*\(n_tiles, 5\).*the 5 genes"):
        tiles(virtual_expression=np.ones((2, 6), np.float32))
    swapped = pd.DataFrame(np.ones((2, 5)), columns=[SEEN[1], SEEN[0], *SEEN[2:]])
    with pytest.raises(ContractMismatch, match="gene 1 is BBB2, not AAA1"):
        tiles(virtual_expression=swapped)
    with pytest.raises(ContractMismatch, match=r"is of shape \(6,\); the model takes \(5,\)"):
        genes(imputed_expression=np.ones(6))
    with pytest.raises(ContractMismatch, match="lacks 4 of the model's 5 genes, the first is BBB2"):
        genes(imputed_expression={"AAA1": 1.0, "CCC3": 2.0})
    with pytest.raises(InputError, match="storm: the model does not see it; it sees imputed_exp"):
        genes(storm=np.ones((2, 4), np.float32), imputed_expression=np.ones(5))
    with pytest.raises(InputError, match="storm: the model does not see it"):
        genes(storm=SlideFeatures("S", np.ones((2, 4), np.float32)), imputed_expression=np.ones(5))


def test_a_frame_of_genes_is_what_an_array_in_their_order_is(scorers):
    values = np.random.default_rng(0).normal(2, 1, size=(7, 5)).astype(np.float32)
    tiles = scorers["genes-of-tiles"]
    framed = tiles(virtual_expression=pd.DataFrame(values, columns=SEEN))
    assert framed.risk == tiles(virtual_expression=values).risk
    assert framed.n_storm_tiles == 7
    genes = scorers["genes"]
    row = values.mean(axis=0)
    named = dict(zip(SEEN, row.tolist(), strict=True)) | {"CCC3": 99.0}
    assert genes(imputed_expression=named).risk == genes(imputed_expression=row).risk


def test_a_bundle_that_sees_storm_alone_is_kept_in_mlflow_which_refuses_tables_in_words(
    scorers, tmp_path
):
    bundle = scorers["spots"].model.bundle
    alone = replace(
        bundle,
        manifest=bundle.manifest.model_copy(
            update={"features": None, "clinical": (), "measurements": ()}
        ),
    )
    write_mlflow_model(alone, tmp_path / "model", model_id="m", run_id="r")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert [column.name for column in loaded.metadata.get_input_schema()] == ["patient_id"]
    with pytest.raises(InputError, match="sees what STORM made of a slide") as refused:
        loaded.predict(pd.DataFrame({"patient_id": ["a"]}))
    assert "storm-clinic score" in str(refused.value)
