"""From features to rows of risk: which model may score, and what a row says."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from storm_clinic.bundle import MeasuredInput, write_bundle
from storm_clinic.cli.main import app
from storm_clinic.errors import CohortError, ContractMismatch, InputError, RegistryError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.steps import score_stream
from storm_clinic.steps.scorable_model import ScorableModel
from storm_clinic.steps.score_file import write_guarded_csv
from storm_clinic.steps.score_request import request_tables
from storm_clinic.steps.score_rows import ScoredRows
from storm_clinic.steps.score_slides import FoundSlides
from storm_clinic.steps.score_stream import ReadPatient, batches
from storm_clinic.steps.score_table import score
from storm_clinic.steps.scorer import Scorer


@pytest.fixture
def locked(registry, candidate):
    return registry.lock("demo-pfi", by="a.weber")


def write_move(registry, model, event: str, **more: str) -> None:
    """Write a move into the trail, as its verb does."""
    body = {"event": event, "model": "demo-pfi", "version": 1, "by": "b.approver"}
    body |= {"bundle_digest": model.bundle.digest, **more}
    registry.trail.append(body, allowed=lambda events: None)


@pytest.fixture(scope="module")
def tables(tmp_path_factory, patients):
    """Clinical table and whose slides are whose, of the 60 patients."""
    folder = tmp_path_factory.mktemp("tables")
    clinical = patients.assign(patient_id=[f"P-{row:02d}" for row in range(60)])
    clinical.to_csv(folder / "clinical.csv", index=False)
    rows = [(f"P-{row:02d}", f"sim-{row:02d}-{n}") for row in range(60) for n in range(1 + row % 2)]
    pd.DataFrame(rows, columns=["patient_id", "slide_id"]).to_csv(
        folder / "patients.csv", index=False
    )
    return folder


@pytest.fixture
def run(workspace, locked, slides, tables):
    """`score` on all patients, with options replaced."""

    def run(source=slides.folder, model="demo-pfi", **options):
        options = {
            "clinical": tables / "clinical.csv",
            "patients": tables / "patients.csv",
            "out": "risks.csv",
            "workspace": workspace,
        } | options
        return score(model, source, **options)

    return run


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ---- which model may score ---------------------------------------------------------------------


def test_a_bare_name_is_the_approved_version_before_a_newer_locked_one(
    workspace, registry, register, bundle
):
    register(bundle.folder)
    locked = registry.lock("demo-pfi", by="a.weber")
    assert Scorer.load("demo-pfi", workspace=workspace).model.notices == (
        "the model is locked, not approved",
    )
    write_move(registry, locked, "approved")
    newer = register(bundle.folder, inputs="2")
    registry.lock(newer.reference, by="a.weber")
    assert Scorer.load("demo-pfi", workspace=workspace).model.reference == "demo-pfi:1"
    assert Scorer.load("demo-pfi@locked", workspace=workspace).model.reference == newer.reference
    assert Scorer.load("demo-pfi@approved", workspace=workspace).model.notices == ()


def test_an_alias_that_was_moved_in_mlflow_changes_nothing(workspace, locked):
    from storm_clinic.tracking import Tracker

    client = Tracker(workspace).database.client
    client.set_registered_model_alias("demo-pfi", "approved", "1")
    with pytest.raises(RegistryError, match="version 1 is locked"):
        Scorer.load("demo-pfi@approved", workspace=workspace)


def test_a_candidate_and_a_rejected_model_score_only_where_that_is_asked_for(
    workspace, candidate, registry
):
    with pytest.raises(RegistryError, match="is candidate: nobody has approved"):
        Scorer.load("demo-pfi@candidate", workspace=workspace)
    found = Scorer.load("demo-pfi:1", workspace=workspace, allow_unapproved=True)
    assert found.model.notices == ("the model is candidate, not approved",)
    registry.lock("demo-pfi", by="a.weber")
    write_move(registry, candidate, "rejected")
    with pytest.raises(RegistryError, match="is rejected"):
        Scorer.load("demo-pfi", workspace=workspace)


def test_a_retired_model_scores_only_on_request_and_every_row_says_why(run, locked, registry):
    write_move(registry, locked, "approved")
    write_move(registry, locked, "retired", reason="a newer scanner")
    with pytest.raises(RegistryError, match=r"retired since .*: a newer scanner.*--allow-retired"):
        run()
    day = registry.trail.events()[-1].when.strftime("%Y-%m-%d")
    table = run(allow_retired=True).table
    assert set(table["model_notice"]) == {f"retired since {day}: a newer scanner"}
    assert set(table["state"]) == {"retired"}


# ---- one patient in Python ---------------------------------------------------------------------


def test_one_patient_scores_as_the_fitted_model_says(workspace, locked, slides, data, fitted):
    scorer = Scorer.load("demo-pfi", workspace=workspace)
    expected = fitted["fusion"].predict(data)
    for at in (0, 3, 13, 17):  # one slide, two slides, age unknown, stage unknown
        names = [f"sim-{at:02d}-{n}" for n in range(1 + at % 2)]
        tiles = [slides.read(name).features for name in names]
        row = data.clinical.iloc[at]
        got = scorer(tiles, clinical={"age": row["age"], "stage": row["stage"]})
        assert got.risk == pytest.approx(expected.risk[at], abs=1e-12)
        for name, values in expected.probabilities.items():
            assert got.probabilities[name] == pytest.approx(values[at], abs=1e-12)
        assert got.risk_group == int(np.searchsorted([-0.4, 0.4], expected.risk[at], side="right"))
        assert got.risk_group_label == ("low", "intermediate", "high")[got.risk_group]
        unknown = {13: ("age",), 17: ("stage",), 0: ("age", "stage")}
        assert got.missing_inputs == unknown.get(at, ())
        assert (got.model, got.state) == ("demo-pfi:1", "locked")
        assert got.spread_note == "one model; no spread"


def test_what_the_model_cannot_take_is_refused_in_words(workspace, locked):
    scorer = Scorer.load("demo-pfi", workspace=workspace)
    tiles, known = np.ones((4, 8), np.float32), {"age": 60, "stage": "Stage I"}
    with pytest.raises(ContractMismatch, match=r"shape \(4, 9\).*\(n_tiles, 8\).*simulated-8d"):
        scorer(np.ones((4, 9), np.float32), clinical=known)
    with pytest.raises(InputError, match="no tile"):
        scorer([], clinical=known)
    with pytest.raises(InputError, match="NaN or infinity"):
        scorer(tiles * np.nan, clinical=known)
    with pytest.raises(InputError, match="sees age, stage, and no covariate"):
        scorer(tiles)
    with pytest.raises(CohortError, match="no column stage"):
        scorer(tiles, clinical={"age": 60})
    with pytest.raises(CohortError, match="'Stage IX' is none of"):
        scorer(tiles, clinical={"age": 60, "stage": "Stage IX"})


def test_a_model_of_covariates_alone_needs_no_slide(
    bundle, manifest, fitted, data, tables, tmp_path
):
    study = bundle.study.resolved() | {"candidate": "clinical"}
    made = write_bundle(
        tmp_path / "b",
        {"clinical": fitted["clinical"].state()},
        manifest.model_copy(update={"study": study}),
    )
    model = ScorableModel(made, "demo-pfi", 1, "approved", datetime.now(UTC))
    scorer = Scorer(model)
    request = request_tables(scorer, [], clinical=tables / "clinical.csv", patients=None)
    table = ScoredRows(scorer, request, FoundSlides(None, [], {})).table(None)
    assert table["risk"].tolist() == fitted["clinical"].predict(data).risk.tolist()
    assert scorer(clinical={"age": None, "stage": None}).missing_inputs == ("age", "stage")


def test_measurements_are_read_by_their_names_and_may_be_absent(tmp_path):
    rna = MeasuredInput(name="rna", unit="log2 TPM", columns=("TP53", "VHL"))
    manifest = SimpleNamespace(measurements=(rna,), clinical=())
    bundle = SimpleNamespace(manifest=manifest)
    scorer = SimpleNamespace(inputs=("image", "rna"), bundle=bundle, sees_clinical=False)
    path = tmp_path / "c.csv"
    path.write_text("patient_id,rna.TP53\ns1,0.1\ns2,\ns3,high\n")
    request = request_tables(scorer, ["s1", "s2", "s3"], clinical=path, patients=None)
    assert request.tables["rna"].to_numpy().tolist()[0][0] == 0.1
    assert request.tables["rna"].isna().to_numpy().tolist()[1:] == [[True, True], [True, True]]
    assert request.problems == {"s3": "rna.TP53: 'high' is no finite number"}


# ---- rows --------------------------------------------------------------------------------------


def test_every_patient_has_one_row_with_the_numbers_of_the_fitted_model(
    run, fitted, data, locked, workspace
):
    done = run()
    rows = rows_of(workspace.root / "risks.csv")
    expected = fitted["fusion"].predict(data)
    assert [row["patient_id"] for row in rows] == [f"P-{at:02d}" for at in range(60)]
    assert [float(row["risk"]) for row in rows] == expected.risk.tolist()
    assert [float(row["risk_at_36m"]) for row in rows] == (
        expected.probabilities["risk_at_36m"].tolist()
    )
    assert [int(row["n_slides"]) for row in rows] == [1 + at % 2 for at in range(60)]
    assert [int(row["n_tiles"]) for row in rows] == data.bags.sizes.tolist()
    assert rows[17]["missing_inputs"] == "stage"
    assert {row["bundle_digest"] for row in rows} == {locked.bundle.digest}
    assert {(row["encoder"], row["encoder_digest"]) for row in rows} == {("simulated-8d", "0" * 64)}
    assert (done.counts["scored"], done.exit_code) == (60, 0)


def test_nobodys_risk_depends_on_who_is_scored_with_him(run, monkeypatch):
    together = run().table["risk"]
    monkeypatch.setattr(score_stream, "BATCH_PATIENTS", 1)
    assert run().table["risk"].tolist() == together.tolist()


def test_processes_that_read_many_patients_give_what_threads_give(run, monkeypatch):
    by_threads = run().table
    monkeypatch.setattr(score_stream, "WORTH_PROCESSES", 1)
    pd.testing.assert_frame_equal(run().table, by_threads)


def test_patients_whose_tiles_have_no_place_are_scored_apart_from_those_that_have():
    tiles, places = [np.ones((3, 2))], [np.zeros((3, 2))]
    known = [True, True, False, True]
    patients = [ReadPatient(at, tiles, places if k else None, ()) for at, k in enumerate(known)]
    assert [[p.at for p in batch] for batch in batches(iter(patients))] == [[0, 1], [2], [3]]


def test_a_slide_that_cannot_be_read_has_its_row_and_no_number(run, slides, tmp_path, workspace):
    folder = tmp_path / "copied"
    shutil.copytree(slides.folder, folder)
    (folder / "sim-02-0.h5").write_bytes(b"no HDF5")
    (folder / "sim-04-0.h5").unlink()
    damaged = folder / "sim-05-1.h5"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    whole = run().table
    done = run(folder)
    lost, absent, partly = (done.table.iloc[at] for at in (2, 4, 5))
    assert np.isnan(lost["risk"])
    assert lost["problem"] == "no slide that can be used"
    assert "sim-02-0" in lost["unread_slides"]
    assert "cannot be read as HDF5" in lost["unread_slides"]
    assert "slide sim-04-0: has no features" in absent["unread_slides"]
    assert (partly["n_slides"], partly["problem"]) == (1, "")
    assert "sim-05-1" in partly["unread_slides"]
    assert partly["risk"] != whole["risk"][5]
    assert done.counts["not_scored"] == 2
    assert done.counts["with_unread_slides"] == 1
    assert done.exit_code == 3
    others = [at for at in range(60) if at not in (2, 4, 5)]
    assert done.table["risk"][others].tolist() == whole["risk"][others].tolist()


def test_a_value_that_is_not_legal_takes_out_its_patient_and_no_one_else(run, tables, tmp_path):
    cells = pd.read_csv(tables / "clinical.csv", dtype=str, keep_default_na=False)
    cells.loc[3, "stage"] = "Stage IX"
    cells.loc[6, "age"] = "old"
    cells.drop(index=8).to_csv(tmp_path / "wrong.csv", index=False)
    table = run(clinical=tmp_path / "wrong.csv").table.set_index("patient_id")
    assert table["problem"]["P-03"].startswith("stage: 'Stage IX' is none of Stage I")
    assert table["problem"]["P-06"] == "age: 'old' is no finite number"
    assert table["problem"]["P-08"] == "no row in wrong.csv"
    assert int(table["risk"].isna().sum()) == 3


def test_a_level_that_nobody_in_development_had_is_out_of_distribution(
    workspace, candidate, patients, slides
):
    scorer = Scorer.load("demo-pfi", workspace=workspace, allow_unapproved=True)
    fitted = scorer.bundle.restore()
    column = fitted.design.covariates.columns[1]
    object.__setattr__(column, "seen", ("Stage I", "Stage II"))
    scorer.__dict__["_fitted"] = fitted
    tiles = slides.read("sim-00-0").features
    unlike = scorer(tiles, clinical={"age": 60, "stage": "Stage III"})
    assert unlike.out_of_distribution is True
    assert "stage: nobody in development was 'Stage III'" in unlike.out_of_distribution_reason
    like = scorer(tiles, clinical={"age": 60, "stage": "Stage II"})
    assert like.out_of_distribution is not True


def test_features_of_another_kind_are_refused_with_both_values(run, tmp_path):
    other = FeatureContract(
        "simulated-8d", "1" * 64, 8, 0.25, 256, dtype="float32", provenance="declared"
    )
    store = FeatureStore.create(tmp_path / "other", other)
    store.write(SlideFeatures("sim-00-0", np.ones((3, 8), np.float32)))
    with pytest.raises(ContractMismatch, match=r"mpp is 0\.25, not 0\.5"):
        run(store.folder)


def test_without_a_table_of_patients_each_slide_is_one(run, tables, tmp_path, slides):
    cells = pd.read_csv(tables / "clinical.csv")
    cells["patient_id"] = [f"sim-{at:02d}-0" for at in range(60)]
    cells.to_csv(tmp_path / "by_slide.csv", index=False)
    table = run(clinical=tmp_path / "by_slide.csv", patients=None).table
    assert table["patient_id"].tolist() == slides.slide_ids()
    second = table["patient_id"].str.endswith("-1")
    assert set(table["problem"][second]) == {"no row in by_slide.csv"}
    assert table["risk"][~second].notna().all()


def test_what_is_missing_from_the_request_is_said(run, tables, tmp_path):
    with pytest.raises(InputError, match="name a folder of slides, a feature store, or a cohort"):
        run(None)
    with pytest.raises(InputError, match="no such file or folder"):
        run("nowhere")
    with pytest.raises(CohortError, match="Give --clinical"):
        run(clinical=None)
    twice = tmp_path / "twice.csv"
    twice.write_text("patient_id,slide_id\nA,sim-00-0\nB,sim-00-0\n")
    with pytest.raises(CohortError, match="row 3: a slide is named twice"):
        run(patients=twice)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="not extracted from slides by this program"):
        run(empty)


def test_text_that_a_spreadsheet_would_run_is_disarmed_and_numbers_are_not_touched(tmp_path):
    table = pd.DataFrame(
        {
            "patient_id": ["=1+1", "@SUM(A1)", "-P1", "+P2", "\tP3", "P=4"],
            "risk": [-0.1 - 0.2, 1e-17, -1.0, 0.0, 5.0, np.nan],
            "n": pd.array([-1, 2, 3, 4, 5, None], dtype="Int64"),
        }
    )
    rows = rows_of(write_guarded_csv(table, tmp_path / "t.csv"))
    ids = ["'=1+1", "'@SUM(A1)", "'-P1", "'+P2", "'\tP3", "P=4"]
    assert [row["patient_id"] for row in rows] == ids
    assert float(rows[0]["risk"]) == -0.1 - 0.2
    assert (rows[2]["risk"], rows[0]["n"], rows[5]["risk"], rows[5]["n"]) == ("-1.0", "-1", "", "")


def test_the_command_prints_counts_and_no_ids(workspace, locked, slides, tables, capsys):
    from typer.testing import CliRunner

    command = ["score", str(slides.folder), "--model", "demo-pfi@locked", "--out", "risks.csv"]
    command += ["--clinical", str(tables / "clinical.csv"), "--json", "-w", str(workspace.root)]
    command += ["--patients", str(tables / "patients.csv")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["scored"], said["not_scored"], said["state"]) == (60, 0, "locked")
    assert "P-0" not in result.output
    assert "sim-" not in result.output
    command = ["registry", "export", "demo-pfi", "--out", "m.zip", "-w", str(workspace.root)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "locked as of row 2" in result.output
    again = score(
        "m.zip",
        slides.folder,
        out="from_archive.csv",
        clinical=tables / "clinical.csv",
        patients=tables / "patients.csv",
        workspace=workspace,
    )
    assert again.table["risk"].tolist() == [
        float(row["risk"]) for row in rows_of(workspace.root / "risks.csv")
    ]
