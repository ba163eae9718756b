"""Measurements of patients: RNA, mutations, any table of numbers with one row a patient."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from storm_clinic.cohort.attrition import Attrition, AttritionStep
from storm_clinic.cohort.intake import Source
from storm_clinic.cohort.manifest import MeasurementTable
from storm_clinic.cohort.number_table import NumberTable, read_number_table
from storm_clinic.cohort.text_table import say_rows
from storm_clinic.errors import CohortError


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured of each patient of a cohort.

    Attributes
    ----------
    name : str
    unit : str
        Of all columns.
    table : DataFrame, float64, shape (n_patients, n_columns)
        Indexed by ``patient_id``, all patients of the cohort in their order. A row of NaN means
        that nothing was measured.
    attrition : Attrition
        Rows of the file that belong to no patient of the cohort.
    source : Source
        The file.
    """

    name: str
    unit: str
    table: pd.DataFrame = field(repr=False)
    attrition: Attrition = field(repr=False)
    source: Source

    @property
    def measured(self) -> pd.Series[bool]:
        """Whether a patient has any value, by ``patient_id``."""
        return self.table.notna().any(axis=1)

    @property
    def digests(self) -> dict[str, str]:
        """The file's SHA-256, by a name that holds no id."""
        return {f"{self.source.role}/{self.source.path.name}": self.source.digest}


def read_measurement(
    name: str,
    spec: MeasurementTable,
    *,
    root: Path,
    missing: Collection[str],
    patient_ids: pd.Index[str],
) -> Measurement:
    """Read one declared table and put it in the order of the cohort's patients.

    Raises
    ------
    CohortError
        If a cell is no number, a patient has two rows, or no row is of a patient of the cohort.
    """
    at = f"measurements.{name}"
    found = read_number_table(
        root / spec.path,
        id_column=spec.patient_id,
        columns=spec.columns,
        missing={*missing, *spec.missing},
        declared_by=at,
    )
    _check_one_row_each(found)
    known = pd.Index(found.ids).isin(patient_ids)
    if not known.any():
        raise CohortError(
            f"none of its {len(found.ids)} rows is of a patient of the clinical table",
            where=found.path,
            fix=f"Compare the ids in {spec.patient_id!r}: a sample's id is no patient's.",
        )
    strangers = tuple(
        (f"row {row}", "its patient is not in the clinical table")
        for row, is_known in zip(found.rows, known, strict=True)
        if not is_known
    )
    step = AttritionStep(
        f"{name} of known patients", "rows", len(known), int(known.sum()), strangers
    )
    table = pd.DataFrame(
        found.values, index=pd.Index(found.ids, dtype=object), columns=found.columns
    )
    source = Source(at, found.path, len(found.ids), found.n_columns, found.digest)
    ordered = table.reindex(patient_ids).rename_axis(index="patient_id")
    return Measurement(name, spec.unit, ordered, Attrition((step,)), source)


def _check_one_row_each(found: NumberTable) -> None:
    rows = pd.Series(found.rows, dtype=int).groupby(pd.Series(found.ids, dtype=object), sort=False)
    twice = [say_rows(group) for _, group in rows if len(group) > 1]
    if not twice:
        return
    shown = "; ".join(twice[:10]) + (f"; and {len(twice) - 10} more" if len(twice) > 10 else "")
    raise CohortError(
        f"{len(twice)} patient{'s have' if len(twice) > 1 else ' has'} several rows: {shown}",
        where=found.path,
        fix="Keep one row a patient: choose a sample, or average them, where the table is made.",
    )
