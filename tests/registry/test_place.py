"""A workspace is one folder that can go anywhere; or its registry is a team's, by two settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

from storm_clinic.errors import RegistryError, StorageError, TrainingError
from storm_clinic.files import Workspace, digest_folder
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.versions import RegisteredModel
from storm_clinic.steps.registry_audit import audit
from storm_clinic.tracking import Metric, Tracker, postgres_store
from storm_clinic.tracking.client import import_mlflow, quiet_mlflow
from storm_clinic.tracking.place import Place
from storm_clinic.validation.evidence import Evidence

import_mlflow()

from mlflow.store.artifact import artifact_repository_registry  # noqa: E402
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository  # noqa: E402


@pytest.fixture
def two_patients(slides, data) -> pd.DataFrame:
    """What MLflow is given to score two patients."""
    files = [["sim-01-0", "sim-01-1"], ["sim-02-0"]]
    table = data.clinical.iloc[1:3][["age"]].assign(stage=["Stage I", "Stage III"])
    return table.assign(feature_files=[[str(slides.path(i)) for i in ids] for ids in files])


def _risks_by_mlflow(table: pd.DataFrame, uri: str) -> list[float]:
    """Risks by the locked version as MLflow's own client loads it, pickling disallowed."""
    mlflow = import_mlflow()
    with pytest.MonkeyPatch.context() as patch, quiet_mlflow():
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        return mlflow.pyfunc.load_model("models:/demo-pfi@locked").predict(table)["risk"].tolist()


def test_a_moved_workspace_names_its_first_folder_nowhere_and_is_locked_and_loaded(
    candidate, registered, workspace, two_patients, bundle
):
    moved = Workspace(workspace.root.rename(workspace.root.with_name("elsewhere")))
    for place in (registered, workspace.root):
        naming = [
            path.name
            for path in moved.mlruns.rglob("*")
            if path.is_file() and str(place).encode() in path.read_bytes()
        ]
        assert naming == []
    Registry(moved).lock("demo-pfi", by="a.weber")
    risks = _risks_by_mlflow(two_patients, Tracker(moved).database.uri)
    assert len(set(risks)) == 2
    assert Registry(moved).locked_model("demo-pfi").bundle.digest == bundle.digest


READ_ONLY = """
    import sys
    from pathlib import Path
    from storm_clinic.errors import StorageError
    from storm_clinic.files import Workspace
    from storm_clinic.registry.moves import Registry
    from storm_clinic.tracking import Tracker
    from storm_clinic.tracking.client import import_mlflow
    workspace = Workspace(Path(sys.argv[1]))
    try:
        (workspace.mlruns / "probe").touch()
    except OSError:
        pass
    else:
        sys.exit("can be written")
    registry, tracker = Registry(workspace), Tracker(workspace)
    (version,) = registry.versions()
    model = registry.locked_model("demo-pfi")
    run = tracker.read_run(model.events[0].body["run_id"])
    print(version.state, (run.artifacts / "study.json").exists())
    mlflow = import_mlflow()
    mlflow.set_tracking_uri(tracker.database.uri)
    print(mlflow.pyfunc.load_model("models:/demo-pfi@locked").metadata.flavors.keys())
    try:
        tracker.database.create_run("other", "run", {})
    except StorageError as error:
        print("readonly database" in str(error))
"""


