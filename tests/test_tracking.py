"""Runs are found again by what they were made from, and nothing of a patient is in them."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storm_clinic.errors import StorageError, TrainingError
from storm_clinic.files import Workspace
from storm_clinic.predictions import Predictions
from storm_clinic.registry.identity import PatientKeys
from storm_clinic.study import Study
from storm_clinic.tracking import Metric, Tracker, fold_step, sqlite_store
from storm_clinic.tracking.client import import_mlflow, mlflow_errors

INPUTS = {"tcga_kirc/clinical.csv": "a" * 64, "features/tcga_kirc": "b" * 64}


def _study(**changes) -> Study:
    return Study.from_document(
        {
            "format": 1,
            "study": "kirc-pfi",
            "question": "Does histology predict progression after nephrectomy?",
            "endpoint": {"name": "pfi", "horizons_months": [12, 36], "tau_months": 60},
            "features": {"encoder": "hipt-vit4k"},
            "development": ["tcga_kirc"],
            "validation": ["tcga_kirp"],
            "clinical": ["age"],
            "candidate": "fusion",
            "models": [
                {"name": "clinical", "head": "cox", "inputs": ["clinical"]},
                {
                    "name": "fusion",
                    "head": "attention-cox",
                    "inputs": ["image", "clinical"],
                    "tune": {"dropout": [0.0, 0.25]},
                },
            ],
            "evaluation": {"folds": 5, "repeats": 2, "seed": 7},
            **changes,
        }
    )


@pytest.fixture
def workspace(tmp_path, empty_mlflow_database) -> Workspace:
    # A space and an umlaut: both are common in the names of real folders.
    workspace = Workspace(tmp_path / "Prüfung 1")
    workspace.mlruns.mkdir(parents=True)
    shutil.copy(empty_mlflow_database, workspace.mlruns / "mlflow.db")
    return workspace


@pytest.fixture
def tracker(workspace) -> Tracker:
    return Tracker(workspace)


def test_looking_for_a_training_makes_no_database(tmp_path):
    tracker = Tracker(Workspace(tmp_path))
    assert tracker.find_study(_study(), inputs=INPUTS) is None
    assert list(tmp_path.iterdir()) == []


def test_a_finished_training_is_found_by_study_and_inputs_alone(tracker):
    study = _study()
    assert tracker.find_study(study, inputs=INPUTS) is None
    with tracker.start_study(study, inputs=INPUTS) as run:
        pass
    found = tracker.find_study(study, inputs=INPUTS)
    assert found.run_id == run.run_id
    assert found.same_code
    assert tracker.find_study(study, inputs={**INPUTS, "features/tcga_kirc": "c" * 64}) is None
    assert tracker.find_study(_study(clinical=["sex"]), inputs=INPUTS) is None


def test_runs_of_a_study_are_in_its_own_experiment_and_models_are_children(tracker):
    with tracker.start_study(_study(), inputs=INPUTS) as run, run.start_model("fusion") as child:
        pass
    client = tracker.database.client
    experiment = client.get_experiment_by_name("kirc-pfi")
    logged = client.get_run(child.run_id)
    assert logged.info.experiment_id == experiment.experiment_id != "0"
    assert logged.data.tags["mlflow.parentRunId"] == run.run_id
    assert logged.data.params["head"] == "attention-cox"
    assert logged.data.params["tune.dropout"] == "[0.0, 0.25]"
    assert client.get_run(run.run_id).data.params["evaluation.folds"] == "5"
    assert client.search_runs(["0"]) == []


def test_every_fold_of_every_repeat_keeps_its_own_value(tracker):
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.5, 0.9, (3, 5))
    with tracker.start_study(_study(), inputs=INPUTS) as run:
        run.log(
            metrics=[
                Metric("c_index", scores[repeat, fold], fold_step(repeat, fold, folds=5))
                for repeat in range(3)
                for fold in range(5)
            ]
        )
    history = tracker.database.client.get_metric_history(run.run_id, "c_index")
    by_step = {item.step: item.value for item in history}
    assert [by_step[step] for step in range(15)] == scores.ravel().tolist()


def test_more_than_one_batch_of_anything_arrives_whole(tracker):
    curve = [Metric("loss", 1 / (1 + step), step) for step in range(2300)]
    params = {f"option.{i}": i for i in range(230)}
    tags = {f"note_{i}": "x" for i in range(130)}
    with tracker.start_study(_study(), inputs=INPUTS) as run:
        run.log(metrics=curve, params={**params, "long": "y" * 9000}, tags=tags)
    logged = tracker.database.client.get_run(run.run_id)
    history = tracker.database.client.get_metric_history(run.run_id, "loss")
    assert sorted(item.step for item in history) == list(range(2300))
    assert params.items() <= {k: _number(v) for k, v in logged.data.params.items()}.items()
    assert logged.data.params["long"].endswith("(cut)")
    assert sum(name.startswith("storm_clinic.note_") for name in logged.data.tags) == 130


def _number(text: str):
    return int(text) if text.isdigit() else text


def test_the_files_of_a_run_say_what_it_was_made_from(tracker, tmp_path):
    output = tmp_path / "output"
    (output / "curves").mkdir(parents=True)
    (output / "curves" / "fusion.csv").write_text("epoch,loss\n")
    study = _study()
    with tracker.start_study(study, inputs=INPUTS) as run:
        run.log(artifacts=output)
    assert (run.artifacts / "curves" / "fusion.csv").read_text() == "epoch,loss\n"
    assert Study.from_document(_json(run.artifacts / "study.json")["study"]).digest == study.digest
    assert _json(run.artifacts / "inputs.json") == INPUTS
    environment = _json(run.artifacts / "environment.json")
    assert environment["packages"]["numpy"] == np.__version__
    assert len(environment["code"]["digest"]) == 64


def _json(path: Path):
    return pd.read_json(path, typ="series").to_dict()


@pytest.mark.parametrize(
    ("error", "status"), [(TrainingError("no events"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_that_ends_badly_says_so_and_is_taken_up_again(tracker, error, status):
    study = _study()
    with pytest.raises(type(error)), tracker.start_study(study, inputs=INPUTS) as first:
        with first.start_model("clinical") as done:
            done.log(metrics=[Metric("c_index", 0.7)])
        with first.start_model("fusion"):
            raise error
    assert tracker.read_run(first.run_id).status == status
    assert tracker.find_study(study, inputs=INPUTS) is None
    with tracker.start_study(study, inputs=INPUTS) as second:
        assert second.run_id == first.run_id
        assert second.finished_model("clinical").metrics == {"c_index": 0.7}
        assert second.finished_model("fusion") is None
    assert tracker.find_study(study, inputs=INPUTS).status == "FINISHED"


def test_a_killed_training_is_taken_up_again_and_its_dead_child_no_longer_runs(workspace):
    code = """
        import os, signal, sys
        from pathlib import Path
        from storm_clinic.files import Workspace
        from storm_clinic.study import Study
        from storm_clinic.tracking import Tracker
        study = Study.read(sys.argv[2])
        with Tracker(Workspace(Path(sys.argv[1]))).start_study(study, inputs={"a": "b"}) as run:
            with run.start_model("clinical"):
                os.kill(os.getpid(), signal.SIGKILL)
    """
    study = _study()
    path = workspace.root / "study.json"
    path.write_text(study.model_dump_json(by_alias=True))  # JSON is YAML
    command = [sys.executable, "-c", textwrap.dedent(code), str(workspace.root), str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    tracker = Tracker(workspace)
    with tracker.start_study(study, inputs={"a": "b"}) as run:
        assert run.finished_model("clinical") is None
    experiment = tracker.database.client.get_experiment_by_name("kirc-pfi").experiment_id
    statuses = {
        r.info.run_name: r.info.status for r in tracker.database.client.search_runs([experiment])
    }
    assert statuses == {run.name: "FINISHED", "clinical": "KILLED"}


def test_two_processes_cannot_train_one_study_at_once(workspace):
    study = _study()
    other = Tracker(workspace)
    with (
        Tracker(workspace).start_study(study, inputs=INPUTS),
        pytest.raises(StorageError, match="another process is training 'kirc-pfi'"),
        other.start_study(study, inputs=INPUTS),
    ):
        pass
    with other.start_study(_study(study="kirc-os"), inputs=INPUTS):
        pass


def test_no_global_state_of_mlflow_is_left(tracker, tmp_path, monkeypatch):
    mlflow = import_mlflow()
    monkeypatch.chdir(tmp_path)
    before = (mlflow.get_tracking_uri(), mlflow.active_run(), logging.getLogger("mlflow").level)
    with tracker.start_study(_study(), inputs=INPUTS) as run, run.start_model("clinical"):
        assert mlflow.active_run() is None
    after = (mlflow.get_tracking_uri(), mlflow.active_run(), logging.getLogger("mlflow").level)
    assert after == before
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert [path.name for path in tmp_path.iterdir()] == ["Prüfung 1"], "nothing in the cwd"


def test_importing_the_room_imports_no_mlflow():
    code = "import sys, storm_clinic.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_processes_that_start_together_make_one_whole_database(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from storm_clinic.files import Workspace
        from storm_clinic.tracking import Tracker
        from storm_clinic.tracking.client import import_mlflow
        import_mlflow()
        sys.stdin.read()  # until all processes are there
        database = Tracker(Workspace(Path(sys.argv[1]))).database
        database.create_run("study", "run", {})
    """
    gate, opener = os.pipe()  # one pipe for all: closing it lets all go at once
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    crowd = [subprocess.Popen(command, stdin=gate, stderr=subprocess.PIPE) for _ in range(2)]
    os.close(gate)
    os.close(opener)
    assert [(p.communicate()[1], p.returncode) for p in crowd] == [(b"", 0)] * 2
    database = Tracker(Workspace(tmp_path)).database
    assert len(database.search("study", {})) == 2
    assert not list(database.folder.glob(".mlflow*"))
    default = database.client.get_experiment("0").artifact_location
    assert default == "storm-clinic:/0", "not where it was made"


