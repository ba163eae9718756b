"""A cohort as a report shows it: counts, covariates, missingness, flow. No ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from storm_clinic.cohort.attrition import Attrition
from storm_clinic.cohort.outcome import Classes, Outcome, Survival
from storm_clinic.errors import InputError
from storm_clinic.files import write_json
from storm_clinic.metrics.curves import follow_up
from storm_clinic.reporting.content import CohortSummary, FlowStep, VariableRow
from storm_clinic.steps.study_patients import Evaluated, StudyPatients

COHORTS = "cohorts.json"


def summarise_cohort(
    columns: Sequence[str], evaluated: Evaluated, role: Literal["development", "validation"]
) -> CohortSummary:
    """Size, follow-up, some declared columns and flow of the patients of one cohort."""
    patients, outcome = evaluated.patients, evaluated.outcome
    cohort = patients.cohort
    shown = [name for name in columns if name in cohort.columns]
    table = cohort.covariates(list(dict.fromkeys(shown))).loc[list(patients.patient_ids)]
    origin = {"source": cohort.origin.source, "licence": cohort.origin.licence}
    return CohortSummary(
        name=cohort.name,
        role=role,
        n_patients=outcome.n_patients,
        n_events=outcome.n_events,
        n_slides=_n_slides(patients),
        n_sites=len(set(patients.sites)) if "site" in cohort.patients else None,
        median_follow_up_months=_median_follow_up(outcome),
        simulated=cohort.origin.simulated,
        origin=tuple(origin.items()),
        flow=tuple(_flow(patients.attrition)),
        variables=(
            *(row for name in table for row in _rows(str(name), table[name])),
            *_inputs(patients),
        ),
    )


def _n_slides(patients: StudyPatients) -> int | None:
    if patients.store is None and patients.storm is None:
        return None
    both = zip(patients.slide_ids, patients.storm_slide_ids, strict=True)
    return sum(len({*image, *storm}) for image, storm in both)


def _inputs(patients: StudyPatients) -> Iterator[VariableRow]:
    """Who has which input, where some patients lack it, and of every table of numbers."""
    for name, n_missing in patients.lacking.items():
        if n_missing or name in patients.data.tables:
            yield VariableRow(name, "", f"{len(patients) - n_missing} patients", n_missing)


def write_summaries(folder: Path, summaries: list[CohortSummary]) -> None:
    """Write ``cohorts.json`` in a folder."""
    write_json(folder / COHORTS, [asdict(summary) for summary in summaries])


def read_summaries(folder: Path) -> tuple[CohortSummary, ...]:
    """Read what `write_summaries` wrote.

    Raises
    ------
    InputError
        If it is absent or damaged.
    """
    path = folder / COHORTS
    try:
        return tuple(map(_restore, json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"cannot be read: {error}", where=path) from error


def _restore(item: dict[str, Any]) -> CohortSummary:
    flow = tuple(
        FlowStep(**{**step, "reasons": tuple((r, n) for r, n in step["reasons"])})
        for step in item["flow"]
    )
    variables = tuple(VariableRow(**row) for row in item["variables"])
    origin = tuple((name, value) for name, value in item["origin"])
    return CohortSummary(**{**item, "flow": flow, "variables": variables, "origin": origin})


def _median_follow_up(outcome: Outcome) -> float | None:
    if isinstance(outcome, Classes):
        return None
    if not isinstance(outcome, Survival):
        outcome = Survival(outcome.time_months, outcome.cause > 0, outcome.entry_months)
    return follow_up(outcome).median


def _flow(attrition: Attrition) -> Iterator[FlowStep]:
    for step in attrition:
        reasons = Counter(reason for _, reason in step.excluded)
        yield FlowStep(step.step, step.unit, step.n_before, step.n_after, tuple(reasons.items()))


def _rows(name: str, values: pd.Series[Any]) -> list[VariableRow]:
    missing = int(values.isna().sum())
    known = values.dropna()
    if not isinstance(values.dtype, pd.CategoricalDtype):
        if known.empty:
            return [VariableRow(name, "", "", missing)]
        low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
        return [VariableRow(name, "", f"{middle:.4g} ({low:.4g} to {high:.4g})", missing)]
    counts = known.value_counts(sort=False)
    return [
        VariableRow(
            name,
            str(level),
            f"{n} ({n / len(known):.0%})" if len(known) else str(n),
            missing if at == 0 else None,
        )
        for at, (level, n) in enumerate(counts.items())
    ]