def test_a_read_only_folder_is_listed_found_and_loaded_and_not_changed_by_a_byte(
    candidate, registry, workspace
):
    registry.lock("demo-pfi", by="a.weber")
    prefix = _without_root_powers()
    before = digest_folder(workspace.mlruns)
    paths = [workspace.mlruns, *workspace.mlruns.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        command = [*prefix, sys.executable, "-c", textwrap.dedent(READ_ONLY), str(workspace.root)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)
    assert done.stdout == "locked True\ndict_keys(['python_function'])\nTrue\n", done.stderr
    assert digest_folder(workspace.mlruns) == before


class Bucket(LocalArtifactRepository):
    """A store that no path of this machine leads to: it is asked through MLflow's client alone."""

    folder: Path
    asked: ClassVar[list[str]] = []

    def __init__(self, artifact_uri, tracking_uri=None, registry_uri=None):
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._artifact_dir = str(self.folder / artifact_uri.removeprefix("bucket://ward/"))

    def download_artifacts(self, artifact_path, dst_path=None):
        self.asked.append(self.artifact_uri)
        return super().download_artifacts(artifact_path, dst_path or tempfile.mkdtemp())


@pytest.fixture(scope="module")
def settings(postgres, tmp_path_factory) -> dict[str, str]:
    """A PostgreSQL with MLflow's tables, made by two who came at once, and a bucket."""
    Bucket.folder = tmp_path_factory.mktemp("bucket")
    settings = {
        "STORM_CLINIC_TRACKING_URI": postgres.create_database(),
        "STORM_CLINIC_ARTIFACTS": "bucket://ward/kidney",
    }
    place = Place.of(Workspace(tmp_path_factory.mktemp("first")), settings)
    with quiet_mlflow(), ThreadPoolExecutor(2) as pool:
        list(pool.map(postgres_store.prepare, [place, place]))
    return settings


@pytest.fixture
def team(postgres, settings, monkeypatch):
    """The server of a team whose two settings hold here."""
    registry = artifact_repository_registry._artifact_repository_registry
    monkeypatch.setitem(registry._registry, "bucket", Bucket)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return postgres


@pytest.fixture
def here(tmp_path) -> Workspace:
    return Workspace(tmp_path / "here")


@pytest.fixture
def there(tmp_path) -> Workspace:
    """Of a colleague at another machine."""
    return Workspace(tmp_path / "there")


def _train(workspace: Workspace, study, bundle, inputs: dict[str, str]) -> RegisteredModel:
    """Register a version as a training does, its evidence (which says nothing) in its run."""
    evidence = Evidence(
        study=study.study,
        study_digest=study.digest,
        kind="cross-validation",
        candidate=study.candidate,
        estimates=(),
    )
    with (
        Tracker(workspace).start_study(study, inputs=inputs) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        evidence.write(Path(scratch) / "evidence.json")
        run.log(artifacts=Path(scratch))
        return Registry(workspace).register(
            run, bundle.folder, evidence_digest=evidence.digest, by="c.trainer"
        )


class TestTeam:
    def test_a_version_is_registered_locked_and_loaded_from_the_bucket(
        self, team, here, there, study, bundle, two_patients
    ):
        registered = _train(here, study, bundle, inputs={"a": "1"})
        assert registered.bundle.digest == bundle.digest
        Registry(here).lock("demo-pfi", by="a.weber")
        name = registered.events[0].body["folder"]
        assert (Bucket.folder / "kidney" / name.removeprefix("artifacts/") / "MLmodel").exists()
        assert not (here.mlruns / "artifacts").exists()
        assert Registry(there).locked_model("demo-pfi").bundle.digest == bundle.digest
        shutil.rmtree(here.mlruns / "cache")
        Bucket.asked.clear()
        Registry(here).locked_model("demo-pfi")
        Registry(here).locked_model("demo-pfi")
        assert len(Bucket.asked) == 1, "what is frozen is fetched once"
        (cached,) = (here.mlruns / "cache").rglob("model.safetensors")
        cached.write_bytes(cached.read_bytes()[:-1] + b"x")
        with pytest.raises(RegistryError, match=r"model\.safetensors: was changed"):
            Registry(here).locked_model("demo-pfi")
        assert len(set(_risks_by_mlflow(two_patients, Tracker(here).database.uri))) == 2

    def test_an_audit_reads_what_the_bucket_holds_now_and_not_what_was_fetched(
        self, team, here, there, study, bundle
    ):
        registered = _train(here, study, bundle, inputs={"e": "1"})
        assert "table storm_clinic_trail" in Registry(there).trail.where
        assert audit(workspace=there).is_clean
        assert not there.mlruns.exists()
        name = f"{registered.events[0].body['folder']}/data/bundle/card.md"
        stored = Bucket.folder / "kidney" / name.removeprefix("artifacts/")
        whole = stored.read_bytes()
        stored.write_bytes(whole + b" ")
        assert [found.place for found in audit(workspace=here).findings] == [name]
        stored.write_bytes(whole)

    def test_a_colleague_reads_what_was_trained_elsewhere(self, team, here, there, study, tmp_path):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "curve.csv").write_text("early")
        with Tracker(here).start_study(study, inputs={"b": "1"}) as run:
            with run.start_model("clinical") as child:
                child.log(metrics=[Metric("c_index", 0.7)], artifacts=tmp_path / "made")
            assert (child.artifacts / "curve.csv").read_text() == "early"
            (tmp_path / "made" / "curve.csv").write_text("late!")
            run.log(artifacts=tmp_path / "made")
            assert (run.artifacts / "curve.csv").read_text() == "late!"
        found = Tracker(there).find_study(study, inputs={"b": "1"})
        assert found.run_id == run.run_id
        assert (found.artifacts / "curve.csv").read_text() == "late!"
        assert (found.artifacts / "study.json").exists()
        assert found.artifacts.is_relative_to(there.mlruns / "cache")

    def test_a_training_that_goes_on_elsewhere_is_not_taken_up(self, team, here, there, study):
        with pytest.raises(TrainingError), Tracker(here).start_study(study, inputs={"c": "1"}) as a:
            with (
                pytest.raises(StorageError, match="another process is training 'demo-pfi'"),
                Tracker(there).start_study(study, inputs={"c": "1"}),
            ):
                pass
            raise TrainingError("no events")
        with Tracker(there).start_study(study, inputs={"c": "1"}) as b:
            pass
        assert b.run_id == a.run_id, "once it has ended, it is"

    def test_the_password_is_in_no_file_and_no_message(self, team, here, study, caplog, capfd):
        with Tracker(here).start_study(study, inputs={"d": "1"}):
            pass
        files = [path for folder in (here.root, Bucket.folder) for path in folder.rglob("*")]
        text = "".join(path.read_text("latin-1") for path in files if path.is_file())
        assert "demo-pfi" in text
        with pytest.MonkeyPatch.context() as patch:
            said = []
            for uri in (
                team.uri("absent"),
                team.uri("postgres").replace("@", "%zz@"),
                team.uri("postgres").replace("@", "x@"),
            ):
                patch.setenv("STORM_CLINIC_TRACKING_URI", uri)
                with pytest.raises(StorageError, match=r"cannot be reached|no URI") as caught:
                    Tracker(here).find_study(study, inputs={})
                said.append("".join(traceback.format_exception(caught.value)))
        said += [caplog.text, *capfd.readouterr()]
        assert team.password not in "".join([text, *said])

    def test_a_store_that_is_away_is_named_and_nothing_of_it_is_remembered(
        self, team, here, there, study, monkeypatch
    ):
        with Tracker(here).start_study(study, inputs={"f": "1"}):
            pass
        found = Tracker(there).find_study(study, inputs={"f": "1"})
        away = Bucket.folder.rename(Bucket.folder.with_name("away"))
        assert list(found.artifacts.iterdir()) == []
        away.rename(Bucket.folder)
        assert (found.artifacts / "study.json").exists()
        shutil.rmtree(there.mlruns / "cache")

        def refuse(*arguments):
            raise ConnectionResetError("peer")

        monkeypatch.setattr(Bucket, "list_artifacts", refuse)
        with pytest.raises(StorageError, match=r"bucket://ward/kidney/.*does not answer.*peer"):
            _ = found.artifacts
        assert [path for path in (there.mlruns / "cache").rglob("*") if path.is_file()] == []

    def test_files_of_another_place_are_not_read(self, team, here, study, monkeypatch):
        with Tracker(here).start_study(study, inputs={"e": "1"}) as run:
            pass
        monkeypatch.setenv("STORM_CLINIC_ARTIFACTS", "bucket://ward/lung")
        with pytest.raises(StorageError, match="Set STORM_CLINIC_ARTIFACTS as it was"):
            Tracker(here).read_run(run.run_id)


def _without_root_powers() -> tuple[str, ...]:
    """A prefix for a command that makes permissions count for root, too."""
    if os.getuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and setpriv (util-linux) is absent")
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
