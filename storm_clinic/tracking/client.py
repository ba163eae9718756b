"""MLflow's client on one SQLite database: quiet, without telemetry, its errors in our words."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from storm_clinic.errors import StorageError
from storm_clinic.files import safe_name, storage_errors

# MLflow's own limits for one log_batch call.
_ENTITIES_PER_BATCH = 1000
_SETTINGS_PER_BATCH = 100


def import_mlflow() -> Any:
    """Import MLflow (slow) with its telemetry off and its notes about itself kept quiet."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    with quiet_mlflow():
        import mlflow
        import mlflow.pyfunc
    return mlflow


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Hold back MLflow's and alembic's chatter and three warnings it gives about its own code."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # SQLAlchemy about MLflow's mappers; MLflow about its own type hints; and its advice to
        # store an example of the input, which would be a patient.
        for message in ("The ``noload`` loader strategy", ".*Any type hint is inferred as AnyType"):
            warnings.filterwarnings("ignore", message=message)
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def mlflow_errors(where: Path) -> Iterator[None]:
    """Turn what MLflow raises into a `StorageError`, without its chatter."""
    import_mlflow()
    with quiet_mlflow(), _in_our_words(where):
        yield


@contextmanager
def _in_our_words(where: Path) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        text = " ".join(str(error.message).split())
        raise StorageError(f"MLflow says: {text}", where=where) from error


def _mlflow_exception() -> Any:
    return import_mlflow().exceptions.MlflowException


def local_path(uri: str) -> Path:
    """The folder behind a ``file:`` URI of MLflow.

    Raises
    ------
    StorageError
        If it lies elsewhere, which this version does not read.
    """
    parts = urlparse(uri)
    if parts.scheme not in ("", "file"):
        raise StorageError(
            f"artifacts at {parts.scheme}: are not read by this version",
            where=uri,
            fix="Use a workspace with its own mlruns/.",
        )
    return Path(url2pathname(parts.path))


