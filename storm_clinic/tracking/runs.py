"""A run: what is logged while it is open, and what is known of it later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storm_clinic.errors import StorageError
from storm_clinic.files import digest_folder, digest_value
from storm_clinic.provenance import NUMERICAL_PACKAGES, code_version, package_versions
from storm_clinic.study import ModelSpec, Study
from storm_clinic.tracking.artifact_files import ArtifactFiles
from storm_clinic.tracking.client import MlflowDatabase

TAG = "storm_clinic."  # prefix of every tag that is ours
_LONGEST_VALUE = 6000  # of a param, MLflow's limit


@dataclass(frozen=True)
class Metric:
    """One number of a run; ``step`` tells folds or epochs apart (see `fold_step`)."""

    name: str
    value: float
    step: int = 0


def fold_step(repeat: int, fold: int, *, folds: int) -> int:
    """Step under which a fold's metric is logged: ``repeat * folds + fold``."""
    return repeat * folds + fold


@dataclass(frozen=True)
class RunRecord:
    """A run as it was logged.

    Attributes
    ----------
    run_id, name, status : str
        ``status`` is FINISHED, FAILED, KILLED or RUNNING.
    started : datetime
        In UTC.
    artifact_uri : str
        Where MLflow has its files; `artifacts` is a folder with them.
    params, tags : dict of str to str
    metrics : dict of str to float
        The latest value of each.
    """

    run_id: str
    name: str
    status: str
    started: datetime
    artifact_uri: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    files: ArtifactFiles = field(repr=False, compare=False)

    @classmethod
    def from_mlflow(cls, run: Any, files: ArtifactFiles) -> RunRecord:
        """From an `mlflow.entities.Run` of the database that has these files."""
        return cls(
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
            artifact_uri=run.info.artifact_uri,
            params=dict(run.data.params),
            metrics=dict(run.data.metrics),
            tags=dict(run.data.tags),
            files=files,
        )

    @property
    def artifacts(self) -> Path:
        """Folder of its files; fetched once it is asked for, where they are kept elsewhere.

        Raises
        ------
        StorageError
            If they are not in the place in use, or cannot be fetched.
        """
        return self.files.local(self.artifact_uri, settled=self.status == "FINISHED")

    @property
    def same_code(self) -> bool:
        """True if this very code, on the same numerical packages, made the run."""
        return software_tags().items() <= self.tags.items()


