"""The verb `run`: from a study file to a candidate and its report, and on request to validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import FeatureError
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace
from storm_clinic.progress import Progress
from storm_clinic.registry.versions import FROZEN, RegisteredModel
from storm_clinic.reporting.page import Report
from storm_clinic.steps.external_validation import validate
from storm_clinic.steps.extraction import ExtractionResult, extract
from storm_clinic.steps.locking import lock
from storm_clinic.steps.stored_validations import Validation, stored_validations
from storm_clinic.steps.study_patients import needs_slides
from storm_clinic.steps.study_report import report
from storm_clinic.steps.training import train
from storm_clinic.study import Study
from storm_clinic.tracking import Tracker


@dataclass(frozen=True, eq=False)
class StudyRunResult:
    """What a run left.

    Attributes
    ----------
    model : RegisteredModel
        The candidate, or the locked model.
    extractions : dict of cohort to ExtractionResult
        Cohorts whose slides were extracted now.
    validations : tuple of Validation
    report : Report
    report_path : Path
        Where it was saved.
    """

    model: RegisteredModel
    extractions: dict[str, ExtractionResult]
    validations: tuple[Validation, ...]
    report: Report
    report_path: Path


def run_study(
    study: Study | str | Path,
    *,
    workspace: Workspace | None = None,
    lock_by: str | None = None,
    by: str | None = None,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> StudyRunResult:
    """Extract what is missing, train, register, report; with ``lock_by`` lock and validate too.

    What was done before on the same inputs by the same code is not done again. A model is never
    promoted here.

    Parameters
    ----------
    study : Study, str or Path
        The study or its file; a relative path starts in the workspace, else here.
    workspace : Workspace, optional
        The current folder by default.
    lock_by : str, optional
        Who locks; without it the run ends at the candidate.
    by : str, optional
        Who trains and validates; the name of the account by default.
    n_jobs : int
        Processes among which folds are divided.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Raises
    ------
    StormClinicError
        As `extract`, `train`, `lock` and `validate` do.
    """
    workspace = workspace or Workspace()
    if not isinstance(study, Study):
        study = Study.read(_find(study, workspace))
    extractions = _extract_missing(study, workspace, progress)
    candidate = train(study, workspace=workspace, by=by, n_jobs=n_jobs, progress=progress)
    model = candidate.model
    validations: tuple[Validation, ...] = ()
    if lock_by is not None:
        if model.state == "candidate":
            model = lock(model, by=lock_by, workspace=workspace)
        if study.validation and model.state in FROZEN:
            validations = validate(model, workspace=workspace, by=by, progress=progress).cohorts
        else:  # rejected or retired since
            validations = tuple(stored_validations(model, Tracker(workspace)))
    page = report(model, workspace=workspace)
    path = page.save(report_path(workspace, model))
    return StudyRunResult(model, extractions, validations, page, path)


def report_path(workspace: Workspace, model: RegisteredModel) -> Path:
    """Where a version's report lies: ``reports/<study>/v<version>.html``."""
    return workspace.reports / model.name / f"v{model.version}.html"


def _find(study: str | Path, workspace: Workspace) -> Path:
    inside = workspace.path(study)
    return inside if inside.exists() else Path(study)


def _extract_missing(
    study: Study, workspace: Workspace, progress: Progress | None
) -> dict[str, ExtractionResult]:
    """Extract cohorts whose slides are here and have no features yet."""
    if not needs_slides(study):
        return {}
    done = {}
    for name in (*study.development, *study.validation):
        cohort = Cohort.read(name, workspace)
        if not _slides_to_read(cohort, study, workspace):
            continue

        def named(what: str, at: int, total: int, *, cohort_name: str = name) -> None:
            if progress is not None:
                progress(f"extract {cohort_name}: {what}", at, total)

        done[name] = extract(
            cohort=name, encoder=study.features.encoder, workspace=workspace, progress=named
        )
    return done


def _slides_to_read(cohort: Cohort, study: Study, workspace: Workspace) -> bool:
    """Whether the cohort lists slide files, some without features."""
    if cohort.slides["path"].isna().all():
        return False  # features are imported; `train` says so where they are not
    try:
        store = FeatureStore.open(workspace.store(cohort.name, study.features.encoder))
    except FeatureError:
        return True
    if store.contract.provenance == "declared":
        return False
    return bool(set(cohort.slides["slide_id"]) - set(store.slide_ids()))
