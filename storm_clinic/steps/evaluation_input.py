"""What an evaluation looks at, gathered from a plan, predictions and the patients of one cohort."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from storm_clinic.cohort.table import Cohort
from storm_clinic.predictions import Predictions
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.steps.study_patients import Evaluated, StudyPatients
from storm_clinic.validation.alignment import align
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.evidence import Kind

SITE = "site"  # as a subgroup: the hospital, which is no declared column


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
        if name == SITE and SITE not in cohort.patients:
            notes.append(f"{cohort.name} declares no site, so nothing is reported by it")
        elif name != SITE and name not in cohort.columns:
            notes.append(f"{cohort.name} declares no column {name}, so nothing is reported by it")
        elif name != SITE and not cohort.columns[name].levels:
            notes.append(
                f"{cohort.name}: {name} is continuous, so nothing is reported by it; declare a "
                "binned column"
            )
    return notes


def _subgroups(plan: EvaluationPlan, patients: StudyPatients) -> pd.DataFrame | None:
    columns = patients.cohort.columns
    names = [name for name in plan.subgroups if name in columns and columns[name].levels]
    table = patients.cohort.covariates(names).loc[list(patients.patient_ids)].reset_index(drop=True)
    if SITE in plan.subgroups and SITE in patients.cohort.patients:
        table[SITE] = pd.Categorical(patients.sites)
    return None if table.empty else table
