"""Files of runs and models by name, wherever they are kept: read here, fetched where they must be.

A *name* is what the trail records: ``artifacts/<study>/…``, the same in every place.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from storm_clinic.errors import StorageError
from storm_clinic.files import safe_name, storage_errors
from storm_clinic.tracking.place import RELATIVE_ROOT, Place

_TOP = "artifacts"


class ArtifactFiles:
    """What MLflow calls artifacts, as folders of this machine.

    Parameters
    ----------
    place : Place
        Where they are. Folders that this machine can read are read in place; others are fetched
        through MLflow's client into ``mlruns/cache/``, which may be deleted at any time.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def location_of(self, study: str) -> str:
        """URI under which the files of a new experiment go."""
        return f"{self._place.artifact_uri.rstrip('/')}/{safe_name(study, what='study')}"

    def name_of(self, uri: str) -> str:
        """The name behind a URI of MLflow.

        Raises
        ------
        StorageError
            If it lies elsewhere than the place in use.
        """
        for root in self._roots():
            if uri.startswith(f"{root}/"):
                parts = [safe_name(part, what=uri) for part in uri[len(root) + 1 :].split("/")]
                return "/".join([_TOP, *parts])
        return self._name_of_old(uri)

    def folder(self, name: str, *, settled: bool = True) -> Path:
        """A local folder with the files of a name.

        Parameters
        ----------
        name : str
            As `name_of` gives it.
        settled : bool
            True if they no longer change, so that what was fetched once is not fetched again.

        Raises
        ------
        StorageError
            If the name leaves the place, also by a link, or its files cannot be fetched.
        """
        top, *parts = name.split("/")
        if top != _TOP or not parts:
            raise StorageError("is no name of files", where=name)
        for part in parts:
            safe_name(part, what=name)
        root = self._place.artifact_folder
        if root is None:
            return self._fetched(parts, settled=settled)
        folder = root.joinpath(*parts).resolve()
        if not folder.is_relative_to(root.resolve()):
            raise StorageError("leads out of its folder by a link", where=root.joinpath(*parts))
        return folder

    def local(self, uri: str, *, settled: bool) -> Path:
        """A local folder with the files behind a URI of MLflow; see `folder`."""
        return self.folder(self.name_of(uri), settled=settled)

    def upload(self, uri: str, folder: Path) -> None:
        """Copy a folder's contents to a URI of MLflow in the place in use."""
        self.name_of(uri)
        # Not the client's log_artifacts: it remembers the repository of a run by the run's id
        # alone, so that a copied workspace would write into the one it was copied from.
        with _store_errors(uri), storage_errors(self._place.folder):
            self._repository(uri).log_artifacts(str(folder))

    def _roots(self) -> list[str]:
        return [self._place.artifact_uri.rstrip("/")]

    def _name_of_old(self, uri: str) -> str:
        """The name behind an absolute path, as databases held them before there was a scheme."""
        parts = urlsplit(uri)
        root = self._place.artifact_folder
        path = Path(unquote(parts.path))
        if parts.scheme in ("", "file") and not parts.netloc and root is not None:
            if path.resolve().is_relative_to(root.resolve()):
                return "/".join([_TOP, *path.resolve().relative_to(root.resolve()).parts])
            if self._place.artifact_uri == RELATIVE_ROOT:
                raise StorageError(
                    f"was moved or copied; its database, of an older version, still names {path}",
                    where=self._place.folder,
                    fix="Move it back to train, validate or report. Models in it can be loaded "
                    "and locked here all the same. Studies that are new here can be moved.",
                )
        raise StorageError(
            f"is not in the place in use, {self._place.artifact_uri}",
            where=uri,
            fix="Set STORM_CLINIC_ARTIFACTS as it was when these files were made.",
        )

    def _fetched(self, parts: list[str], *, settled: bool) -> Path:
        cache = self._place.folder / "cache"
        if settled and cache.joinpath("settled", *parts).exists():
            return cache.joinpath("settled", *parts)
        uri = "/".join([self._place.artifact_uri, *parts])
        with _store_errors(uri), storage_errors(cache):
            cache.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(suffix=".part", dir=cache))
            try:
                self._repository(uri).download_artifacts("", str(part))
                # Nothing there may mean not yet, or that a store is half restored.
                settled = settled and any(part.iterdir())
                folder = cache.joinpath("settled" if settled else "open", *parts)
                _put(part, folder, replace=not settled)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return folder

    def _repository(self, uri: str) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(uri, tracking_uri=self._place.tracking_uri)


def _put(part: Path, folder: Path, *, replace: bool) -> None:
    """Rename a folder into place; what another process put there meanwhile is as good."""
    part.chmod(0o755)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if replace and folder.exists():
        shutil.rmtree(folder)
    try:
        part.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


@contextmanager
def _store_errors(uri: str) -> Iterator[None]:
    """Turn what a store raises into a `StorageError`, MLflow being quiet."""
    from storm_clinic.tracking.client import mlflow_errors  # which imports this module

    try:
        with mlflow_errors(uri):
            yield
    except OSError as error:  # as the clients of stores call what the network does
        raise StorageError(
            f"the store does not answer as it should: {error}",
            where=uri,
            fix="Check that it can be reached, then run the same again.",
        ) from error
