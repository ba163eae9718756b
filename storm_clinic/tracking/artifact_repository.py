"""The scheme ``storm-clinic:`` for MLflow: files in ``artifacts/`` beside the database in use.

MLflow stores where the files of a run are as a URI that is absolute in all its own schemes. This
one names no folder, so that a folder with database and files can be moved, copied or mounted
elsewhere. MLflow finds it by the entry point in pyproject.toml; our own processes register it.

Only this module imports MLflow at its top: MLflow loads it while it is imported itself.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from storm_clinic.errors import UnsafeName
from storm_clinic.files import safe_name
from storm_clinic.tracking.place import SCHEME

# What `mlflow server` tells its workers, which ask for a repository without naming a database.
_SERVER_DATABASE = "_MLFLOW_SERVER_FILE_STORE"


class BesideDatabase(LocalArtifactRepository):
    """Files under ``artifacts/`` in the folder of the SQLite database that is asked.

    Parameters
    ----------
    artifact_uri : str
        ``storm-clinic:/<study>/…``: no host, no query, and only names that `safe_name` accepts,
        so nothing encoded and no ``..``.
    tracking_uri, registry_uri : str, optional
        The database. Where MLflow names none it is that of the running server, else that of this
        process.

    Raises
    ------
    MlflowException
        If the URI is none of these, the database is no file, or the folder lies behind a link
        outside of ``artifacts/``.
    """

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        root = _root(tracking_uri or registry_uri)
        self._artifact_dir = str(root.joinpath(*_parts(artifact_uri)))
        if not Path(self._artifact_dir).resolve().is_relative_to(root):
            raise _refused(f"{artifact_uri} leads out of the folder of the database")

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """The path itself, or a copy in ``dst_path``, or a temporary one if it is read-only.

        MLflow writes a file of its own into a model that it loads by name.
        """
        if not dst_path and not os.access(self._artifact_dir, os.W_OK):
            dst_path = tempfile.mkdtemp()
        return str(super().download_artifacts(artifact_path, dst_path))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Copy a folder's contents, unless a link would carry one of them out of here."""
        target = Path(self._artifact_dir) / (artifact_path or "")
        for path in Path(local_dir).rglob("*"):
            self._require_inside(target / path.relative_to(local_dir))
        super().log_artifacts(local_dir, artifact_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete a file or folder of this repository."""
        self._require_inside(Path(self._artifact_dir) / (artifact_path or ""))
        super().delete_artifacts(artifact_path)

    def _require_inside(self, path: Path) -> None:
        if not path.resolve().is_relative_to(Path(self._artifact_dir).resolve()):
            raise _refused(f"{path} lies outside of {self.artifact_uri}")


def register_scheme() -> None:
    """Make the scheme known in this process, whatever the installed package's metadata say."""
    # Not at the top: that module loads this one by its entry point before it is whole itself.
    from mlflow.store.artifact import artifact_repository_registry as registry

    if SCHEME not in registry.get_registered_artifact_repositories():
        registry._artifact_repository_registry.register(SCHEME, BesideDatabase)


def _root(database: str | None) -> Path:
    """``artifacts/`` beside an SQLite database, absolute and without links."""
    import mlflow
    from sqlalchemy.engine import make_url

    uri = database or os.environ.get(_SERVER_DATABASE) or mlflow.get_tracking_uri()
    name = (make_url(uri).database or "") if uri.startswith("sqlite") else ""
    path = unquote(name.removeprefix("file:")) if name.startswith("file:") else name
    if not path or path == ":memory:":
        raise _refused(
            f"{SCHEME}: files lie beside an SQLite database; use its own URI, sqlite:///<path>, "
            "as the tracking URI"
        )
    return (Path(path).parent / "artifacts").resolve()


def _parts(uri: str) -> list[str]:
    parts = urlsplit(uri)
    plain = uri == f"{SCHEME}:{parts.path}" and parts.path.startswith("/")
    names = [name for name in parts.path.split("/")[1:] if plain]
    if names and names[-1] == "":
        names.pop()  # the root itself, or a folder written with a slash
    try:
        if plain:
            return [safe_name(name) for name in names]
    except UnsafeName:
        pass
    raise _refused(f"{uri!r} is no place for files; it is written {SCHEME}:/<study>/<folder>")


def _refused(problem: str) -> MlflowException:
    return MlflowException(problem, error_code=INVALID_PARAMETER_VALUE)
