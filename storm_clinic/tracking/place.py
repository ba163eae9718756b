"""Where a workspace's MLflow and its trail are kept: ``mlruns/``, or a team's own servers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from storm_clinic.errors import InputError
from storm_clinic.files import Workspace

TRACKING_VARIABLE = "STORM_CLINIC_TRACKING_URI"
ARTIFACTS_VARIABLE = "STORM_CLINIC_ARTIFACTS"

SCHEME = "storm-clinic"  # of artifacts beside the database in use, wherever that is
RELATIVE_ROOT = f"{SCHEME}:/"

_POSTGRESQL = ("postgresql", "postgresql+psycopg")


@dataclass(frozen=True)
class Place:
    """Where runs, versions, files and the trail of a workspace are.

    A password in a URI is never part of the text of this object, nor of its errors.

    Attributes
    ----------
    folder : Path
        The absolute ``mlruns/``: all of it, or locks and the cache where the rest is elsewhere.
    tracking_uri : str
        MLflow's tracking store and registry, as SQLAlchemy reads it: ``sqlite:///…`` or
        ``postgresql+psycopg://…``.
    artifact_uri : str
        Root of all files: ``storm-clinic:/`` (``artifacts/`` beside the database), or the store
        that ``STORM_CLINIC_ARTIFACTS`` names; no slash at its end.
    """

    folder: Path
    tracking_uri: str = field(repr=False)
    artifact_uri: str

    @classmethod
    def of(cls, workspace: Workspace, environment: Mapping[str, str] = os.environ) -> Place:
        """The place of a workspace, as two environment variables say.

        Parameters
        ----------
        workspace : Workspace
            With ``mlruns/``.
        environment : mapping
            ``STORM_CLINIC_TRACKING_URI``, e.g. ``postgresql://user@host/database`` (its password
            best in libpq's password file), and ``STORM_CLINIC_ARTIFACTS``, e.g.
            ``s3://bucket/prefix`` or ``file:///mnt/team``. Unset or empty: ``mlruns/``.

        Raises
        ------
        InputError
            If a URI is none, or PostgreSQL is named without a place for files.
        """
        folder = workspace.mlruns.resolve()
        tracking = environment.get(TRACKING_VARIABLE, "").strip()
        artifacts = environment.get(ARTIFACTS_VARIABLE, "").strip()
        if tracking and not artifacts:
            raise InputError(
                "is not set, so that others who use that database would not find its files",
                where=ARTIFACTS_VARIABLE,
                fix="Name a store that all of them reach, e.g. s3://bucket/prefix or "
                "file:///mnt/team/artifacts.",
            )
        return cls(
            folder,
            _postgresql(tracking) if tracking else f"sqlite:///{folder / 'mlflow.db'}",
            _store(artifacts) if artifacts else RELATIVE_ROOT,
        )

    @property
    def is_local(self) -> bool:
        """True if the databases are files in ``mlruns/``."""
        return self.tracking_uri.startswith("sqlite:")

    @property
    def database_path(self) -> Path | None:
        """MLflow's SQLite file; None where it is PostgreSQL."""
        return self.folder / "mlflow.db" if self.is_local else None

    @property
    def artifact_folder(self) -> Path | None:
        """The folder of all files; None where only MLflow's client reaches them."""
        if self.artifact_uri == RELATIVE_ROOT:
            return self.folder / "artifacts"
        parts = urlsplit(self.artifact_uri)
        return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None

    @property
    def trail_uri(self) -> str:
        """Where the trail is: ``sqlite:///<mlruns>/trail.db``, or ``postgresql://…`` for libpq."""
        if self.is_local:
            return f"sqlite:///{self.folder / 'trail.db'}"
        return self.tracking_uri.replace("postgresql+psycopg:", "postgresql:", 1)

    @property
    def shown(self) -> str:
        """The database for messages and logs: no password, no options."""
        return str(self.database_path) if self.is_local else without_password(self.tracking_uri)


def without_password(uri: str) -> str:
    """A database's URI without its password and its options, which may hold one."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"


def _postgresql(uri: str) -> str:
    parts = _split(uri, TRACKING_VARIABLE)
    if parts.scheme not in _POSTGRESQL or not parts.path.strip("/"):
        raise InputError(
            "names no PostgreSQL database",
            where=TRACKING_VARIABLE,
            fix="Write e.g. postgresql://user@host/database.",
        )
    # Which driver SQLAlchemy takes by default differs between its versions.
    return parts._replace(scheme="postgresql+psycopg").geturl()


def _store(uri: str) -> str:
    parts = _split(uri, ARTIFACTS_VARIABLE)
    somewhere = parts.netloc if not parts.path else parts.path.startswith("/")
    known = len(parts.scheme) > 1 and parts.scheme != SCHEME  # one letter is a drive
    if not known or not somewhere or parts.query or parts.fragment:
        raise InputError(
            "is no URI of a place for files",
            where=ARTIFACTS_VARIABLE,
            fix="Write e.g. s3://bucket/prefix or file:///mnt/team/artifacts.",
        )
    if parts.password:
        # MLflow writes the URI into its database, where every reader sees it.
        raise InputError(
            "holds a password",
            where=ARTIFACTS_VARIABLE,
            fix="Give it as the store's own client reads it, e.g. in its environment variables.",
        )
    return uri.rstrip("/")


def _split(uri: str, variable: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise InputError("is no URI", where=variable, fix="Check it for typing errors.") from None
    return parts
