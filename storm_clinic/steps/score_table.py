"""The verb `score`: from slides, or their features, to one row of risk a patient."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from storm_clinic.errors import InputError
from storm_clinic.files import Workspace
from storm_clinic.progress import Progress
from storm_clinic.steps.scorable_model import ScorableModel
from storm_clinic.steps.score_file import write_guarded_csv
from storm_clinic.steps.score_request import request_cohort, request_tables
from storm_clinic.steps.score_rows import ScoredRows
from storm_clinic.steps.score_slides import Extraction
from storm_clinic.steps.score_sources import find_slides
from storm_clinic.steps.scorer import Scorer


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Risks that were written.

    Attributes
    ----------
    table : DataFrame
        One row a patient; see docs/scoring.md. A patient who could not be scored has no risk, and
        the reason in ``problem``.
    path : Path
        The CSV file with the same rows.
    model : ScorableModel
    notices : tuple of str
        On the model, and what was left out, as counts; without ids.
    """

    table: pd.DataFrame = field(repr=False)
    path: Path
    model: ScorableModel
    notices: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Patients, how many were scored, and of these how many are unusual."""
        scored = self.table["risk"].notna()
        return {
            "patients": len(self.table),
            "scored": int(scored.sum()),
            "not_scored": int((~scored).sum()),
            "out_of_distribution": int((self.table["out_of_distribution"] == "yes").sum()),
            "with_missing_inputs": int((scored & (self.table["missing_inputs"] != "")).sum()),
            "with_unread_slides": int((scored & (self.table["unread_slides"] != "")).sum()),
            "out_of_storm_domain": int((self.table["storm_out_of_domain"] != "").sum()),
        }

    @property
    def exit_code(self) -> int:
        """0 if every patient was scored from all their slides, else 3."""
        return 3 if self.counts["not_scored"] or self.counts["with_unread_slides"] else 0


def score(
    model: str | Path,
    source: str | Path | None = None,
    *,
    out: str | Path,
    cohort: str | None = None,
    clinical: str | Path | None = None,
    patients: str | Path | None = None,
    allow_retired: bool = False,
    allow_unapproved: bool = False,
    extraction: Extraction | None = None,
    workspace: Workspace | None = None,
    progress: Progress | None = None,
) -> ScoreTable:
    """Score patients with a locked model and write one row each.

    Parameters
    ----------
    model : str or Path
        ``kirc-pfi@approved``, or an archive; see `Scorer.load`.
    source : path, optional
        A folder of slides, one slide, a feature store, a folder of STORM files, or the folder that
        holds both; see `find_slides`. Without it, the cohort's stores.
    out : path
        The CSV file; it holds the patients' ids as they were given.
    cohort : str, optional
        A declared cohort, whose manifest gives patients, slides and covariates.
    clinical : path, optional
        Without a cohort: a table with ``patient_id`` and the model's columns.
    patients : path, optional
        Without a cohort: a table ``patient_id, slide_id``; else each slide is a patient.
    allow_retired, allow_unapproved : bool
        Accept a retired version; a candidate, or a rejected one. Every row says so.
    extraction : Extraction, optional
        Weights, microns per pixel, device, STORM checkpoint, where slides are to be extracted.
    workspace : Workspace, optional
        The current folder by default.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Raises
    ------
    RegistryError
        If the model may not score, or a byte of it was changed.
    ContractMismatch
        If features were made in another way than the model's; names both values.
    InputError, CohortError
        If a table, or what the model needs, is wrong or absent.
    StorageError
        If a file cannot be written.
    """
    workspace = workspace or Workspace()
    if cohort is not None and (clinical is not None or patients is not None):
        raise InputError(
            "gives patients and covariates by itself",
            where=f"cohort {cohort}",
            fix="Leave out --clinical and --patients, or --cohort.",
        )
    scorer = Scorer.load(
        model,
        workspace=workspace,
        allow_retired=allow_retired,
        allow_unapproved=allow_unapproved,
    )
    found = find_slides(
        scorer,
        source,
        cohort=cohort,
        extraction=extraction or Extraction(),
        workspace=workspace,
        progress=progress,
    )
    if cohort is not None:
        request = request_cohort(scorer, cohort, workspace)
    else:
        request = request_tables(
            scorer,
            found.every_slide,
            clinical=None if clinical is None else workspace.path(clinical),
            patients=None if patients is None else workspace.path(patients),
        )
    if not request.patient_ids:
        raise InputError("there is nobody to score", where=source or cohort)
    rows = ScoredRows(scorer, request, found)
    table = rows.table(progress)
    path = write_guarded_csv(table, workspace.path(out))
    notices = (*scorer.model.notices, *request.notices, *rows.notices)
    return ScoreTable(table, path, scorer.model, notices)
