"""Trainings and validations of one workspace: opening, taking up again, finding."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from storm_clinic.errors import StorageError
from storm_clinic.files import Workspace, digest_value, write_json
from storm_clinic.provenance import code_version, environment
from storm_clinic.study import Study
from storm_clinic.tracking.client import MlflowDatabase, mlflow_errors
from storm_clinic.tracking.place import Place
from storm_clinic.tracking.runs import TAG, RunLog, RunRecord, StudyRun, code_tags, software_tags

StormWork = Literal["pretraining", "fine-tuning", "evaluation"]


class Tracker:
    """MLflow of one workspace.

    Parameters
    ----------
    workspace : Workspace
        Its ``mlruns/`` is created by the first run, not before; or the place that
        `Place.of` finds for it.

    Attributes
    ----------
    database : MlflowDatabase
        With MLflow's plain ``client``, and ``files``.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.database = MlflowDatabase(Place.of(workspace))

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
        with self._alone(study.study):
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
        return self._record(found[0]) if found else None

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
        run = RunLog(self.database, self._record(made))
        with run.closing():
            yield run

    @contextmanager
    def start_storm(
        self, name: str, *, kind: StormWork, digest: str, resume: bool = False
    ) -> Iterator[RunLog]:
        """Open a run of work on a checkpoint of STORM, or reopen the latest of the same.

        Parameters
        ----------
        name : str
            Of the checkpoint; the experiment has it too.
        kind : "pretraining", "fine-tuning" or "evaluation"
            What is done.
        digest : str
            SHA-256 of settings, and of data where they are read already: what makes it the same.
        resume : bool
            False opens a new run in any case.

        Raises
        ------
        StorageError
            If another process works under this name in this workspace at the moment.
        """
        tags = {f"{TAG}kind": kind, f"{TAG}inputs_digest": digest}
        with self._alone(name):
            runs = self.database.search(name, tags) if resume else ()
            if runs:
                record = self._record(runs[0])
                self.database.set_status(record.run_id, "RUNNING")
            else:
                title = f"{kind} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
                record = self._record(self.database.create_run(name, title, tags | code_tags()))
            run = RunLog(self.database, record)
            with run.closing():
                yield run

    def read_run(self, run_id: str) -> RunRecord:
        """A run by its id.

        Raises
        ------
        StorageError
            If there is none, or its files are not in the place in use.
        """
        client = self.database.client
        with mlflow_errors(self.database.shown):
            record = self._record(client.get_run(run_id))
        self.database.files.name_of(record.artifact_uri)
        return record

    def _record(self, run: Any) -> RunRecord:
        return RunRecord.from_mlflow(run, self.database.files)

    def _begin(self, study: Study, inputs: Mapping[str, str]) -> RunRecord:
        note = {"mlflow.note.content": study.question}
        tags = _training_tags(study, inputs) | code_tags() | note
        name = f"train {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        return self._record(self.database.create_run(study.study, name, tags))

    def _interrupted(self, study: Study, inputs: Mapping[str, str]) -> RunRecord | None:
        tags = _training_tags(study, inputs) | software_tags()
        runs = self.database.search(study.study, tags)
        unfinished = [run for run in runs if run.info.status != "FINISHED"]
        if not unfinished:
            return None
        record = self._record(unfinished[0])
        # The lock is held, so whatever still counts as running was killed.
        parent = {"mlflow.parentRunId": record.run_id}
        for child in self.database.search(study.study, parent, status="RUNNING"):
            self.database.set_status(child.info.run_id, "KILLED")
        self.database.set_status(record.run_id, "RUNNING")
        return record

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with self.database.held_alone(name) as alone:
            if not alone:
                raise StorageError(
                    f"another process is training {name!r}",
                    where=self.database.shown,
                    fix="Wait for it or stop it, then run the same again.",
                )
            yield


def _training_tags(study: Study, inputs: Mapping[str, str]) -> dict[str, str]:
    return {
        f"{TAG}kind": "training",
        f"{TAG}study_digest": study.digest,
        f"{TAG}inputs_digest": digest_value(dict(inputs)),
    }


def _describe(run: StudyRun, inputs: Mapping[str, str]) -> None:
    """Log what is known before the training; again where a kill may have cut it short."""
    content = {
        "study.json": {"digest": run.study.digest, "study": run.study.resolved()},
        "inputs.json": dict(inputs),
        "environment.json": {"code": code_version().as_dict(), **environment()},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, value in content.items():
            write_json(Path(scratch) / name, value)
        run.log(params=_study_params(run.study), artifacts=Path(scratch))


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
