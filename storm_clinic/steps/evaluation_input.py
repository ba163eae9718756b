"""What an evaluation looks at, gathered from a plan, predictions and the patients of one cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from storm_clinic.cohort.table import Cohort
from storm_clinic.predictions import Predictions
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.steps.study_patients import Evaluated, StudyPatients
from storm_clinic.validation.alignment import align
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.evidence import Kind

SITE = "site"  # as a subgroup: the hospital, which is no declared column
SCANNER = "scanner"  # as a subgroup: of the slides table


def evaluation_data(
    plan: EvaluationPlan,
    predictions: Predictions,
    item: Evaluated,
    *,
    kind: Kind,
    risk_cuts: Mapping[str, tuple[float, ...]],
) -> EvaluationData:
    """Outcomes, predictions, covariates, subgroups and sites of one cohort in one order; no ids.

    Raises
    ------
    PredictionsError
        If predictions and outcomes are not about the same patients.
    """
    patients, cohort = item.patients, item.patients.cohort
    clinical = patients.data.clinical
    has_sites = SITE in cohort.patients
    return EvaluationData(
        cohort=cohort.name,
        kind=kind,
        outcome=item.outcome,
        models=tuple(align(predictions, patients.keys, cohort=cohort.name, kind=kind)),
        endpoint=plan.endpoint,
        candidate=plan.candidate,
        comparator=plan.comparator if plan.comparator in predictions.models else None,
        seed=plan.seed,
        bootstraps=plan.bootstraps,
        covariates=None if clinical is None else clinical.reset_index(drop=True),
        subgroups=_subgroups(plan, patients),
        sites=tuple(patients.sites) if has_sites else None,
        thresholds=plan.threshold_grid,
        risk_cuts=risk_cuts,
        embeddings=patients.mean_embeddings if has_sites else {},
    )


def lacking_subgroups(plan: EvaluationPlan, cohort: Cohort) -> list[str]:
    """In words, the subgroups of a plan that this cohort cannot be divided by."""
    notes = []
    for name in plan.subgroups:
        if name in cohort.columns and not cohort.columns[name].levels:
            notes.append(
                f"{cohort.name}: {name} is continuous, so nothing is reported by it; declare a "
                "binned column"
            )
        elif name not in divisions(cohort):
            what = "no scanner of a slide" if name == SCANNER else f"no {name}"
            notes.append(f"{cohort.name} declares {what}, so nothing is reported by it")
    return notes


def divisions(cohort: Cohort) -> list[str]:
    """Everything by which a cohort's patients can be divided: levels, site, scanner."""
    names = [name for name, column in cohort.columns.items() if column.levels]
    names += [SITE] if SITE in cohort.patients else []
    return names + ([SCANNER] if cohort.slides[SCANNER].notna().any() else [])


def _subgroups(plan: EvaluationPlan, patients: StudyPatients) -> pd.DataFrame | None:
    """Levels of each patient; the site is not among them, numbers by site have their own place."""
    cohort, ids = patients.cohort, list(patients.patient_ids)
    possible = divisions(cohort)
    names = [n for n in plan.subgroups if n in possible and n in cohort.columns]
    table = cohort.covariates(names).loc[ids].reset_index(drop=True)
    if SCANNER in plan.subgroups and SCANNER in possible:
        table[SCANNER] = pd.Categorical(scanners(cohort, ids))
    return None if table.empty else table


def scanners(cohort: Cohort, patient_ids: Sequence[str]) -> list[str | None]:
    """Scanner of each patient's slides; several are named as such."""
    known = cohort.slides.dropna(subset=[SCANNER]).groupby("patient_id")[SCANNER].unique()
    found = (known.get(patient) for patient in patient_ids)
    return [
        None if names is None else names[0] if len(names) == 1 else "several scanners"
        for names in found
    ]