def test_a_new_database_is_made_without_a_word_and_without_telemetry(tmp_path):
    code = """
        import warnings
        warnings.simplefilter("error")
        from storm_clinic.files import Workspace
        from storm_clinic.tracking import Tracker
        assert Tracker(Workspace()).database.client is not None
        from mlflow.telemetry.client import get_telemetry_client
        from mlflow.telemetry.utils import is_telemetry_disabled
        assert is_telemetry_disabled() and get_telemetry_client() is None
    """
    off = ("CI", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "PYTEST_CURRENT_TEST")
    environment = {name: value for name, value in os.environ.items() if name not in off}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(
        command, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]


def test_a_file_that_is_no_database_is_named_at_once(tracker):
    tracker.database.place.database_path.write_text("this is not SQLite" * 100)
    with pytest.raises(StorageError, match=r"mlflow\.db: cannot be read as a database"):
        tracker.find_study(_study(), inputs=INPUTS)


def test_a_database_that_another_program_holds_is_not_called_damaged(tracker, monkeypatch):
    monkeypatch.setattr(sqlite_store, "_WAIT_S", 0.1)
    path = tracker.database.place.database_path
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"mlflow\.db: another program holds .* locked"):
            tracker.find_study(_study(), inputs=INPUTS)
        other.execute("ROLLBACK")
    assert tracker.find_study(_study(), inputs=INPUTS) is None


