"""Who is to be scored: patients with their slides, covariates and measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from storm_clinic.bundle import ClinicalColumn, Manifest, MeasuredInput
from storm_clinic.cohort.table import Cohort
from storm_clinic.cohort.text_table import TextTable, read_text_table
from storm_clinic.cohort.values import NumberReader
from storm_clinic.errors import CohortError
from storm_clinic.files import Workspace
from storm_clinic.steps.declared_inputs import require_same_inputs
from storm_clinic.steps.scorer import Scorer
from storm_clinic.study import IMPUTED

PATIENT, SLIDE = "patient_id", "slide_id"
_NUMBERS = NumberReader.of(())


@dataclass(frozen=True, eq=False)
class ScoreRequest:
    """Patients in the order of their rows.

    Attributes
    ----------
    patient_ids : tuple of str
    slide_ids : tuple of tuple of str
        Slides that are said to be each patient's, sorted.
    clinical : DataFrame, optional
        Typed as the model expects it; None where it sees no covariates.
    tables : dict of str to DataFrame
        Measurements, by the input's name.
    problems : dict of str to str
        Patients who cannot be scored whatever their slides are, and why.
    notices : tuple of str
        What was left out of the tables, as counts.
    """

    patient_ids: tuple[str, ...] = field(repr=False)
    slide_ids: tuple[tuple[str, ...], ...] = field(repr=False)
    clinical: pd.DataFrame | None = field(repr=False)
    tables: Mapping[str, pd.DataFrame] = field(repr=False)
    problems: Mapping[str, str] = field(repr=False)
    notices: tuple[str, ...] = ()


def request_cohort(scorer: Scorer, name: str, workspace: Workspace) -> ScoreRequest:
    """All patients of a declared cohort; no outcome is read.

    Raises
    ------
    CohortError
        If its tables are wrong, or a covariate means something else than in development.
    """
    cohort = Cohort.read(name, workspace)
    manifest, study = scorer.bundle.manifest, scorer.bundle.study
    for column in manifest.clinical:
        if column.name not in cohort.columns:
            raise CohortError(f"no column {column.name} is declared", where=cohort.manifest_path)
    ids = [str(patient) for patient in cohort.patients.index]
    used = _measured_inputs(scorer)
    measured = cohort.measurements([table.name for table in used])
    require_same_inputs(manifest.clinical, used, cohort, study)
    of: dict[str, list[str]] = {patient: [] for patient in ids}
    for patient, slide in zip(cohort.slides[PATIENT], cohort.slides[SLIDE], strict=True):
        of[str(patient)].append(str(slide))
    left_out = [
        f"{len(step.excluded)} {step.unit} of the cohort's tables are left out ({step.step})"
        for step in cohort.attrition
        if step.excluded
    ]
    return ScoreRequest(
        tuple(ids),
        tuple(tuple(sorted(of[patient])) for patient in ids),
        cohort.covariates(study.clinical).loc[ids] if scorer.sees_clinical else None,
        {name: found.table.loc[ids] for name, found in measured.items()},
        {},
        tuple(left_out),
    )


def request_tables(
    scorer: Scorer, slide_ids: list[str], *, clinical: Path | None, patients: Path | None
) -> ScoreRequest:
    """Patients of slides, of a table that says whose they are, and of a clinical table.

    Parameters
    ----------
    scorer : Scorer
        Says which columns are needed.
    slide_ids : list of str
        Slides that were found; each is a patient of its own without ``patients``.
    clinical : Path, optional
        CSV or TSV with ``patient_id``, the model's covariates, and measurements such as
        ``rna.TP53``; an empty cell is unknown.
    patients : Path, optional
        CSV or TSV with ``patient_id, slide_id``.

    Raises
    ------
    CohortError
        If a table lacks a column, or names a patient or a slide twice.
    """
    of: dict[str, list[str]] = {slide: [slide] for slide in sorted(slide_ids)}
    if patients is not None:
        of = _slides_of_patients(read_text_table(patients))
    manifest = scorer.bundle.manifest
    covariates, tables, problems = None, {}, {}
    if clinical is not None:
        cells = _cells(read_text_table(clinical))
        of |= {patient: [] for patient in cells.index if patient not in of}
        unknown = [patient for patient in of if patient not in cells.index]
        problems = dict.fromkeys(unknown, f"no row in {clinical.name}")
        cells = cells.reindex(list(of))
        if scorer.sees_clinical:
            covariates = _covariates(manifest, cells, clinical, problems)
        for table in _measured_inputs(scorer):
            tables[table.name] = _measured(table, cells, problems)
    elif scorer.sees_clinical or _measured_inputs(scorer):
        names = [column.name for column in manifest.clinical]
        raise CohortError(
            f"the model sees more than slides ({', '.join(scorer.inputs)}), and no table was given",
            where="clinical",
            fix=f"Give --clinical FILE.csv with {', '.join([PATIENT, *names])}, or --cohort NAME.",
        )
    return ScoreRequest(
        tuple(of),
        tuple(tuple(sorted(slides)) for slides in of.values()),
        covariates,
        tables,
        problems,
    )


def _measured_inputs(scorer: Scorer) -> tuple[MeasuredInput, ...]:
    """Tables that come from the request: imputed expression comes from slides."""
    seen = [table for table in scorer.bundle.manifest.measurements if table.name in scorer.inputs]
    return tuple(table for table in seen if table.name != IMPUTED)


def _slides_of_patients(table: TextTable) -> dict[str, list[str]]:
    whose = _ids(table, PATIENT, "--patients")
    slides = _ids(table, SLIDE, "--patients")
    twice = slides.duplicated()
    if twice.any():
        raise CohortError(f"row {slides.index[twice][0]}: a slide is named twice", where=table.path)
    of: dict[str, list[str]] = {}
    for patient, slide in zip(whose, slides, strict=True):
        of.setdefault(patient, []).append(slide)
    return of


def _cells(table: TextTable) -> pd.DataFrame:
    """The table by patient; empty cells are missing."""
    patients = _ids(table, PATIENT, "--clinical")
    twice = patients.duplicated()
    if twice.any():
        row = patients.index[twice][0]
        raise CohortError(f"row {row}: a patient has a second row", where=table.path)
    cells = table.frame.set_index(PATIENT)
    return cells.where(cells.apply(lambda column: column.str.strip()) != "", None)


def _ids(table: TextTable, name: str, asked_by: str) -> pd.Series[str]:
    ids = table.column(name, asked_by=asked_by)
    empty = ids.str.strip() == ""
    if empty.any():
        raise CohortError(f"row {ids.index[empty][0]}: no {name}", where=table.path)
    return ids


def _covariates(
    manifest: Manifest, cells: pd.DataFrame, path: Path, problems: dict[str, str]
) -> pd.DataFrame:
    """Typed covariates; an illegal value takes its patient out, and no one else."""
    missing = [column.name for column in manifest.clinical if column.name not in cells]
    if missing:
        raise CohortError(
            f"no column {', '.join(missing)}",
            where=path,
            fix="An unknown value may be left empty; the column itself must be there.",
        )
    typed = {}
    for column in manifest.clinical:
        typed[column.name] = column.typed(_read(cells[column.name], column, problems))
    return pd.DataFrame(typed, index=cells.index)


def _measured(table: MeasuredInput, cells: pd.DataFrame, problems: dict[str, str]) -> pd.DataFrame:
    """A table's columns, of which any may be absent; an illegal value as in `_covariates`."""
    found = {}
    for column in (f"{table.name}.{name}" for name in table.columns):
        if column in cells:
            found[column] = _read(
                cells[column], ClinicalColumn(name=column, kind="continuous"), problems
            )
    return table.typed(pd.DataFrame(found, index=cells.index))


def _read(
    cells: pd.Series[Any], column: ClinicalColumn, problems: dict[str, str]
) -> pd.Series[Any]:
    """Values of a column of text; a cell that is not legal is missing, and its patient noted."""
    values: list[float | str | None] = []
    for patient, cell in zip(cells.index, cells, strict=True):
        value, problem = (None, "") if pd.isna(cell) else _read_cell(column, cell)
        if problem:
            problems.setdefault(str(patient), f"{column.name}: {cell!r} {problem}")
        values.append(value)
    return pd.Series(values, index=cells.index, dtype=object)


def _read_cell(column: ClinicalColumn, cell: str) -> tuple[float | str | None, str]:
    """A cell's value and nothing, or nothing and what is wrong with it."""
    if column.kind != "continuous":
        if cell in column.levels:
            return cell, ""
        return None, f"is none of {', '.join(column.levels)}"
    # pandas would read some numbers wrong by a last bit, and "nan" as unknown.
    number = _NUMBERS.read(cell)
    return (None, "is no finite number") if number is None else (number, "")
