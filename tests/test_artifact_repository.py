"""The scheme ``storm-clinic:`` leads to files beside the database, and nowhere else."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from storm_clinic.tracking.client import import_mlflow

import_mlflow()

from mlflow.exceptions import MlflowException  # noqa: E402  (with its telemetry off)
from mlflow.store.artifact.artifact_repository_registry import (  # noqa: E402
    get_artifact_repository,
)

from storm_clinic.tracking.artifact_repository import BesideDatabase  # noqa: E402


@pytest.fixture
def mlruns(tmp_path) -> Path:
    folder = tmp_path / "Prüfung 1" / "mlruns"
    (folder / "artifacts" / "study").mkdir(parents=True)
    (folder / "secret.txt").write_text("outside")
    (folder / "artifacts" / "other.txt").write_text("of another run")
    return folder


@pytest.fixture
def repository(mlruns) -> BesideDatabase:
    return get_artifact_repository(
        "storm-clinic:/study/run/artifacts", tracking_uri=f"sqlite:///{mlruns}/mlflow.db"
    )


def test_files_come_back_from_the_folder_of_the_database(repository, mlruns, tmp_path):
    (tmp_path / "made" / "curves").mkdir(parents=True)
    (tmp_path / "made" / "curves" / "a b.csv").write_text("epoch,loss\n")
    repository.log_artifacts(str(tmp_path / "made"))
    repository.log_artifact(str(tmp_path / "made" / "curves" / "a b.csv"), "again")
    folder = mlruns / "artifacts" / "study" / "run" / "artifacts"
    assert (folder / "curves" / "a b.csv").read_text() == "epoch,loss\n"
    assert [item.path for item in repository.list_artifacts()] == ["again", "curves"]
    assert repository.download_artifacts("again/a b.csv") == str(folder / "again" / "a b.csv")
    repository.delete_artifacts("curves")
    assert not (folder / "curves").exists()


@pytest.mark.parametrize(
    "uri",
    [
        "storm-clinic:/../secret.txt",
        "storm-clinic:/study/../../secret.txt",
        "storm-clinic:/%2e%2e/secret.txt",
        "storm-clinic:/study/%2E%2E/%2e%2e/secret.txt",
        "storm-clinic:/study%2f..%2f..",
        "storm-clinic:/study/..\\..\\secret.txt",
        "storm-clinic:////etc/passwd",
        "storm-clinic:/study//run",
        "storm-clinic:/~/x",
        "storm-clinic:/.hidden",
        "storm-clinic:study/run",
        "storm-clinic:../secret.txt",
        "storm-clinic://elsewhere.example/study",
        "storm-clinic://localhost/study",
        "storm-clinic://user:word@elsewhere.example/study",
        "storm-clinic:/study?root=/etc",
        "storm-clinic:/study#../..",
        "storm-clinic:/stu\tdy/run",
        "storm-clinic:",
    ],
)
def test_a_uri_that_could_lead_elsewhere_is_refused(uri, mlruns):
    with pytest.raises(MlflowException, match="is no place for files"):
        BesideDatabase(uri, tracking_uri=f"sqlite:///{mlruns}/mlflow.db")


@pytest.mark.parametrize("path", ["../../../other.txt", "/etc/passwd"])
def test_a_path_that_leaves_its_run_is_refused(path, repository, mlruns):
    for use in (
        repository.download_artifacts,
        repository.list_artifacts,
        repository.delete_artifacts,
        lambda path: repository.log_artifact(str(mlruns / "secret.txt"), path),
        lambda path: repository.log_artifacts(str(mlruns), path),
    ):
        with pytest.raises(MlflowException):
            use(path)
    with pytest.raises(MlflowException):
        repository.download_artifacts(path.replace(".", "%2e").replace("/", "%2f"))
    assert (mlruns / "artifacts" / "other.txt").exists()


def test_links_that_lead_out_are_followed_by_no_one(repository, mlruns, tmp_path):
    uri = f"sqlite:///{mlruns}/mlflow.db"
    folder = mlruns / "artifacts" / "study" / "run" / "artifacts"
    folder.mkdir(parents=True)
    (folder / "file").symlink_to(mlruns / "secret.txt")
    (folder / "away").symlink_to(mlruns)
    (tmp_path / "made" / "away").mkdir(parents=True)
    (tmp_path / "made" / "away" / "secret.txt").write_text("overwritten")
    with pytest.raises(MlflowException):
        repository.download_artifacts("file")
    with pytest.raises(MlflowException):
        repository.download_artifacts("", str(tmp_path / "made"))
    with pytest.raises(MlflowException, match="lies outside"):
        repository.log_artifacts(str(tmp_path / "made"))
    with pytest.raises(MlflowException, match="lies outside"):
        repository.delete_artifacts("away/secret.txt")
    (mlruns / "artifacts" / "linked").symlink_to(tmp_path)
    with pytest.raises(MlflowException, match="leads out of the folder"):
        BesideDatabase("storm-clinic:/linked/run", tracking_uri=uri)
    assert (mlruns / "secret.txt").read_text() == "outside"


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "postgresql+psycopg://mlflow:hunter2@db/life",
        "sqlite:///:memory:",
        "sqlite://",
    ],
)
def test_without_a_database_that_is_a_file_there_is_no_place_beside_it(uri):
    with pytest.raises(MlflowException, match="beside an SQLite database") as caught:
        BesideDatabase("storm-clinic:/study", tracking_uri=uri)
    assert "hunter2" not in str(caught.value)


def test_the_database_may_be_named_in_each_of_mlflows_ways(mlruns, monkeypatch):
    place = str(mlruns / "artifacts" / "study")
    monkeypatch.chdir(mlruns.parent)
    quoted = str(mlruns).replace("ü", "%C3%BC").replace(" ", "%20")
    for uri in (
        f"sqlite:///{mlruns}/mlflow.db",
        "sqlite:///mlruns/mlflow.db",
        f"sqlite+pysqlite:///file:{quoted}/mlflow.db?mode=ro&uri=true",
    ):
        assert BesideDatabase("storm-clinic:/study", tracking_uri=uri).artifact_dir == place
    assert BesideDatabase("storm-clinic:/study", None, uri).artifact_dir == place
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlruns/mlflow.db")
    assert BesideDatabase("storm-clinic:/study").artifact_dir == place
    # A server's workers name no database when they ask; only it counts there.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/mlflow.db")
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{mlruns}/mlflow.db")
    assert BesideDatabase("storm-clinic:/study").artifact_dir == place


def test_mlflow_finds_the_scheme_by_the_installed_package_alone():
    (found,) = entry_points(group="mlflow.artifact_repository", name="storm-clinic")
    assert found.load() is BesideDatabase
