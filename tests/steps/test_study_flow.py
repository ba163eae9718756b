"""From a study file to evidence: what is promised of training, locking and validation holds."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import (
    CohortError,
    ContractMismatch,
    LeakageError,
    RegistryError,
    StormClinicError,
    TrainingError,
)
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace, digest_file
from storm_clinic.heads import zoo
from storm_clinic.heads.classical import COXNET
from storm_clinic.heads.design_head import DesignHead
from storm_clinic.heads.watching import Sighting
from storm_clinic.predictions import Predictions
from storm_clinic.registry.identity import load_keys
from storm_clinic.registry.moves import Registry
from storm_clinic.steps.external_validation import validate
from storm_clinic.steps.feature_drift import drift_from_development
from storm_clinic.steps.learning_curves import Watcher
from storm_clinic.steps.locking import lock
from storm_clinic.steps.registry_audit import audit
from storm_clinic.steps.study_patients import scored_patients
from storm_clinic.steps.study_report import report
from storm_clinic.steps.study_run import run_study
from storm_clinic.steps.training import train
from storm_clinic.study import Study


def read_study(workspace: Workspace, **replaced: str) -> Study:
    """The study of a workspace, with pieces of its text replaced."""
    path = workspace.pipelines / "study.yaml"
    text = path.read_text()
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return Study.read(path)


def test_every_patient_is_predicted_once_a_repeat_or_listed_with_a_reason(finished):
    workspace, result = finished
    model = result.model
    run = Registry(workspace)
    folder = next((workspace.mlruns / "artifacts").rglob("splits.json")).parent
    predictions = Predictions.read(folder / "predictions.parquet").of(model="fusion")
    with (folder / "attrition.csv").open() as file:
        steps = [row for row in csv.DictReader(file) if row["unit"] == "patients"]
    assert len(predictions.table) == int(steps[-1]["after"]) == 88
    lost = sum(int(row["n"]) for row in steps)
    assert lost + 88 == Cohort.read("north", workspace).n_patients
    assert run.find(model.reference).state == "locked"


def test_the_planted_signal_is_found_on_the_other_hospital(finished):
    _, result = finished
    evidence = result.validations[0].evidence
    assert evidence.one("c_index", model="fusion").lower > 0.55
    assert evidence.one("c_index_gain", model="fusion", over="clinical").lower > 0.0


def test_predictions_are_sealed_before_the_evidence_and_stay_as_they_were(finished):
    workspace, result = finished
    kinds = [event.kind for event in Registry(workspace).find(result.model.reference).events]
    assert kinds == ["candidate", "locked", "predictions_sealed", "validated"]
    seal = Registry(workspace).find(result.model.reference).find_event("predictions_sealed")
    path = result.validations[0].folder / "predictions.parquet"
    assert digest_file(path) == seal.body["predictions_digest"]


def test_validating_again_scores_nothing_and_returns_what_is_on_record(finished):
    workspace, result = finished
    again = validate(result.model, workspace=workspace)
    assert again.cohorts[0].evidence == result.validations[0].evidence
    assert len(Registry(workspace).find(result.model.reference).events) == 4


def test_running_again_makes_no_new_version_and_the_same_page(finished):
    workspace, result = finished
    page = result.report_path.read_bytes()
    again = run_study("pipelines/study.yaml", workspace=workspace, lock_by="a.weber")
    assert again.model.reference == result.model.reference
    assert again.report_path.read_bytes() == page


def test_no_patient_or_slide_id_is_anywhere_in_mlruns_or_reports(finished):
    workspace, _ = finished
    ids = [b"NORTH-0", b"SOUTH-0", b"ORPHAN", b"NOBODY"]
    places = [*workspace.mlruns.rglob("*"), *workspace.reports.rglob("*")]
    files = [path for path in places if path.is_file()]
    assert len(files) > 20
    leaking = [path.name for path in files if any(i in path.read_bytes() for i in ids)]
    assert leaking == []


def test_mlflow_holds_one_experiment_of_the_study_with_a_child_a_model(finished):
    workspace, _ = finished
    with sqlite3.connect(workspace.mlruns / "mlflow.db") as database:
        used = database.execute(
            "select distinct e.name from runs r join experiments e using (experiment_id)"
        ).fetchall()
        parents = database.execute(
            "select count(*) from tags where key = 'mlflow.parentRunId'"
        ).fetchone()
        folds = database.execute(
            "select count(distinct step) from metrics where key = 'fold_c_index'"
        ).fetchone()
    assert used == [("test-study",)]
    assert parents == (2,)
    assert folds == (3,)


def test_a_bundle_says_how_development_looks_in_features_and_covariates(finished):
    workspace, result = finished
    bundle = result.model.bundle
    assert bundle.reference.n_patients == 88
    assert bundle.manifest.without_reference == {}
    store = FeatureStore.open(workspace.store("north", "toy"))
    means = [store.read(s).features.mean(axis=0) for s in store.slide_ids() if s.endswith("-S0")]
    assert 0.5 < np.median(np.abs(bundle.reference.project(means))) < 1
    age, stage = bundle.manifest.clinical
    ages = Cohort.read("north", workspace).patients["age"].dropna()
    assert age.observed.lowest <= ages.min() < ages.max() <= age.observed.highest
    assert stage.observed is None


def test_features_of_the_other_hospital_are_held_against_development_in_all_and_by_site(finished):
    _, result = finished
    evidence = result.validations[0].evidence
    [drift] = evidence.analyses.drift
    assert (drift.cohort, drift.features, drift.n_development) == ("south", "image", 88)
    divisions = [(group.division, group.n_patients) for group in drift.comparisons]
    assert divisions == [("all", 58), *[("site", 15)] * 2, *[("site", 14)] * 2]
    # Both hospitals were drawn alike.
    assert all(group.share_outside <= 0.1 for group in drift.comparisons)
    assert next(check for check in evidence.checks if check.code == "SC127").status == "pass"
    assert "Do features look like development" in result.report_path.read_text()


def test_drift_is_found_without_reading_an_outcome(finished, monkeypatch):
    workspace, result = finished
    monkeypatch.setattr(Cohort, "outcome", None)
    bundle = result.model.bundle
    keys = load_keys(workspace)
    scored = scored_patients(bundle.study, "south", workspace=workspace, keys=keys)
    assert drift_from_development(bundle, scored) == result.validations[0].evidence.analyses.drift


def test_a_model_from_before_references_says_that_it_has_none(finished):
    workspace, result = finished
    bundle = replace(result.model.bundle, references={})
    keys = load_keys(workspace)
    scored = scored_patients(bundle.study, "south", workspace=workspace, keys=keys)
    [drift] = drift_from_development(bundle, scored)
    assert drift.comparisons == ()
    assert "trained before such records were kept" in drift.note


def test_the_report_answers_the_question_and_fetches_nothing(finished):
    _, result = finished
    page = result.report_path.read_text()
    assert "Does a simulated morphology predict a simulated progression?" in page
    assert "SIMULATED" in page.upper()
    for reference in ('src="http', 'href="http', "<script", "@import", "url(http"):
        assert reference not in page


def test_the_same_study_elsewhere_gives_the_same_predictions(finished, tmp_path):
    workspace, result = finished
    copy = Workspace(tmp_path / "copy")
    for folder in ("cohorts", "features", "pipelines"):
        shutil.copytree(workspace.root / folder, copy.root / folder)
    candidate = train(Study.read(copy.pipelines / "study.yaml"), workspace=copy)
    ours = next((workspace.mlruns / "artifacts").rglob("splits.json")).parent
    assert digest_file(candidate.folder / "predictions.parquet") == digest_file(
        ours / "predictions.parquet"
    )
    assert candidate.model.bundle.arrays.keys() == result.model.bundle.arrays.keys()
    for name, arrays in result.model.bundle.arrays.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(candidate.model.bundle.arrays[name][key], array)


def test_a_workspace_that_was_taken_elsewhere_has_all_and_repeats_nothing(finished, tmp_path):
    first, result = finished
    moved = Workspace(tmp_path / "Elsewhere (2)")
    shutil.copytree(first.root, moved.root)
    naming = [
        path.name
        for path in moved.mlruns.rglob("*")
        if path.is_file() and str(first.root).encode() in path.read_bytes()
    ]
    assert naming == [], "so that nothing here can lead back to the first place"
    page = result.report_path.read_bytes()
    shutil.rmtree(moved.reports)
    again = run_study("pipelines/study.yaml", workspace=moved, lock_by="a.weber")
    assert again.model.reference == result.model.reference
    assert again.report_path.read_bytes() == page
    stored = validate("test-study", workspace=moved).cohorts[0]
    assert stored.evidence == result.validations[0].evidence
    assert stored.folder.is_relative_to(moved.mlruns)
    assert len(Registry(moved).trail.events()) == len(Registry(first).trail.events())


def test_a_candidate_cannot_be_validated_before_it_is_locked(hospitals):
    candidate = train(read_study(hospitals), workspace=hospitals)
    with pytest.raises(RegistryError, match="candidate"):
        validate(candidate.model, workspace=hospitals)


def test_a_patient_in_both_cohorts_stops_the_validation_before_anything_is_sealed(hospitals):
    candidate = train(read_study(hospitals), workspace=hospitals)
    locked = lock(candidate.model, by="a.weber", workspace=hospitals)
    for table in ("clinical.csv", "slides.csv"):
        path = hospitals.cohorts / "south" / table
        path.write_text(path.read_text().replace("SOUTH-005,", "NORTH-005,"))
    with pytest.raises(LeakageError, match="1 patient"):
        validate(locked, workspace=hospitals)
    assert Registry(hospitals).find(locked.reference).find_event("predictions_sealed") is None


def test_the_same_features_under_another_patient_are_seen_too(hospitals):
    candidate = train(read_study(hospitals), workspace=hospitals)
    locked = lock(candidate.model, by="a.weber", workspace=hospitals)
    north = FeatureStore.open(hospitals.store("north", "toy"))
    south = FeatureStore.open(hospitals.store("south", "toy"))
    copied = north.read("NORTH-004-S0").features
    south.write(SlideFeatures("SOUTH-004-S0", copied))
    with pytest.raises(LeakageError, match="1 feature array"):
        validate(locked, workspace=hospitals)


def test_features_of_another_encoder_are_refused_with_both_values(hospitals):
    candidate = train(read_study(hospitals), workspace=hospitals)
    locked = lock(candidate.model, by="a.weber", workspace=hospitals)
    folder = hospitals.store("south", "toy")
    contents = [FeatureStore.open(folder).read(s) for s in FeatureStore.open(folder).slide_ids()]
    shutil.rmtree(folder)
    other = FeatureContract("toy", None, 6, 0.5, 224, dtype="float32", provenance="declared")
    store = FeatureStore.create(folder, other)
    for slide in contents:
        store.write(slide)
    with pytest.raises(ContractMismatch, match=r"mpp is 0\.5, not None"):
        validate(locked, workspace=hospitals)


def test_a_covariate_in_another_unit_is_refused_with_both_values(hospitals):
    candidate = train(read_study(hospitals), workspace=hospitals)
    locked = lock(candidate.model, by="a.weber", workspace=hospitals)
    path = hospitals.cohorts / "south" / "cohort.yaml"
    path.write_text(path.read_text().replace("unit: years", "unit: months"))
    with pytest.raises(CohortError, match=r"age: unit is 'months'; development has 'years'"):
        validate(locked, workspace=hospitals)


def test_edited_evidence_is_not_reported(hospitals):
    result = run_study("pipelines/study.yaml", workspace=hospitals, lock_by="a.weber")
    path = result.validations[0].folder / "evidence.json"
    document = json.loads(path.read_text())
    document["estimates"][0]["value"] = 0.999
    document["estimates"][0]["upper"] = 1.0
    path.write_text(json.dumps(document))
    with pytest.raises(RegistryError, match="not the evidence that was recorded"):
        report(result.model, workspace=hospitals)


def test_a_training_that_was_killed_goes_on_after_its_last_finished_model(hospitals):
    study = read_study(hospitals)

    def kill(what: str, done: int, total: int) -> None:
        if what == "cross-validate fusion" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(study, workspace=hospitals, progress=kill)
    seen: list[str] = []
    train(study, workspace=hospitals, progress=lambda what, *_: seen.append(what))
    assert "cross-validate fusion" in seen
    assert "cross-validate clinical" not in seen


@dataclass(frozen=True)
class _Waiting(DesignHead):
    """Coxnet that goes on after its third penalty only when it is let."""

    go_on: threading.Event | None = None

    def path(self, train, recipe, watch=None):
        for at, stage in enumerate(super().path(train, recipe, watch)):
            if at == 3:
                assert self.go_on.wait(120), "nobody saw a point"
            yield stage


def test_points_of_a_curve_are_in_mlflow_before_the_fit_ends(hospitals, monkeypatch):
    gate = threading.Event()
    waiting = _Waiting(**(vars(COXNET) | {"name": "waiting"}), go_on=gate)
    monkeypatch.setattr(zoo, "_OWN", (*zoo._OWN, waiting))
    slow = "  - {name: slow, head: waiting, inputs: [image]}\n  - name: fusion\n"
    study = read_study(hospitals, models=("  - name: fusion\n", slow))
    seen = []
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(train, study, workspace=hospitals)
        deadline = time.monotonic() + 100
        while not seen and not training.done() and time.monotonic() < deadline:
            seen = _curve(hospitals, "r1_f1/held_out")
            time.sleep(0.1)
        assert not training.done()
        gate.set()
        candidate = training.result()
    assert [step for step, _ in seen] == [1, 2, 3]
    live = [value for _, value in seen]
    on_record = [_inner(path)[:3] for path in hospitals.mlruns.rglob("folds.json")]
    assert pytest.approx(live) in on_record
    assert candidate.model.state == "candidate"


def _curve(workspace, key) -> list[tuple[int, float]]:
    """Points of the model called slow."""
    if not (workspace.mlruns / "mlflow.db").exists():
        return []
    with sqlite3.connect(workspace.mlruns / "mlflow.db", timeout=60) as database:
        return database.execute(
            "select m.step, m.value from metrics m join runs r using (run_uuid) "
            "where m.key = ? and r.name = 'slow' order by m.step",
            (key,),
        ).fetchall()


def _inner(folds) -> list[float]:
    inner = json.loads(folds.read_text())[0]["inner"]
    return inner[0]["held_out"] if inner else []


@dataclass(frozen=True)
class _Broken(DesignHead):
    def path(self, train, recipe, watch=None):
        raise TrainingError("is broken")


def test_all_models_that_fail_are_named_and_the_others_are_kept(hospitals, monkeypatch):
    own = zoo._OWN
    broken = _Broken(**(vars(COXNET) | {"name": "broken"}))
    monkeypatch.setattr(zoo, "_OWN", (*own, broken))
    two = "".join(f"  - {{name: {n}, head: broken, inputs: [image]}}\n" for n in ("b1", "b2"))
    study = read_study(hospitals, models=("  - name: fusion\n", f"{two}  - name: fusion\n"))
    with pytest.raises(TrainingError, match=r"2 of 4 models(.|\n)*'b1'(.|\n)*'b2'"):
        train(study, workspace=hospitals)
    monkeypatch.setattr(zoo, "_OWN", (*own, replace(COXNET, name="broken")))
    told: list[str] = []
    candidate = train(study, workspace=hospitals, progress=lambda what, *_: told.append(what))
    fitted = {what for what in told if what.startswith("cross-validate")}
    assert fitted == {"cross-validate b1", "cross-validate b2"}
    timings = json.loads((candidate.folder / "timings.json").read_text())["models"]
    assert all(timings[name]["cross_validation"] > 0 for name in ("clinical", "b1", "b2", "fusion"))
    assert [name for name, parts in timings.items() if "refit" in parts] == ["clinical", "fusion"]
    with sqlite3.connect(hospitals.mlruns / "mlflow.db") as database:
        logged = database.execute("select key, value from metrics where key like 'seconds/%'")
        sums = {f"seconds/{name}": sum(parts.values()) for name, parts in timings.items()}
        assert dict(logged.fetchall()) == pytest.approx(sums)


def test_progress_says_fold_stage_and_held_out_score(hospitals):
    told: list[str] = []
    train(read_study(hospitals), workspace=hospitals, progress=lambda what, *_: told.append(what))
    # A fit of a second may be over before anybody looks; that it ended is always told.
    assert any(what.startswith("fusion, repeat 1, fold ") for what in told)
    assert any(what.startswith("fusion, all patients | ") for what in told)
    looked: list[tuple[str, int, int]] = []
    watcher = Watcher("m", lambda *said: looked.append(said), SimpleNamespace(log_points=list))
    watcher([Sighting(0, 2, 1, 4, stage=7, loss=0.3, held_out=-1.25)])
    watcher([Sighting(0, 2, 0, 4, stage=3, loss=0.2, held_out=None)])
    assert looked == [
        ("m, repeat 1, fold 3 | setting 1 of 4, stage 7, held-out -1.250", 0, 5),
        ("m, repeat 1, fold 3 | refit, stage 3", 4, 5),
    ]


def test_no_event_at_all_is_an_error_that_says_so(hospitals):
    path = hospitals.cohorts / "north" / "clinical.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "progressed": "0"} for row in rows)
    with pytest.raises((CohortError, TrainingError), match="0 of 88 patients"):
        train(read_study(hospitals), workspace=hospitals)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("head: cox,", "head: coxs,", "unknown head 'coxs'; did you mean 'cox'"),
        ("epochs: 40", "epoch: 40", "did you mean 'epochs'"),
        ("metric: c_index_gain", "metric: c_indx_gain", "c_indx_gain"),
        ("name: pfs", "name: pfx", "no endpoint 'pfx'; did you mean 'pfs'"),
        ("clinical: [age, stage]", "clinical: [age, stages]", "did you mean 'stage'"),
        ("encoder: toy", "encoder: toi", "holds no contract.json"),
    ],
)
def test_a_word_that_nobody_knows_is_refused_before_anything_is_trained(
    hospitals, old, new, message
):
    with pytest.raises(StormClinicError, match=message):
        train(read_study(hospitals, edit=(old, new)), workspace=hospitals)
    assert not (hospitals.mlruns / "mlflow.db").exists()


def test_a_binary_endpoint_goes_the_same_way(hospitals):
    study = read_study(
        hospitals,
        endpoint=(
            "endpoint: {name: pfs, horizons_months: [6, 12], tau_months: 18}",
            "endpoint: {name: response}",
        ),
        clinical=("head: cox,", "head: logistic,"),
        fusion=("head: attention-cox", "head: attention-classes"),
        claim=("metric: c_index_gain", "metric: auroc_gain"),
    )
    result = run_study(study, workspace=hospitals, lock_by="a.weber")
    assert result.validations[0].evidence.one("auroc", model="fusion").lower > 0.6
    keys = load_keys(hospitals).patient_keys(["SOUTH-010"])
    predicted = Predictions.read(result.validations[0].folder / "predictions.parquet").table
    row = predicted[(predicted["patient_key"] == keys[0]) & (predicted["model"] == "fusion")]
    assert row["p_no"].item() + row["p_yes"].item() == pytest.approx(1.0)


def test_folds_and_risks_do_not_depend_on_the_secret_but_keys_do(hospitals, tmp_path, monkeypatch):
    def predictions():
        candidate = train(read_study(hospitals), workspace=hospitals)
        table = Predictions.read(candidate.folder / "predictions.parquet").of(model="fusion").table
        ids = [f"NORTH-{number:03d}" for number in range(2, 90)]
        keys = load_keys(hospitals).patient_keys(ids)
        return table.set_index("patient_key").loc[list(keys)].set_axis(ids)

    first = predictions()
    monkeypatch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path / "another"))
    second = predictions()
    np.testing.assert_array_equal(first["fold"], second["fold"])
    np.testing.assert_array_equal(first["risk"], second["risk"])


def test_stored_predictions_are_not_in_the_order_of_the_ids(finished):
    workspace, _ = finished
    folder = next((workspace.mlruns / "artifacts").rglob("splits.json")).parent
    keys = Predictions.read(folder / "predictions.parquet").of(model="fusion").table["patient_key"]
    by_id = load_keys(workspace).patient_keys(f"NORTH-{number:03d}" for number in range(2, 90))
    assert sorted(keys) == sorted(by_id)
    assert list(keys) == sorted(by_id)
    assert list(keys) != list(by_id)


def test_a_study_that_was_trained_locked_and_validated_is_clean_and_fully_covered(finished):
    workspace, result = finished
    found = audit(workspace=workspace)
    assert found.findings == ()
    assert found.notes == ()
    counts = found.verified
    assert (counts.versions, counts.predictions, counts.evidence) == (1, 1, 2)
    evidence = [result.report.content.development, *result.report.content.validation]
    values = [
        value
        for item in evidence
        for estimate in item.estimates
        for value in (estimate.value, estimate.lower, estimate.upper)
        if value is not None and estimate.level is None
    ]
    assert counts.metrics == len(values) > 50
