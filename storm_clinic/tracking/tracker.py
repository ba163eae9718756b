"""Trainings and validations of one workspace: opening, taking up again, finding."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from storm_clinic.errors import StorageError
from storm_clinic.files import Workspace, digest_value, safe_name, storage_errors, write_json
from storm_clinic.provenance import code_version, environment
from storm_clinic.study import Study
from storm_clinic.tracking.client import MlflowDatabase, mlflow_errors
from storm_clinic.tracking.runs import TAG, RunLog, RunRecord, StudyRun, code_tags, software_tags


class Tracker:
    """MLflow of one workspace.

    Parameters
    ----------
    workspace : Workspace
        Its ``mlruns/`` is created by the first run, not before.

    Attributes
    ----------
    database : MlflowDatabase
        With ``uri`` for ``mlflow ui --backend-store-uri`` and the plain ``client``.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.database = MlflowDatabase(workspace.mlruns.resolve())

    @contextmanager
    def start_study(self, study: Study, *, inputs: Mapping[str, str]) -> Iterator[StudyRun]:
        """Open the run of a training, or reopen the one that was interrupted.

        A run of the same study, inputs and code that did not finish is taken up again: what its
        finished children hold need not be computed twice (`StudyRun.finished_model`). The resolved
        study, the inputs and the environment are logged as files, the main settings as params.

        Parameters
        ----------
        study : Study
            The experiment has its name.
        inputs : dict of str to str
            SHA-256 of each input by its name, which must not be or hold an id.

        Raises
        ------
        StorageError
            If another process trains this study in this workspace at the moment.
        """
        with self._alone(study):
            record = self._interrupted(study, inputs) or self._begin(study, inputs)
            run = StudyRun(self.database, record, study)
            with run.closing():
                _describe(run, inputs)
                yield run

    def find_study(self, study: Study, *, inputs: Mapping[str, str]) -> RunRecord | None:
        """The latest finished training of the same study on the same inputs, by any code.

        Whether it was this code says `RunRecord.same_code`.
        """
        tags = _training_tags(study, inputs)
        found = self.database.search(study.study, tags, status="FINISHED")
        return RunRecord.from_mlflow(found[0]) if found else None

    @contextmanager
    def start_validation(self, study: Study, *, version: str, cohort: str) -> Iterator[RunLog]:
        """Open a run that holds the predictions and the evidence of one validation.

        Parameters
        ----------
        study : Study
            Of the locked model.
        version : str
            The model version, e.g. ``kirc-pfi:3``.
        cohort : str
            Name of the cohort that is scored.
        """
        tags = {
            **code_tags(),
            f"{TAG}kind": "validation",
            f"{TAG}model_version": version,
            f"{TAG}cohort": cohort,
        }
        made = self.database.create_run(study.study, f"validate {version} on {cohort}", tags)
        run = RunLog(self.database, RunRecord.from_mlflow(made))
        with run.closing():
            yield run

    def read_run(self, run_id: str) -> RunRecord:
        """A run by its id.

        Raises
        ------
        StorageError
            If there is none, or ``mlruns/`` was moved since, so that its files cannot be found.
        """
        client = self.database.client
        with mlflow_errors(self.database.path):
            record = RunRecord.from_mlflow(client.get_run(run_id))
        self.database.require_inside(record.artifacts)
        return record

    def _begin(self, study: Study, inputs: Mapping[str, str]) -> RunRecord:
        note = {"mlflow.note.content": study.question}
        tags = _training_tags(study, inputs) | code_tags() | note
        name = f"train {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        return RunRecord.from_mlflow(self.database.create_run(study.study, name, tags))

    def _interrupted(self, study: Study, inputs: Mapping[str, str]) -> RunRecord | None:
        tags = _training_tags(study, inputs) | software_tags()
        runs = self.database.search(study.study, tags)
        unfinished = [run for run in runs if run.info.status != "FINISHED"]
        if not unfinished:
            return None
        record = RunRecord.from_mlflow(unfinished[0])
        # The lock is held, so whatever still counts as running was killed.
        parent = {"mlflow.parentRunId": record.run_id}
        for child in self.database.search(study.study, parent, status="RUNNING"):
            self.database.set_status(child.info.run_id, "KILLED")
        self.database.set_status(record.run_id, "RUNNING")
        return record

    @contextmanager
    def _alone(self, study: Study) -> Iterator[None]:
        """Hold the study's lock, which the system releases even after a kill."""
        folder = self.database.folder
        path = folder / f".{safe_name(study.study, what='study')}.lock"
        with storage_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            handle = path.open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"another process is training {study.study!r}",
                    where=folder,
                    fix="Wait for it or stop it, then run the same again.",
                ) from None
            yield


def _training_tags(study: Study, inputs: Mapping[str, str]) -> dict[str, str]:
    return {
        f"{TAG}kind": "training",
        f"{TAG}study_digest": study.digest,
        f"{TAG}inputs_digest": digest_value(dict(inputs)),
    }


def _describe(run: StudyRun, inputs: Mapping[str, str]) -> None:
    """Log what is known before the training; again where a kill may have cut it short."""
    resolved = {"digest": run.study.digest, "study": run.study.resolved()}
    write_json(run.artifacts / "study.json", resolved)
    write_json(run.artifacts / "inputs.json", dict(inputs))
    details = {"code": code_version().as_dict(), **environment()}
    write_json(run.artifacts / "environment.json", details)
    run.log(params=_study_params(run.study))


def _study_params(study: Study) -> dict[str, Any]:
    """What one would sort and filter trainings by; the whole is in study.json."""
    resolved = study.resolved()
    lists = {name: ", ".join(resolved[name]) for name in ("development", "validation", "clinical")}
    nested = {
        f"{part}.{name}": value
        for part in ("endpoint", "features", "evaluation")
        for name, value in resolved[part].items()
    }
    return {"candidate": study.candidate, **lists, **nested}
