"""A cohort as the report describes it: counts, medians and shares, and nobody's id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from storm_clinic.cohort.attrition import Attrition
from storm_clinic.cohort.outcome import Outcome, Survival
from storm_clinic.cohort.table import Cohort, Column
from storm_clinic.metrics.curves import follow_up
from storm_clinic.reporting.content import CohortSummary, FlowStep, VariableRow
from storm_clinic.reporting.notation import count, share


def summarise_cohort(
    cohort: Cohort,
    patient_ids: Sequence[str],
    outcome: Outcome,
    *,
    role: Literal["development", "validation"],
    variables: Sequence[str],
    attrition: Attrition,
    n_slides: int | None = None,
) -> CohortSummary:
    """Describe the patients of a cohort who were analysed.

    Parameters
    ----------
    cohort : Cohort
        Where they come from.
    patient_ids : sequence of str, length n_patients
        Patients analysed.
    outcome : Survival, CompetingRisks or Classes, length n_patients
        What happened to them.
    role : {"development", "validation"}
        What the cohort was used for.
    variables : sequence of str
        Declared columns to describe, in this order.
    attrition : Attrition
        From the tables' rows to these patients.
    n_slides : int, optional
        Slides of these patients that were used.
    """
    patients = cohort.patients.loc[list(patient_ids)]
    sites = patients["site"].nunique() if "site" in patients else None
    median = follow_up(outcome).median if isinstance(outcome, Survival) else None
    origin = cohort.origin.model_dump(exclude_none=True, exclude={"simulated"})
    return CohortSummary(
        name=cohort.name,
        role=role,
        n_patients=outcome.n_patients,
        n_events=outcome.n_events,
        n_slides=n_slides,
        n_sites=sites,
        median_follow_up_months=median,
        simulated=cohort.origin.simulated,
        origin=tuple((name, _text(value)) for name, value in origin.items() if value),
        flow=flow_of(attrition),
        variables=tuple(
            row
            for name in dict.fromkeys(variables)
            for row in describe_variable(cohort.columns[name], patients[name])
        ),
    )


def flow_of(attrition: Attrition) -> tuple[FlowStep, ...]:
    """Steps with counts of reasons, ids left behind."""
    return tuple(
        FlowStep(
            step.step,
            step.unit,
            step.n_before,
            step.n_after,
            tuple(Counter(reason for _, reason in step.excluded).most_common()),
        )
        for step in attrition
    )


def describe_variable(column: Column, values: pd.Series[Any]) -> tuple[VariableRow, ...]:
    """Median and quartiles of a number, or count and share of the known of each level."""
    missing = int(values.isna().sum())
    name = column.name if column.unit in (None, "1") else f"{column.name}, {column.unit}"
    known = values.dropna()
    if column.kind == "continuous":
        return (VariableRow(name, "", _quartiles(known), missing),)
    counts = known.value_counts()
    return tuple(
        VariableRow(
            name,
            level,
            f"{count(int(counts.get(level, 0)))} ({share(int(counts.get(level, 0)), len(known))})",
            missing if position == 0 else None,
        )
        for position, level in enumerate(column.levels)
    )


def _quartiles(known: pd.Series[Any]) -> str:
    if known.empty:
        return "none known"
    low, middle, high = known.quantile([0.25, 0.5, 0.75])
    return f"{_short(middle)} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    """About three figures, never in powers of ten."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if decimals else text).replace("-", "\N{MINUS SIGN}")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
