"""MLflow's client on one database: quiet, without telemetry, its errors in our words."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from storm_clinic.errors import StorageError
from storm_clinic.tracking import postgres_store, sqlite_store
from storm_clinic.tracking.artifact_files import ArtifactFiles
from storm_clinic.tracking.place import Place

# MLflow's own limits for one log_batch call.
_ENTITIES_PER_BATCH = 1000
_SETTINGS_PER_BATCH = 100


def import_mlflow() -> Any:
    """Import MLflow (slow): telemetry off, its notes about itself kept quiet, our scheme known."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with quiet_mlflow():
        import mlflow
        import mlflow.pyfunc

        from storm_clinic.tracking.artifact_repository import register_scheme

        register_scheme()
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
def mlflow_errors(where: Path | str) -> Iterator[None]:
    """Turn what MLflow raises into a `StorageError`, without its chatter."""
    import_mlflow()
    with quiet_mlflow(), _in_our_words(where):
        yield


@contextmanager
def _in_our_words(where: Path | str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if sqlite_store.says_locked(error):  # after MLflow has waited for a while itself
            raise sqlite_store.locked(where) from error
        text = " ".join(str(error.message).split())
        raise StorageError(f"MLflow says: {text}", where=where) from error


def _mlflow_exception() -> Any:
    return import_mlflow().exceptions.MlflowException


class MlflowDatabase:
    """MLflow's runs, metrics, versions and files of one place.

    Parameters
    ----------
    place : Place
        A local database is made, with its folder, when the client is first used; so are MLflow's
        tables in an empty PostgreSQL.

    Attributes
    ----------
    place : Place
    files : ArtifactFiles
        Files of runs and models as folders of this machine.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.files = ArtifactFiles(place)

    @property
    def folder(self) -> Path:
        """The absolute ``mlruns/``."""
        return self.place.folder

    @property
    def shown(self) -> str:
        """The database for messages: never a password."""
        return self.place.shown

    @property
    def uri(self) -> str:
        """What MLflow's own client takes, for tracking and registry; may hold a password.

        Opens a local database read-only where it may not be written.
        """
        path = self.place.database_path
        return self.place.tracking_uri if path is None else sqlite_store.uri_of(path)

    @cached_property
    def client(self) -> Any:
        """The `mlflow.MlflowClient`.

        Raises
        ------
        StorageError
            If the database is none, of another MLflow version, or cannot be reached or made.
        """
        mlflow = import_mlflow()
        with mlflow_errors(self.shown):
            if self.place.database_path is None:
                postgres_store.prepare(self.place)
            else:
                sqlite_store.prepare(self.place.database_path, self.place.artifact_uri)
            client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)  # opens the store: its errors belong here
        return client

    def open(self) -> None:
        """Make the database where there is none, or raise what `client` raises."""
        _ = self.client

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Any:
        """Start a run in an experiment, which is made where it is missing."""
        with mlflow_errors(self.shown):
            found = self._experiment(experiment) or self._create_experiment(experiment)
            return self.client.create_run(found, run_name=name, tags=dict(tags))

    def search(
        self, experiment: str, tags: Mapping[str, str], *, status: str | None = None
    ) -> Sequence[Any]:
        """Runs with these tags, latest first; none where there is no database yet."""
        if self.place.database_path is not None and not self.place.database_path.exists():
            return []
        with mlflow_errors(self.shown):
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
        with mlflow_errors(self.shown):
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
        with _in_our_words(self.shown):
            while points:
                client.log_batch(run_id, _take(points, _ENTITIES_PER_BATCH))

    def log_folder(self, uri: str, folder: Path) -> None:
        """Copy a folder's contents to the artifacts of a run or a model."""
        self.files.upload(uri, folder)

    @contextmanager
    def held_alone(self, study: str) -> Iterator[bool]:
        """Hold the right to train a study; False where another process has it."""
        held = (
            postgres_store.held_alone(self.place, study)
            if self.place.database_path is None
            else sqlite_store.held_alone(self.folder, study)
        )
        with held as alone:
            yield alone

    def set_status(self, run_id: str, status: str) -> None:
        """Set RUNNING, or one of FINISHED, FAILED and KILLED with the time of the end."""
        client = self.client
        with mlflow_errors(self.shown):
            if status == "RUNNING":
                client.update_run(run_id, status=status)
            else:
                client.set_terminated(run_id, status)

    def _experiment(self, name: str) -> str | None:
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":
            raise StorageError(
                f"the experiment {name!r} was deleted in MLflow",
                where=self.shown,
                fix=f"Bring it back: mlflow experiments restore -x {found.experiment_id}",
            )
        if found is None:
            return None
        self.files.name_of(found.artifact_location)
        return str(found.experiment_id)

    def _create_experiment(self, name: str) -> str:
        location = self.files.location_of(name)
        # The tag opens the UI on runs and models, not on its pages for chat programs.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            made = self.client.create_experiment(name, artifact_location=location, tags=tags)
        except _mlflow_exception() as error:
            found = self._experiment(name)  # another process may have been first
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            return found
        return str(made)


def _take(items: list[Any], n: int) -> list[Any]:
    """Remove and return the first ``n`` items."""
    taken = items[:n]
    del items[:n]
    return taken