class MlflowDatabase:
    """``mlflow.db`` and ``artifacts/`` in one folder.

    Parameters
    ----------
    folder : Path
        Absolute; made, with the database, when the client is first used.

    Attributes
    ----------
    path : Path
        The database.
    uri : str
        What ``mlflow ui --backend-store-uri`` takes; tracking and registry are one database.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "mlflow.db"
        self.uri = f"sqlite:///{self.path}"

    @cached_property
    def client(self) -> Any:
        """The `mlflow.MlflowClient`.

        Raises
        ------
        StorageError
            If ``mlflow.db`` is no database, of another MLflow version, or cannot be written.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        _check_database(self.path)
        mlflow = import_mlflow()
        with mlflow_errors(self.path):
            if not self.path.exists():
                _create_database(self.path, self.folder / "artifacts")
            client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)  # opens the store: its errors belong here
        return client

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Any:
        """Start a run in an experiment, which is made where it is missing."""
        with mlflow_errors(self.path):
            found = self._experiment(experiment) or self._create_experiment(experiment)
            return self.client.create_run(found, run_name=name, tags=dict(tags))

    def search(
        self, experiment: str, tags: Mapping[str, str], *, status: str | None = None
    ) -> Sequence[Any]:
        """Runs with these tags, latest first; none where there is no database yet."""
        if not self.path.exists():
            return []
        with mlflow_errors(self.path):
            found = self._experiment(experiment)
            if found is None:
                return []
            parts = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
            if status:
                parts.append(f"attributes.status = '{status}'")
            runs: Sequence[Any] = self.client.search_runs([found], " and ".join(parts))
        return runs

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[tuple[str, float, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log metrics (name, value, step), params and tags in as few calls as MLflow allows."""
        client = self.client
        from mlflow import entities

        now = int(time.time() * 1000)
        numbers = [entities.Metric(name, value, now, step) for name, value, step in metrics]
        settings = [entities.Param(name, value) for name, value in (params or {}).items()]
        labels = [entities.RunTag(name, value) for name, value in (tags or {}).items()]
        with mlflow_errors(self.path):
            while numbers or settings or labels:
                some_settings = _take(settings, _SETTINGS_PER_BATCH)
                some_labels = _take(labels, _SETTINGS_PER_BATCH)
                room = _ENTITIES_PER_BATCH - len(some_settings) - len(some_labels)
                client.log_batch(run_id, _take(numbers, room), some_settings, some_labels)

    def log_points(self, run_id: str, metrics: Sequence[tuple[str, float, int]]) -> None:
        """Log metrics (name, value, step) from a thread beside the main one.

        Filters of warnings belong to the whole process, so this changes none, as `log` does.
        """
        client = self.client
        from mlflow import entities

        now = int(time.time() * 1000)
        points = [entities.Metric(name, value, now, step) for name, value, step in metrics]
        with _in_our_words(self.path):
            while points:
                client.log_batch(run_id, _take(points, _ENTITIES_PER_BATCH))

    def log_folder(self, run_id: str, folder: Path) -> None:
        """Copy a folder's contents into the run's artifacts."""
        client = self.client
        with mlflow_errors(folder), storage_errors(self.folder):
            client.log_artifacts(run_id, str(folder))

    def set_status(self, run_id: str, status: str) -> None:
        """Set RUNNING, or one of FINISHED, FAILED and KILLED with the time of the end."""
        client = self.client
        with mlflow_errors(self.path):
            if status == "RUNNING":
                client.update_run(run_id, status=status)
            else:
                client.set_terminated(run_id, status)

    def require_inside(self, artifacts: Path) -> None:
        """Refuse artifacts elsewhere: MLflow's absolute paths are those of the first place.

        Raises
        ------
        StorageError
            If the folder was moved since the run or experiment was made.
        """
        if not artifacts.is_relative_to(self.folder):
            raise StorageError(
                f"was moved or copied; MLflow's database still names {artifacts}",
                where=self.folder,
                fix="Move it back to train, validate or report. Models in it can be loaded and "
                "locked here all the same.",
            )

    def _experiment(self, name: str) -> str | None:
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":
            raise StorageError(
                f"the experiment {name!r} was deleted in MLflow",
                where=self.path,
                fix=f"Bring it back: mlflow experiments restore -x {found.experiment_id}",
            )
        if found is None:
            return None
        self.require_inside(local_path(found.artifact_location))
        return str(found.experiment_id)

    def _create_experiment(self, name: str) -> str:
        place = self.folder / "artifacts" / safe_name(name, what="study")
        # The tag opens the UI on runs and models, not on its pages for chat programs.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            made = self.client.create_experiment(name, artifact_location=place.as_uri(), tags=tags)
        except _mlflow_exception() as error:
            found = self._experiment(name)  # another process may have been first
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            return found
        return str(made)


def _check_database(path: Path) -> None:
    """Fail at once on a file that is no database; MLflow would try for most of a minute."""
    if not path.exists():
        return
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageError(
            f"cannot be read as a database: {error}",
            where=path,
            fix="Put back a copy of it, or move it away to start anew.",
        ) from error


def _create_database(path: Path, artifacts: Path) -> None:
    """Make the database aside and put it in place whole.

    A kill amid MLflow's fifty migrations would leave a database that cannot be migrated further,
    and two processes that start together would both migrate the same one.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        store = SqlAlchemyStore(f"sqlite:///{part}", artifacts.as_uri())  # type: ignore[no-untyped-call]
        store.engine.dispose()
        os.link(part, path)
    except FileExistsError:
        return  # another process was first; its database is as good
    finally:
        part.unlink(missing_ok=True)


def _take(items: list[Any], n: int) -> list[Any]:
    """Remove and return the first ``n`` items."""
    taken = items[:n]
    del items[:n]
    return taken