class RunLog:
    """An open run.

    Attributes
    ----------
    run_id : str
    name : str
    """

    def __init__(self, database: MlflowDatabase, record: RunRecord) -> None:
        self._database = database
        self.run_id = record.run_id
        self.name = record.name
        self._artifact_uri = record.artifact_uri

    @property
    def artifacts(self) -> Path:
        """Folder of its files as they are now; write there through `log` only."""
        return self._database.files.local(self._artifact_uri, settled=False)

    def file_digests(self) -> dict[str, dict[str, str]]:
        """SHA-256 of every file of this run, by run id and relative path."""
        return {self.run_id: digest_folder(self.artifacts)}

    def log(
        self,
        *,
        metrics: Iterable[Metric] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        artifacts: Path | None = None,
    ) -> None:
        """Log numbers, settings and tags in one batch, and copy a folder's contents beside them.

        Parameters
        ----------
        metrics : iterable of Metric
            NaN stays NaN; MLflow stores infinities as the largest float.
        params : dict
            Settings; a value longer than MLflow takes is cut, and says so.
        tags : dict of str to str
            Stored under our prefix, ``storm_clinic.``.
        artifacts : Path, optional
            Folder whose files and folders appear under the same names in the run's folder.

        Raises
        ------
        StorageError
            If MLflow refuses a name or a value, a param was logged before with another value, or
            the disk is full.
        """
        self._database.log(
            self.run_id,
            metrics=[(metric.name, float(metric.value), metric.step) for metric in metrics],
            params={name: _cut(str(value)) for name, value in (params or {}).items()},
            tags={f"{TAG}{name}": value for name, value in (tags or {}).items()},
        )
        if artifacts is not None:
            self._database.log_folder(self._artifact_uri, artifacts)

    def log_points(self, metrics: Iterable[Metric]) -> None:
        """Log numbers while work goes on; may be called from a thread beside the main one.

        Raises
        ------
        StorageError
            As `log` does.
        """
        points = [(metric.name, float(metric.value), metric.step) for metric in metrics]
        self._database.log_points(self.run_id, points)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Give the run its final status: FINISHED, FAILED after an error, KILLED after Ctrl-C."""
        try:
            yield
        except BaseException as error:
            try:
                # The message of an error may quote an id; its type cannot.
                self.log(tags={"error": type(error).__name__})
                status = "FAILED" if isinstance(error, Exception) else "KILLED"
                self._database.set_status(self.run_id, status)
            except StorageError as second:
                error.add_note(f"Nor could MLflow record this end of the run: {second}")
            raise
        self._database.set_status(self.run_id, "FINISHED")


class StudyRun(RunLog):
    """The open run of a whole training; models are its children.

    Attributes
    ----------
    study : Study
        What is trained.
    """

    def __init__(self, database: MlflowDatabase, record: RunRecord, study: Study) -> None:
        super().__init__(database, record)
        self.study = study

    @contextmanager
    def start_model(self, name: str) -> Iterator[RunLog]:
        """Open the child run of one model of the study, its specification logged as params.

        Ends FINISHED; FAILED after an error, KILLED after Ctrl-C.
        """
        tags = code_tags() | {f"{TAG}kind": "model", "mlflow.parentRunId": self.run_id}
        run = self._database.create_run(self.study.study, name, tags)
        child = RunLog(self._database, RunRecord.from_mlflow(run, self._database.files))
        with child.closing():
            child.log(params=_model_params(self.study.model(name)))
            yield child

    def file_digests(self) -> dict[str, dict[str, str]]:
        """SHA-256 of every file of this run and its models' runs, by run id and relative path."""
        parent = {"mlflow.parentRunId": self.run_id}
        children = self._database.search(self.study.study, parent, status="FINISHED")
        records = [RunRecord.from_mlflow(child, self._database.files) for child in children]
        models = {record.run_id: digest_folder(record.artifacts) for record in records}
        return {**super().file_digests(), **models}

    def finished_model(self, name: str) -> RunRecord | None:
        """The finished child run of that model, where this training was interrupted after it."""
        tags = {"mlflow.parentRunId": self.run_id, "mlflow.runName": name}
        found = self._database.search(self.study.study, tags, status="FINISHED")
        return RunRecord.from_mlflow(found[0], self._database.files) if found else None


def software_tags() -> dict[str, str]:
    """Tags that are equal exactly where code and numerical packages are."""
    packages = package_versions(NUMERICAL_PACKAGES)
    return {
        f"{TAG}code_digest": code_version().digest,
        f"{TAG}packages_digest": digest_value(packages),
    }


def code_tags() -> dict[str, str]:
    """Tags that say which code made a run."""
    code = code_version()
    tags = {
        "mlflow.source.name": f"storm-clinic {code.version}",
        f"{TAG}version": code.version,
        f"{TAG}code_dirty": str(code.dirty).lower(),
    }
    commit = {"mlflow.source.git.commit": code.commit} if code.commit else {}
    return software_tags() | tags | commit


def _model_params(spec: ModelSpec) -> dict[str, Any]:
    options = {f"option.{name}": value for name, value in spec.options.items()}
    resolved = spec.model_dump(mode="json", by_alias=True)
    tuned = {f"tune.{name}": values for name, values in resolved["tune"].items()}
    search = {f"search.{name}": value for name, value in (resolved["search"] or {}).items()}
    return {"head": spec.head, "inputs": ", ".join(spec.inputs), **options, **tuned, **search}


def _cut(value: str) -> str:
    end = " ... (cut)"
    return value if len(value) <= _LONGEST_VALUE else value[: _LONGEST_VALUE - len(end)] + end
