"""What cohorts declare of a study's inputs, and whether two of them mean the same."""

from __future__ import annotations

from storm_clinic.bundle import ClinicalColumn, MeasuredInput
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError
from storm_clinic.features.storm_expression import EXPRESSION_UNIT
from storm_clinic.heads.contract import PatientData
from storm_clinic.study import IMPUTED, Study


def clinical_columns(study: Study, cohort: Cohort) -> tuple[ClinicalColumn, ...]:
    """The study's covariates as a cohort declares them."""
    columns = [cohort.columns[name] for name in study.clinical]
    return tuple(
        ClinicalColumn(name=column.name, kind=column.kind, unit=column.unit, levels=column.levels)
        for column in columns
    )


def measured_inputs(cohort: Cohort, data: PatientData) -> tuple[MeasuredInput, ...]:
    """The tables that models learn from: their columns, and the unit that a cohort declares."""
    return tuple(
        MeasuredInput(
            name=name,
            unit=EXPRESSION_UNIT if name == IMPUTED else cohort.measured[name].unit,
            columns=tuple(map(str, table.columns)),
        )
        for name, table in data.tables.items()
    )


def require_same_inputs(
    clinical: tuple[ClinicalColumn, ...],
    measurements: tuple[MeasuredInput, ...],
    cohort: Cohort,
    study: Study,
) -> None:
    """Refuse a cohort whose inputs mean something else than those a model learned from.

    Raises
    ------
    CohortError
        Naming the covariate or measurement, and both declarations.
    """
    for ours, theirs in zip(clinical, clinical_columns(study, cohort), strict=True):
        for field in ("kind", "unit", "levels"):
            at = f"columns.{ours.name}: {field}"
            _require_same(at, getattr(ours, field), getattr(theirs, field), cohort)
    for table in measurements:
        if table.name != IMPUTED:
            unit = cohort.measured[table.name].unit
            _require_same(f"measurements.{table.name}: unit", table.unit, unit, cohort)


def _require_same(at: str, expected: object, found: object, cohort: Cohort) -> None:
    if expected != found:
        raise CohortError(
            f"{at} is {found!r}; development has {expected!r}",
            where=cohort.manifest_path,
            fix="Declare it as the development cohort does, converting it if need be.",
        )
