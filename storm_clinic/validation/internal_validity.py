"""What development patients can say of a model by themselves: optimism, negative control, learning.

Models of images cannot be trained again here: of them the fixed out-of-fold predictions are judged.
A regression on the covariates can, and goes through everything.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Floats, Ints, Outcome, Survival
from storm_clinic.errors import CohortError, PredictionsError, StatisticsError, TrainingError
from storm_clinic.heads.covariates import Covariates
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.learning import (
    LearningStep,
    balanced_folds,
    balanced_order,
    held_out,
    learning_curve,
)
from storm_clinic.inference.logistic import fit_logistic
from storm_clinic.inference.optimism import Optimism, Predictor, optimism
from storm_clinic.inference.permutation import PermutationNull, permutation_null
from storm_clinic.metrics.uncertainty import Statistic, bootstrap
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import Bounded, InternalValidity, LearningPoint
from storm_clinic.validation.asked import all_asked
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.evidence import Kind
from storm_clinic.validation.protocol import RESAMPLING_ONLY

_CONSTANT = 1e-9  # spread of a standardised column below which it says nothing
_FOLDS, _REPEATS = 5, 10
_FEWEST, _MOST, _BUDGET = 50, 200, 100_000  # resamples; patients in all resamples together
_FEW_REPEATS = 3  # below which their spread is no interval

_Failure = (StatisticsError, TrainingError, PredictionsError, CohortError)


def internal_validity(data: EvaluationData) -> tuple[InternalValidity, ...]:
    """Internal validity of every model of a cross-validation, and of the covariates alone.

    Of each model the measure inside folds, its resampling interval, and a negative control:
    outcomes permuted inside the folds (of the first repeat) against the same predictions. Nothing
    is trained anew, so it tests the evaluation, not the training. Of a regression on the
    covariates (Cox, with competing risks of the first cause; logistic for two classes) the
    optimism-corrected measure, the negative control of fitting and scoring together, and a
    learning curve. Gaps are filled once by their conditional mean, without looking at outcomes.

    Parameters
    ----------
    data : EvaluationData
        Of a cross-validation; its bootstraps bound the number of resamples, its seed their draws.

    Returns
    -------
    tuple of InternalValidity
        Models in order, then the covariates; empty for external data.
    """
    if data.kind != "cross-validation":
        return ()
    # Hundreds of small fits and scores: threads would only wait for each other.
    with threadpool_limits(limits=1):
        found = [_of_predictions(data, model) for model in data.models]
        if data.covariates is not None and len(data.covariates.columns):
            found.append(_of_covariates(data, data.covariates))
    return tuple(found)


def _of_predictions(data: EvaluationData, model: ModelPredictions) -> InternalValidity:
    metric = all_asked(data.outcome, data.endpoint, data.kind)[0].metric
    try:
        statistic = _headline(data, data.outcome, model, data.kind)
    except _Failure as error:
        return InternalValidity(
            cohort=data.cohort, model=model.model, metric=metric,
            method="not estimable", note=str(error),
        )  # fmt: skip
    null, note = _null_of_predictions(data, model)
    control = "no negative control" if null is None else (
        f"negative control: {null.method} (folds of the first repeat) against the same "
        "out-of-fold predictions, nothing trained anew"
    )  # fmt: skip
    return InternalValidity(
        cohort=data.cohort,
        model=model.model,
        metric=metric,
        corrected=_resampled(statistic, data),
        n_resamples=data.bootstraps,
        method=f"{statistic.method}, held-out patients of a cross-validation, percentile interval "
        f"of {data.bootstraps} bootstrap resamples of patients: {RESAMPLING_ONLY}; {control}",
        note=note,
        **_null_fields(null),
    )


def _null_of_predictions(
    data: EvaluationData, model: ModelPredictions
) -> tuple[PermutationNull | None, str]:
    try:
        return (
            permutation_null(
                lambda dealt: _headline(data, dealt, model, data.kind).value,
                data.outcome,
                n=_n_resamples(data),
                seed=data.seed,
                strata=model.fold[0],
            ),
            "",
        )
    except _Failure as error:
        return None, f"No negative control: {error}"


def _resampled(statistic: Statistic, data: EvaluationData) -> Bounded:
    try:
        interval = bootstrap(statistic, n=data.bootstraps, seed=data.seed)
    except StatisticsError as error:
        return Bounded(value=statistic.value, note=str(error))
    return Bounded(value=interval.value, lower=interval.lower, upper=interval.upper)


def _of_covariates(data: EvaluationData, covariates: pd.DataFrame) -> InternalValidity:
    regression = _Refitted(data)
    place = {"cohort": data.cohort, "model": regression.name, "metric": regression.metric}
    try:
        regression.check()
        coded = Covariates.fit(covariates)
        design, notes = coded.encode(covariates)
        regression.names = coded.features
        found = regression.optimism(design)
    except _Failure as error:
        return InternalValidity(**place, method="not estimable", note=str(error))
    try:
        null, lost = regression.null(design), ""
    except _Failure as error:
        null, lost = None, f"No negative control: {error}"
    control = "no negative control" if null is None else (
        f"negative control: {null.method}, fitted and cross-validated anew in each"
    )  # fmt: skip
    return InternalValidity(
        **place,
        apparent=found.apparent,
        optimism=found.optimism,
        corrected=Bounded(value=found.corrected, lower=found.lower, upper=found.upper),
        learning=tuple(_learning_point(step) for step in regression.learning(design)),
        n_resamples=len(found.training) + found.n_lost,
        method=f"{regression.method} on {design.shape[1]} numbers, gaps filled by their "
        f"conditional mean; {found.method}: {RESAMPLING_ONLY}; {control}; learning curve by "
        f"{_REPEATS} repeats of {_FOLDS}-fold cross-validation, 2.5th and 97.5th percentile of "
        "the repeats; resamples and folds divide patients, not sites",
        note=" ".join([*notes, lost]).strip(),
        **_null_fields(null),
    )


class _Refitted:
    """A regression on covariates that is quick enough to be fitted hundreds of times."""

    def __init__(self, data: EvaluationData) -> None:
        self._data, outcome = data, data.outcome
        self.names: tuple[str, ...] = ()  # of the design's columns
        self.metric = all_asked(outcome, data.endpoint, data.kind)[0].metric
        if isinstance(outcome, Classes):
            self.name, kind = "covariates (logistic)", "logistic regression"
        else:
            self.name, kind = "covariates (Cox)", "Cox regression"
        if isinstance(outcome, CompetingRisks):
            kind += " of the first cause's hazard"
        self.method = kind

    def fit(self, design: Floats, outcome: Outcome) -> Predictor:
        """The regression by maximum likelihood."""
        # A rare level may be absent from a resample: its column says nothing there.
        varies = np.flatnonzero(design.std(axis=0) > _CONSTANT)
        slopes, names = np.zeros(design.shape[1]), [self.names[column] for column in varies]
        if isinstance(outcome, Classes) and len(varies):
            fitted = fit_logistic(design[:, varies], outcome.label, names=names)
            slopes[varies] = fitted.coefficients
        elif not isinstance(outcome, Classes) and len(varies):
            alone = outcome if isinstance(outcome, Survival) else outcome.cause_specific()
            slopes[varies] = fit_cox(design[:, varies], alone, names=names).coefficients
        return lambda rows: np.asarray(rows @ slopes)

    def check(self) -> None:
        """Refuse outcomes for which there is no such regression."""
        outcome = self._data.outcome
        if isinstance(outcome, Classes) and len(outcome.levels) != 2:
            raise StatisticsError(f"{len(outcome.levels)} classes are not refitted here, only two")

    def optimism(self, design: Floats) -> Optimism:
        data = self._data
        return optimism(
            self.fit,
            lambda risk, outcome: self._score(risk, outcome, None),
            design,
            data.outcome,
            n=_n_resamples(data),
            seed=data.seed,
        )

    def null(self, design: Floats) -> PermutationNull:
        """Of cross-validating; folds are balanced by the outcomes that were dealt."""

        def cross_validated(outcome: Outcome) -> float:
            rng = np.random.default_rng(self._data.seed)
            fold, order = balanced_folds(outcome, _FOLDS, rng), balanced_order(outcome, rng)
            risk = held_out(self.fit, design, outcome, fold, order)[0]
            return self._score(risk, outcome, fold)

        n = max(_FEWEST, _n_resamples(self._data) // 2)
        return permutation_null(cross_validated, self._data.outcome, n=n, seed=self._data.seed)

    def learning(self, design: Floats) -> tuple[LearningStep, ...]:
        data = self._data
        return learning_curve(
            self.fit,
            self._score,
            design,
            data.outcome,
            folds=_FOLDS,
            repeats=_REPEATS,
            seed=data.seed,
        )

    def _score(self, risk: Floats, outcome: Outcome, fold: Ints | None) -> float:
        columns: dict[str, tuple[Floats, ...]] = {}
        if isinstance(outcome, Classes):
            columns[f"p_{outcome.levels[-1]}"] = (risk,)
        folds = np.full(len(risk), -1) if fold is None else fold
        model = ModelPredictions(self.name, (risk,), (folds,), columns)
        kind: Kind = "external" if fold is None else "cross-validation"
        return _headline(self._data, outcome, model, kind).value


def _headline(
    data: EvaluationData, outcome: Outcome, model: ModelPredictions, kind: Kind
) -> Statistic:
    """The first measure that the protocol asks of a model of such outcomes."""
    return all_asked(outcome, data.endpoint, kind)[0].compute(model)


def _n_resamples(data: EvaluationData) -> int:
    """Fewer for larger cohorts, whose optimism is small and whose fits are slow."""
    return min(max(_FEWEST, min(_MOST, _BUDGET // data.n_patients)), data.bootstraps)


def _null_fields(null: PermutationNull | None) -> dict[str, float]:
    if null is None:
        return {}
    return {"null_mean": null.mean, "null_upper": null.upper, "null_p": null.p}


def _learning_point(step: LearningStep) -> LearningPoint:
    counts = {"n_patients": step.n_patients, "n_events": step.n_events}
    lost = f"{step.n_lost} repeats gave no number: {step.reason}" if step.n_lost else ""
    if not len(step.values):
        return LearningPoint(**counts, note=lost)
    value = float(step.values.mean())
    if len(step.values) < _FEW_REPEATS:
        return LearningPoint(**counts, value=value, note=f"{lost} Too few for an interval.".strip())
    lower, upper = np.quantile(step.values, [0.025, 0.975])
    return LearningPoint(**counts, value=value, lower=float(lower), upper=float(upper), note=lost)