def test_a_lock_that_outlasts_mlflow_is_named_without_its_statements(tracker):
    import_mlflow()
    from mlflow.exceptions import MlflowException

    said = "(sqlite3.OperationalError) database is locked [SQL: SELECT runs.run_uuid ...]"
    with (
        pytest.raises(StorageError, match="another program holds") as raised,
        mlflow_errors("x.db"),
    ):
        raise MlflowException(said)
    assert "SELECT" not in str(raised.value)


def test_an_experiment_deleted_in_the_ui_is_explained(tracker):
    study = _study()
    with tracker.start_study(study, inputs=INPUTS):
        pass
    client = tracker.database.client
    client.delete_experiment(client.get_experiment_by_name("kirc-pfi").experiment_id)
    with pytest.raises(StorageError, match=r"was deleted in MLflow.*mlflow experiments restore"):
        tracker.find_study(study, inputs=INPUTS)


def test_a_moved_mlruns_goes_on_in_its_new_place(tracker, workspace, tmp_path):
    study, output = _study(), tmp_path / "output"
    output.mkdir()
    (output / "late.txt").write_text("after the move")
    with tracker.start_study(study, inputs=INPUTS) as done:
        pass
    with pytest.raises(TrainingError), tracker.start_study(study, inputs={"a": "b"}) as begun:
        raise TrainingError("no events")
    old = workspace.root
    moved = Tracker(Workspace(old.rename(old.with_name("moved"))))
    assert moved.find_study(study, inputs=INPUTS).run_id == done.run_id
    assert _json(moved.read_run(done.run_id).artifacts / "inputs.json") == INPUTS
    # In this very process, where MLflow's client remembers the folder of each run by its id.
    with moved.start_study(study, inputs={"a": "b"}) as run:
        assert run.run_id == begun.run_id
        run.log(artifacts=output)
    assert (run.artifacts / "late.txt").is_relative_to(old.with_name("moved") / "mlruns")
    assert (run.artifacts / "late.txt").read_text() == "after the move"
    assert not old.exists()


