"""MLflow's side of the registry: versions, and the tags and aliases that mirror the trail."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from storm_clinic.bundle import Bundle, write_mlflow_model
from storm_clinic.errors import RegistryError
from storm_clinic.files import digest_file
from storm_clinic.tracking.client import MlflowDatabase, mlflow_errors

TAG = "storm_clinic."
# MLflow writes this file beside a model whenever it loads it by name.
NOT_OURS = "registered_model_meta"


@dataclass(frozen=True)
class LoggedVersion:
    """A version as MLflow made it.

    Attributes
    ----------
    version : int
        MLflow's number.
    model_id : str
        The logged model behind it.
    name : str
        Of its files, as the trail records it; see `ArtifactFiles`.
    folder : Path
        A folder of this machine with them.
    """

    version: int
    model_id: str
    name: str
    folder: Path


def create_version(database: MlflowDatabase, bundle: Bundle, *, run_id: str) -> LoggedVersion:
    """Log a bundle as an MLflow model of a run and register it under the study's name.

    Raises
    ------
    StorageError
        If MLflow refuses or the disk is full.
    """
    client, name = database.client, bundle.study.study
    with mlflow_errors(database.shown):
        experiment = client.get_run(run_id).info.experiment_id
        model = client.create_logged_model(
            experiment,
            name=name,
            source_run_id=run_id,
            tags={f"{TAG}bundle_digest": bundle.digest},
            model_type="storm_clinic bundle",
        )
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / "model"
            write_mlflow_model(bundle, made, model_id=model.model_id, run_id=run_id)
            database.log_folder(model.artifact_location, made)
        client.finalize_logged_model(model.model_id, "READY")
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=bundle.study.question)
        # MLflow would resolve "models:/<id>" through its global tracking URI, which is not ours.
        made_version = client.create_model_version(
            name,
            model.artifact_location,
            run_id=run_id,
            tags={f"{TAG}bundle_digest": bundle.digest},
        )
    files = database.files.name_of(model.artifact_location)
    folder = database.files.folder(files)  # what the store gives back, not what was sent
    return LoggedVersion(int(made_version.version), model.model_id, files, folder)


def mirror_states(database: MlflowDatabase, name: str, states: Mapping[int, str]) -> None:
    """Rewrite the state tags of a model's versions, and an alias for the latest in each state.

    Parameters
    ----------
    database : MlflowDatabase
        Holds the registered model.
    name : str
        The registered model.
    states : dict of version to state
        As the trail has them.

    Raises
    ------
    StorageError
        If MLflow refuses.
    """
    from storm_clinic.registry.versions import STATES  # which reads files by this module

    client = database.client
    aliases = {state: version for version, state in sorted(states.items())}
    with mlflow_errors(database.shown):
        for version, state in states.items():
            client.set_model_version_tag(name, str(version), f"{TAG}state", state)
        # MLflow gives numbers here and text elsewhere.
        found = client.get_registered_model(name).aliases
        current = {alias: int(version) for alias, version in found.items()}
        for alias in set(current) & set(STATES) - set(aliases):  # others are the team's own
            client.delete_registered_model_alias(name, alias)
        for alias, version in aliases.items():
            if current.get(alias) != version:
                client.set_registered_model_alias(name, alias, str(version))


def digest_version(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a version by its relative path.

    Raises
    ------
    RegistryError
        If a link is among them: what it points to could change unseen.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise RegistryError("is a link", where=path, fix="Put back the file itself.")
        if path.is_file() and path.relative_to(folder).as_posix() != NOT_OURS:
            digests[path.relative_to(folder).as_posix()] = digest_file(path)
    return digests
