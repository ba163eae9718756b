"""MLflow, client side only: an experiment a study, a run a training, a child run a model.

Everything lies under ``mlruns/`` of the workspace: ``mlflow.db`` (SQLite) and ``artifacts/``. No
global state of MLflow is set; no patient or slide id may be passed in, only keys
(`storm_clinic.registry.identity`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from storm_clinic.files import Workspace
from storm_clinic.study import Study


@dataclass(frozen=True)
class Metric:
    """One number of a run; ``step`` tells repeats, folds or epochs apart (see `fold_step`)."""

    name: str
    value: float
    step: int = 0


def fold_step(repeat: int, fold: int, *, folds: int) -> int:
    """Step under which a fold's metric is logged: ``repeat * folds + fold``."""
    return repeat * folds + fold


@dataclass(frozen=True)
class RunRecord:
    """A run that was logged before."""

    run_id: str
    name: str
    status: str
    started: datetime
    artifacts: Path
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def same_code(self) -> bool:
        """True if the code that runs now is byte for byte the one that made the run."""
        raise NotImplementedError


class RunLog:
    """An open run. Attributes: ``run_id``, ``name``, ``artifacts`` (its folder, to read from)."""

    run_id: str
    name: str
    artifacts: Path

    def log(
        self,
        *,
        metrics: Iterable[Metric] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        artifacts: Path | None = None,
    ) -> None:
        """Log numbers, settings and tags in one batch, and copy a folder's contents beside them."""
        raise NotImplementedError


class StudyRun(RunLog):
    """The open run of a whole training; models are its children."""

    def start_model(self, name: str) -> AbstractContextManager[RunLog]:
        """Open the child run of one model; it ends FINISHED, FAILED or KILLED by itself."""
        raise NotImplementedError

    def finished_model(self, name: str) -> RunRecord | None:
        """The finished child run of that model, if this training was interrupted after it."""
        raise NotImplementedError


class Tracker:
    """MLflow of one workspace.

    Parameters
    ----------
    workspace : Workspace
        Its ``mlruns/`` is created on first use.
    """

    def __init__(self, workspace: Workspace) -> None:
        raise NotImplementedError

    def start_study(
        self, study: Study, *, inputs: Mapping[str, str]
    ) -> AbstractContextManager[StudyRun]:
        """Open the run of a training, or reopen the one that was interrupted.

        ``inputs`` maps names of input files (never ids) to their SHA-256. A run of the same study,
        inputs and code that did not finish is taken up again; see `StudyRun.finished_model`.

        Raises
        ------
        StorageError
            If another process trains this study in this workspace at the moment.
        """
        raise NotImplementedError

    def find_study(self, study: Study, *, inputs: Mapping[str, str]) -> RunRecord | None:
        """The latest finished training of the same study on the same inputs, by any code."""
        raise NotImplementedError

    def start_validation(
        self, study: Study, *, version: str, cohort: str
    ) -> AbstractContextManager[RunLog]:
        """Open a run that holds the predictions and the evidence of one validation."""
        raise NotImplementedError