def test_a_copy_and_its_original_do_not_write_into_each_other(tracker, workspace, tmp_path):
    study, output = _study(), tmp_path / "output"
    output.mkdir()
    (output / "note.txt").write_text("x")
    with pytest.raises(TrainingError), tracker.start_study(study, inputs=INPUTS):
        raise TrainingError("no events")
    twin = Workspace(tmp_path / "twin")
    shutil.copytree(workspace.root, twin.root)
    with Tracker(twin).start_study(study, inputs=INPUTS) as run:
        run.log(artifacts=output)
    assert len(list(twin.mlruns.rglob("note.txt"))) == 1
    assert list(workspace.mlruns.rglob("note.txt")) == []


class TestDatabaseOfAnOlderVersion:
    """Its experiments name absolute folders."""

    @pytest.fixture
    def old(self, tracker, workspace) -> Workspace:
        place = workspace.mlruns / "artifacts" / "kirc-pfi"
        tracker.database.client.create_experiment("kirc-pfi", artifact_location=place.as_uri())
        return workspace

    def test_it_goes_on_where_it_is(self, old):
        tracker, study = Tracker(old), _study()
        with tracker.start_study(study, inputs=INPUTS) as run:
            pass
        found = tracker.find_study(study, inputs=INPUTS)
        assert found.run_id == run.run_id
        assert found.artifact_uri.startswith("file:///")
        assert _json(found.artifacts / "inputs.json") == INPUTS

    def test_it_is_not_written_to_at_its_old_place_after_a_move(self, old):
        study = _study()
        with Tracker(old).start_study(study, inputs=INPUTS) as run:
            pass
        moved = Tracker(Workspace(old.root.rename(old.root.with_name("moved"))))
        for use in (
            lambda: moved.find_study(study, inputs=INPUTS),
            lambda: moved.start_study(study, inputs={}).__enter__(),
            lambda: moved.read_run(run.run_id),
        ):
            with pytest.raises(StorageError, match=r"was moved or copied.*Move it back"):
                use()
        assert not old.root.exists()


def test_what_mlflow_refuses_comes_in_our_words(tracker):
    with (
        tracker.start_study(_study(), inputs=INPUTS) as run,
        pytest.raises(StorageError, match=r"MLflow says: .*Names may only contain"),
    ):
        run.log(metrics=[Metric("c_index@60", 0.7)])


def test_no_patient_or_slide_id_is_anywhere_under_mlruns(tracker, tmp_path):
    patients = [f"TCGA-B0-{number}" for number in range(4810, 4830)]
    slides = [f"{patient}-01Z-00-DX1" for patient in patients]
    keys = PatientKeys(b"0123456789abcdef0123456789abcdef")
    table = pd.DataFrame({"cohort": "tcga_kirc", "patient_key": keys.patient_keys(patients)})
    table = table.assign(model="fusion", repeat=0, fold=0, risk=np.linspace(0, 1, len(patients)))
    output = tmp_path / "output"
    output.mkdir()
    Predictions(table).write(output / "predictions.parquet")
    (output / "slides.txt").write_text("\n".join(map(keys.slide_key, slides)))
    with tracker.start_study(_study(), inputs=INPUTS) as run, run.start_model("fusion") as child:
        child.log(artifacts=output, metrics=[Metric("c_index", 0.6)])
    with (
        pytest.raises(TrainingError),
        tracker.start_validation(_study(), version="kirc-pfi:1", cohort="tcga_kirp"),
    ):
        raise TrainingError(f"{patients[0]} has no slide")  # a message that quotes an id
    text = _everything_readable(tracker.database.folder)
    assert keys.patient_key(patients[3]) in text, "the search must see into parquet files"
    assert keys.slide_key(slides[3]) in text
    assert [name for name in (*patients, *slides) if name in text] == []


def _everything_readable(folder: Path) -> str:
    """All bytes of all files, with parquet and SQLite decoded beside them."""
    parts = []
    for path in (item for item in folder.rglob("*") if item.is_file()):
        parts.append(path.name)
        parts.append(path.read_bytes().decode("latin-1"))
        if path.suffix == ".parquet":
            parts.append(pd.read_parquet(path).to_csv())
        if path.suffix == ".db":
            connection = sqlite3.connect(path)
            parts.extend(connection.iterdump())
            connection.close()
    return "\n".join(parts)


def test_points_logged_from_another_thread_leave_filters_of_warnings_alone(tracker):
    study = _study()
    with tracker.start_study(study, inputs=INPUTS) as run, run.start_model("fusion") as child:
        before = list(warnings.filters)
        points = [Metric("r1_f1/held_out", -3.0 + at, at + 1) for at in range(1500)]
        thread = threading.Thread(target=child.log_points, args=(points,))
        thread.start()
        thread.join()
        assert warnings.filters == before
        history = tracker.database.client.get_metric_history(child.run_id, "r1_f1/held_out")
    assert sorted((m.step, m.value) for m in history) == [(p.step, p.value) for p in points]
