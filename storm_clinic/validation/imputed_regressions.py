"""The candidate's risk beside covariates with gaps, over imputations: beside the complete cases."""

from __future__ import annotations

import pandas as pd

from storm_clinic.cohort.outcome import Classes
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.fitted import Fitted, Kind
from storm_clinic.validation.analyses import Regression
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.missing_data import imputed_tables
from storm_clinic.validation.pooled_regressions import pooled_added_value, pooled_regression
from storm_clinic.validation.regression_questions import Question, fit_on, kinds_of, questions


def imputed_regressions(data: EvaluationData) -> tuple[Regression, ...]:
    """The candidate's risk beside the covariates, gaps filled by multiple imputation.

    All patients are in; coefficients are pooled by Rubin's rules on the log scale. What the risk
    adds is tested by its pooled coefficient (D1) and, where there is a likelihood, by pooled
    likelihood ratios (D2). Empty where no covariate has a gap. For inference only: no patient is
    scored by such a model.

    A regression that cannot be pooled has its reason in ``note``.
    """
    table = data.covariates
    if table is None or not table.isna().to_numpy().any():
        return ()
    try:
        asked = [q.for_copies() for q in questions(data.candidate, data) if q.table is not None]
        kinds = kinds_of(data.outcome)
    except StatisticsError:
        return ()  # `regressions` has said why
    return tuple(_pooled(data, question, kind) for question in asked for kind in kinds)


def _pooled(data: EvaluationData, question: Question, kind: Kind) -> Regression:
    about = {
        "cohort": data.cohort,
        "model": question.model,
        "kind": kind,
        "title": question.title,
        "missing": "multiple imputation",
        "n_patients": data.n_patients,
        "n_events": data.outcome.n_events,
    }

    def fit(table: pd.DataFrame) -> Fitted:
        return fit_on(question.design(table), data.outcome, kind)

    def without_risk(table: pd.DataFrame) -> Fitted:
        return fit_on(question.design(table).without(question.risk.name), data.outcome, kind)

    added = f"added value beside {question.beside}"
    try:
        if question.refused:
            raise StatisticsError(question.refused)
        tables = imputed_tables(data)
        n_terms = len(fit(tables[0]).names)
        found = pooled_regression(
            fit,
            tables,
            tested={added: (question.risk.name,)},
            df_complete=_degrees(data, n_terms),
        )
        tests = list(found.tests)
        if kind != "fine-gray":
            tests.append(pooled_added_value(fit, without_risk, tables, about=added))
    except StatisticsError as error:
        return Regression(terms=(), method="not fitted", note=str(error), **about)
    return Regression(
        n_imputations=found.n_imputations,
        terms=found.terms,
        tests=tuple(tests),
        method=f"{found.method}; risk: {question.risk.scale}, per SD of all patients",
        note=found.note,
        **about,
    )


def _degrees(data: EvaluationData, n_terms: int) -> float | None:
    """Degrees of freedom without missing values; None where there are too few to say."""
    n = data.n_patients if isinstance(data.outcome, Classes) else data.outcome.n_events
    return float(n - n_terms) if n > n_terms else None
