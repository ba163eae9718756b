"""Regressions beside covariates with gaps, pooled over imputations: beside the complete cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.design_matrix import Coding
from storm_clinic.inference.fitted import Fitted, Kind
from storm_clinic.inference.pooled_tests import wald_test
from storm_clinic.inference.rubin import Pooled, pool
from storm_clinic.validation.analyses import HypothesisTest, Regression, Term
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.missing_data import imputed_tables
from storm_clinic.validation.regression_questions import Question, fit_on, kinds_of, questions


def imputed_regressions(data: EvaluationData) -> tuple[Regression, ...]:
    """The candidate's risk beside the covariates, gaps filled by multiple imputation.

    All patients are in; coefficients are pooled by Rubin's rules on the log scale, the test of
    added value is the pooled Wald test of the risk's coefficient (D1). Empty where no covariate
    has a gap. For inference only: no patient is scored by such a model.

    A regression that cannot be pooled has its reason in ``note``.
    """
    table = data.covariates
    if table is None or not table.isna().to_numpy().any():
        return ()
    try:
        asked = [q for q in questions(data.candidate, data) if q.coding is not None]
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
    try:
        fits = _fits(data, question, kind)
        complete = float(fits[0].n_events - len(fits[0].names))
        df_complete = complete if complete >= 1 else None
        estimates = [fit.coefficients for fit in fits]
        covariances = [fit.covariance for fit in fits]
        pooled = pool(estimates, covariances, df_complete=df_complete)
        at = fits[0].names.index(question.risk.name)
        test = wald_test(
            [b[[at]] for b in estimates],
            [v[np.ix_([at], [at])] for v in covariances],
            df_complete=df_complete,
        )
        terms = _terms(fits[0].names, pooled)
    except StatisticsError as error:
        return Regression(terms=(), method="not fitted", note=str(error), **about)
    return Regression(
        n_imputations=len(fits),
        terms=terms,
        tests=(
            HypothesisTest(
                name="pooled Wald",
                about=f"added value beside {question.beside}",
                statistic=test.statistic,
                df=float(test.df),
                p=test.p,
                method=test.method,
            ),
        ),
        method=f"{fits[0].method}, pooled over {len(fits)} imputations (chained equations that see "
        f"the outcome and the risk; Rubin's rules, Barnard and Rubin's degrees of freedom); risk: "
        f"{question.risk.scale}, per SD of all patients",
        note=f"largest fraction of missing information {pooled.fraction_missing.max():.0%}",
        **about,
    )


def _fits(data: EvaluationData, question: Question, kind: Kind) -> list[Fitted]:
    tables = imputed_tables(data)
    table = data.covariates if data.covariates is not None else pd.DataFrame()
    used = [column.name for column in Coding.of(table).columns]
    coding = Coding.of(table[used])
    asked = replace(question, coding=coding, table=table)
    return [fit_on(asked.design(filled[used]), data.outcome, kind) for filled in tables]


def _terms(names: tuple[str, ...], pooled: Pooled) -> tuple[Term, ...]:
    lower, upper = pooled.interval()
    if not max(np.abs(lower).max(), np.abs(upper).max()) < np.log(np.finfo(float).max):
        raise StatisticsError("an effect is too uncertain to have an interval")
    return tuple(
        Term(
            term=name,
            coefficient=float(pooled.estimate[at]),
            se=float(pooled.se[at]),
            ratio=float(np.exp(pooled.estimate[at])),
            lower=float(np.exp(lower[at])),
            upper=float(np.exp(upper[at])),
            p=float(pooled.p[at]),
        )
        for at, name in enumerate(names)
    )
