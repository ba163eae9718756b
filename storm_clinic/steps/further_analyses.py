"""Everything that a statistician asks of one evaluated cohort beyond the headline numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from storm_clinic.cohort.outcome import Classes, Floats
from storm_clinic.metrics.calibration import complementary_log_log, log_odds
from storm_clinic.steps.evaluation_input import SITE
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.study import kind_of
from storm_clinic.validation.adequacy import adequacy
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import Analyses, CovariateProfile
from storm_clinic.validation.case_mix import case_mix, profile
from storm_clinic.validation.decision_curves import decision_curves
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.group_comparison import group_comparisons
from storm_clinic.validation.imputed_regressions import imputed_regressions
from storm_clinic.validation.internal_validity import internal_validity
from storm_clinic.validation.missing_data import missingness
from storm_clinic.validation.regressions import regressions
from storm_clinic.validation.site_effects import site_analyses
from storm_clinic.validation.subgroups import subgroup_analyses

_SMALLEST = 1e-9  # probabilities of exactly 0 and 1 have no linear predictor


def analyse(
    data: EvaluationData,
    plan: EvaluationPlan,
    *,
    development: Sequence[CovariateProfile] = (),
    clinical_parameters: int | None = None,
) -> Analyses:
    """All further analyses of one cohort; what cannot be given has its reason inside.

    Parameters
    ----------
    data : EvaluationData
        The cohort.
    plan : EvaluationPlan
        What is asked.
    development : sequence of CovariateProfile
        Of the patients that were trained on, where these are others.
    clinical_parameters : int, optional
        Coefficients of the clinical comparator.
    """
    found = Analyses(
        adequacy=adequacy(data, clinical_parameters, learned=_learned(plan.inputs)),
        missingness=missingness(data),
        case_mix=case_mix(development, profile(data.cohort, profile_table(data))),
        decision=decision_curves(data),
        groups=group_comparisons(data, quantiles=plan.quantiles),
        subgroups=subgroup_analyses(data),
        internal=internal_validity(data),
    )
    imputed = Analyses(regressions=imputed_regressions(data))
    return found + regressions(data) + imputed + site_analyses(data)


def profile_table(data: EvaluationData) -> pd.DataFrame:
    """Covariates, subgroups but the site, and the candidate's linear predictor; no ids."""
    parts = [part for part in (data.covariates, data.subgroups) if part is not None]
    table = pd.concat(parts, axis=1) if parts else pd.DataFrame(index=range(data.n_patients))
    table = table.loc[:, ~table.columns.duplicated()].drop(columns=SITE, errors="ignore")
    predictor = _linear_predictor(data, data.model(data.candidate))
    return table if predictor is None else table.assign(**dict([predictor]))


def pooled_profiles(parts: Sequence[EvaluationData]) -> tuple[CovariateProfile, ...]:
    """Of the patients of several cohorts together."""
    table = pd.concat([profile_table(part) for part in parts], ignore_index=True)
    # Cohorts that declare other levels of a subgroup give text.
    levels = [name for name in table if table[name].dtype == object]
    table = table.astype(dict.fromkeys(levels, "category"))
    return profile(" + ".join(part.cohort for part in parts), table)


def _linear_predictor(
    data: EvaluationData, model: ModelPredictions
) -> tuple[str, Floats] | None:
    """Name and values, from probabilities: they share a scale over folds and cohorts."""
    if isinstance(data.outcome, Classes):
        column = f"p_{data.outcome.levels[-1]}"
        if column not in model.probabilities:
            return None
        p = np.mean(model.column(column), axis=0)
        return f"log-odds by {model.model}", log_odds(_inside(p))
    for horizon in reversed(data.endpoint.horizons_months):
        column = f"risk_at_{horizon:g}m"
        if column in model.probabilities:
            p = np.mean(model.column(column), axis=0)
            values = complementary_log_log(_inside(p))
            return f"linear predictor of {model.model} at {horizon:g} months", values
    return None


def _inside(p: Floats) -> Floats:
    return np.asarray(np.clip(p, _SMALLEST, 1 - _SMALLEST), dtype=np.float64)


def _learned(inputs: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Models that learn from tiles."""
    return tuple(
        model for model, seen in inputs.items() if any(kind_of(name) == "tiles" for name in seen)
    )
