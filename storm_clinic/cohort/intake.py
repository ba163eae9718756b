"""The clinical and the slides table where they enter: checked, one row a patient or a slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from storm_clinic.cohort.attrition import Attrition, AttritionStep
from storm_clinic.cohort.checks import (
    Rule,
    check_cells,
    checksum,
    declared,
    identifier,
    inside,
    numeric,
)
from storm_clinic.cohort.declarations import BinnedColumn, ContinuousColumn
from storm_clinic.cohort.endpoints import endpoint_columns, endpoint_rules
from storm_clinic.cohort.manifest import Manifest, SlidesTable
from storm_clinic.cohort.text_table import TextTable, read_text_table, say_rows
from storm_clinic.cohort.values import is_among, to_numbers
from storm_clinic.errors import CohortError

# Columns that a slides table may have, and the declarations that name them.
_OPTIONAL = {"path": "slide_path", "mpp": "mpp", "scanner": "scanner", "checksum": "checksum"}


@dataclass(frozen=True)
class Source:
    """One table's file as it was read: its role, size and SHA-256."""

    role: str
    path: Path
    n_rows: int
    n_columns: int
    digest: str

    @classmethod
    def of(cls, role: str, table: TextTable) -> Source:
        """What a table came from."""
        return cls(role, table.path, *table.frame.shape, table.digest)


@dataclass(frozen=True, eq=False)
class Intake:
    """Checked rows of one table, what was left out, and the file behind it."""

    cells: pd.DataFrame
    attrition: Attrition
    sources: tuple[Source, ...]


def read_clinical(manifest: Manifest, root: Path) -> Intake:
    """The declared columns as text, indexed by ``patient_id``, one row a patient.

    Rows that repeat a patient with the same values in every declared column are dropped and
    counted.

    Raises
    ------
    CohortError
        If a cell is not what its column declares, or two rows of a patient differ.
    """
    spec = manifest.tables.clinical
    table = read_text_table(root / spec.path)
    check_cells(table, _clinical_rules(manifest))
    used = [spec.patient_id, *([manifest.site] if manifest.site else [])]
    used += [c.source for c in manifest.columns.values() if not isinstance(c, BinnedColumn)]
    used += [name for e in manifest.endpoints.values() for name in endpoint_columns(e)]
    cells, repeats = _one_row_each(table, spec.patient_id, list(dict.fromkeys(used)), "patient")
    if cells.empty:
        raise CohortError("holds no patient", where=table.path)
    cells.index = pd.Index(cells[spec.patient_id], name="patient_id", dtype=object)
    attrition = repeats.joined(Attrition.left_out("in the clinical table", cells.index, {}))
    return Intake(cells, attrition, (Source.of("clinical", table),))


def read_slides(manifest: Manifest, root: Path, patient_ids: pd.Index[str]) -> Intake:
    """Slides of the cohort's patients: ``slide_id, patient_id, path, mpp, scanner, checksum``.

    Raises
    ------
    CohortError
        If an id is unsafe, a slide belongs to two patients, a path leaves data_root, an mpp is no
        number, or a checksum neither an MD5 nor a SHA-256.
    """
    spec = manifest.tables.slides
    if spec is None:
        columns = ["slide_id", "patient_id", *_OPTIONAL]
        empty = pd.DataFrame(columns=columns, dtype=object).astype({"mpp": float})
        return Intake(empty, Attrition(), ())
    table = read_text_table(root / spec.path)
    optional = _optional_columns(spec, table)
    check_cells(table, _slide_rules(spec, optional, manifest.missing))
    used = [spec.slide_id, spec.patient_id, *optional.values()]
    rows, repeats = _one_row_each(table, spec.slide_id, list(dict.fromkeys(used)), "slide")
    slides = _slide_frame(rows, spec, optional, manifest.missing, root)
    known = slides["patient_id"].isin(patient_ids)
    strangers = dict.fromkeys(
        slides["slide_id"][~known], "its patient is not in the clinical table"
    )
    attrition = repeats.joined(
        Attrition.left_out("of known patients", slides["slide_id"], strangers, unit="slides")
    )
    kept = slides[known].reset_index(drop=True)
    return Intake(kept, attrition, (Source.of("slides", table),))


def _clinical_rules(manifest: Manifest) -> list[Rule]:
    rules = [identifier(manifest.tables.clinical.patient_id, "tables.clinical.patient_id")]
    if manifest.site:
        rules.append(_anything(manifest.site, "site"))
    for name, column in manifest.columns.items():
        if isinstance(column, BinnedColumn):
            continue
        markers = {*manifest.missing, *column.missing}
        if isinstance(column, ContinuousColumn):
            rules.append(numeric(column.source, f"columns.{name}", markers))
        else:
            at = f"columns.{name}.levels"
            rules.append(declared(column.source, at, column.meaning, markers))
    for name, endpoint in manifest.endpoints.items():
        rules += endpoint_rules(name, endpoint, manifest.missing)
    return rules


def _anything(column: str, declared_by: str) -> Rule:
    return Rule(
        column,
        declared_by,
        lambda cells: cells == cells.str.strip(),
        "begins or ends with a blank",
        "Blanks would make two sites of one: take them out.",
    )


def _optional_columns(spec: SlidesTable, table: TextTable) -> dict[str, str]:
    """Which of path, mpp, scanner and checksum there are; one that the manifest names must be."""
    found = {}
    for name, field in _OPTIONAL.items():
        column = getattr(spec, field)
        if field in spec.model_fields_set:
            table.column(column, asked_by=f"tables.slides.{field}")
        if column in table.frame:
            found[name] = column
    return found


def _slide_rules(
    spec: SlidesTable, optional: Mapping[str, str], missing: tuple[str, ...]
) -> list[Rule]:
    rules = [
        identifier(spec.slide_id, "tables.slides.slide_id"),
        identifier(spec.patient_id, "tables.slides.patient_id"),
    ]
    # A slides table may have empty cells without the cohort declaring an empty cell as missing.
    markers = {*missing, ""}
    if "mpp" in optional:
        rules.append(numeric(optional["mpp"], "tables.slides.mpp", markers))
    if "path" in optional:
        rules.append(inside(optional["path"], "tables.slides.slide_path", markers))
    if "checksum" in optional:
        rules.append(checksum(optional["checksum"], "tables.slides.checksum", markers))
    return rules


def _slide_frame(
    rows: pd.DataFrame,
    spec: SlidesTable,
    optional: Mapping[str, str],
    missing: tuple[str, ...],
    root: Path,
) -> pd.DataFrame:
    slides = rows[[spec.slide_id, spec.patient_id]].set_axis(["slide_id", "patient_id"], axis=1)
    markers = {*missing, ""}
    for name in _OPTIONAL:
        if name not in optional:
            slides[name] = float("nan") if name == "mpp" else None
        elif name == "mpp":
            slides[name] = to_numbers(rows[optional[name]], markers)
        else:
            cells = rows[optional[name]].astype(object)
            slides[name] = cells.mask(is_among(cells, markers), None)
    slides["path"] = [
        None if path is None else str((root / path).absolute()) for path in slides["path"]
    ]
    return slides


def _one_row_each(
    table: TextTable, id_column: str, used: list[str], what: str
) -> tuple[pd.DataFrame, Attrition]:
    """Drop rows that repeat an id with equal cells in the used columns; refuse others."""
    cells = table.frame[used]
    repeated = cells.duplicated(keep="first")
    kept = cells[~repeated]
    twice = kept[kept.duplicated(id_column, keep=False)]
    if not twice.empty:
        raise _contradiction(table, twice, id_column, what)
    if not repeated.any():
        return kept.copy(), Attrition()
    excluded = tuple(
        (f"row {row}", f"repeats an earlier row of its {what}") for row in cells.index[repeated]
    )
    step = AttritionStep(f"one row a {what}", "rows", len(cells), len(kept), excluded)
    return kept.copy(), Attrition((step,))


def _contradiction(table: TextTable, twice: pd.DataFrame, id_column: str, what: str) -> CohortError:
    groups = [rows for _, rows in twice.groupby(id_column, sort=False)]
    shown = []
    for rows in groups[:10]:
        differ = [str(name) for name in rows.columns if rows[name].nunique() > 1]
        shown.append(f"{say_rows(rows.index)} differ in {', '.join(differ)}")
    more = f"; and {len(groups) - 10} more" if len(groups) > 10 else ""
    return CohortError(
        f"{len(groups)} {what}{'s have' if len(groups) > 1 else ' has'} several rows that "
        f"contradict each other: {'; '.join(shown)}{more}",
        where=table.path,
        fix=f"Keep one row a {what}.",
    )
