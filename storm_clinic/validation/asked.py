"""What a protocol asks of every model, by the kind of outcome: names, places, computations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from storm_clinic.cohort.outcome import (
    Classes,
    CompetingRisks,
    Floats,
    Ints,
    Outcome,
    Survival,
)
from storm_clinic.metrics.calibration import (
    calibration_intercept,
    calibration_slope,
    complementary_log_log,
    log_odds,
    observed_expected,
)
from storm_clinic.metrics.classes import (
    balanced_accuracy,
    log_score,
    macro_auroc,
    multiclass_brier,
    multiclass_brier_scaled,
    one_against_rest,
)
from storm_clinic.metrics.competing import wolbers_concordance
from storm_clinic.metrics.discrimination import (
    auroc,
    average_precision,
    concordance,
    dynamic_auc,
    uno_concordance,
)
from storm_clinic.metrics.inputs import Timed
from storm_clinic.metrics.integrated import integrated_auc, integrated_brier
from storm_clinic.metrics.overall import brier, brier_scaled
from storm_clinic.metrics.overall import log_score as overall_log_score
from storm_clinic.metrics.smoothing import Summary, calibration_error
from storm_clinic.metrics.uncertainty import Statistic, average
from storm_clinic.metrics.utility import net_benefit
from storm_clinic.predictions import horizon_column
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.evidence import Kind


@dataclass(frozen=True)
class Asked:
    """One number asked of every model: its name, where it is judged, and how it is computed."""

    metric: str
    horizon_months: float | None
    compute: Callable[[ModelPredictions], Statistic]
    level: str | None = None  # the class that is held against the rest


def all_asked(
    outcome: Outcome, endpoint: Endpoint, kind: Kind, thresholds: Sequence[float] = ()
) -> list[Asked]:
    """Everything that is asked of models of this outcome, in the order of the measures.

    Net benefit, the mean over ``thresholds``, is asked only where there are some.
    """
    if not isinstance(outcome, Classes):
        return _timed_measures(outcome, endpoint, kind, thresholds)
    if len(outcome.levels) == 2:
        return _binary_measures(outcome, kind, thresholds)
    return _class_measures(outcome, kind)


def _folds(m: ModelPredictions, kind: Kind) -> Sequence[Ints | None]:
    """The folds inside which a model's risks may be compared, a repeat at a time."""
    return m.fold if kind == "cross-validation" else [None] * m.n_repeats


def _timed_measures(
    outcome: Timed, endpoint: Endpoint, kind: Kind, thresholds: Sequence[float]
) -> list[Asked]:
    asked = _rankings(outcome, endpoint.tau_months, kind)
    asked += _measures_over_time(outcome, endpoint, kind)
    for horizon in endpoint.horizons_months:
        asked += _horizon_measures(outcome, horizon, kind)
        if kind == "external":
            asked += _distances(outcome, horizon)
        if thresholds:
            asked.append(_net_benefit(outcome, thresholds, horizon))
    if endpoint.horizons_months:
        last = _last_followed(outcome, endpoint.horizons_months)
        asked.append(Asked("calibration_slope", None, lambda m: _slope(outcome, m, last)))
    return asked


def _rankings(outcome: Timed, tau: float | None, kind: Kind) -> list[Asked]:
    def ranked(one: Callable[[Floats, Ints | None], Statistic]) -> Asked:
        return Asked(
            "c_index",
            None,
            lambda m: average(
                [one(risk, fold) for risk, fold in zip(m.risk, _folds(m, kind), strict=True)]
            ),
        )

    def weighted(compute: Callable[[Floats], Statistic]) -> list[Asked]:
        if kind == "cross-validation":
            return []  # the weights of a few late events would swing from fold to fold
        return [Asked("c_index_uno", None, lambda m: compute(m.risk[0]))]

    if not isinstance(outcome, CompetingRisks):
        return [
            ranked(lambda risk, f: concordance(outcome, risk, tau_months=tau, within=f)),
            *weighted(lambda risk: uno_concordance(outcome, risk, tau_months=tau)),
        ]
    competing, alone = outcome, outcome.cause_specific()
    specific = ranked(lambda risk, f: concordance(alone, risk, tau_months=tau, within=f))
    return [
        ranked(lambda risk, f: wolbers_concordance(competing, risk, tau_months=tau, within=f)),
        *weighted(
            lambda risk: wolbers_concordance(competing, risk, tau_months=tau, uncensored=True)
        ),
        Asked("c_index_cause", None, specific.compute),
    ]


def _horizon_measures(outcome: Timed, horizon: float, kind: Kind) -> list[Asked]:
    def auc(m: ModelPredictions) -> Statistic:
        both = zip(m.risk_by(horizon), _folds(m, kind), strict=True)
        return average([dynamic_auc(outcome, p, horizon, within=fold) for p, fold in both])

    def pooled(name: str, compute: Callable[[Floats], Statistic]) -> Asked:
        return Asked(name, horizon, lambda m: average([compute(p) for p in m.risk_by(horizon)]))

    return [
        Asked("auc", horizon, auc),
        pooled("brier", lambda p: brier(outcome, p, horizon_months=horizon)),
        pooled("brier_scaled", lambda p: brier_scaled(outcome, p, horizon_months=horizon)),
        pooled("log_score", lambda p: overall_log_score(outcome, p, horizon_months=horizon)),
        pooled("o_e", lambda p: observed_expected(outcome, p, horizon_months=horizon)),
    ]


def _measures_over_time(outcome: Timed, endpoint: Endpoint, kind: Kind) -> list[Asked]:
    followed = [h for h in endpoint.horizons_months if h < outcome.time_months.max()]
    asked = []
    until = endpoint.tau_months or max(followed, default=None)
    # Folds share no scale of risk, and inside one there are few events at any time.
    if kind == "external" and isinstance(outcome, Survival) and until is not None:
        survival, tau = outcome, until
        asked.append(
            Asked(
                "auc_integrated",
                None,
                lambda m: integrated_auc(survival, m.risk[0], tau_months=tau),
            )
        )
    if len(followed) > 1:

        def brier_over_time(m: ModelPredictions) -> Statistic:
            by_horizon = [m.risk_by(h) for h in followed]
            repeats = [np.stack(parts, axis=1) for parts in zip(*by_horizon, strict=True)]
            return average([integrated_brier(outcome, p, followed) for p in repeats])

        asked.append(Asked("brier_integrated", None, brier_over_time))
    return asked


def _distances(outcome: Timed | Classes, horizon: float | None) -> list[Asked]:
    """Distances between predicted and smoothly observed risk."""
    column = (
        f"p_{outcome.levels[-1]}" if isinstance(outcome, Classes) else horizon_column(horizon or 0)
    )

    def distance(summary: Summary) -> Asked:
        return Asked(
            summary,
            horizon,
            lambda m: calibration_error(
                outcome, m.column(column)[0], horizon_months=horizon, summary=summary
            ),
        )

    return [distance("ici"), distance("e50"), distance("e90")]


def _net_benefit(
    outcome: Timed | Classes, thresholds: Sequence[float], horizon: float | None
) -> Asked:
    column = (
        f"p_{outcome.levels[-1]}" if isinstance(outcome, Classes) else horizon_column(horizon or 0)
    )
    return Asked(
        "net_benefit",
        horizon,
        lambda m: average(
            [net_benefit(outcome, p, thresholds, horizon_months=horizon) for p in m.column(column)]
        ),
    )


def _last_followed(outcome: Timed, horizons: Sequence[float]) -> float:
    followed = [h for h in horizons if h < outcome.time_months.max()]
    return max(followed, default=horizons[0])


def _slope(outcome: Timed, m: ModelPredictions, horizon: float) -> Statistic:
    # The complementary log-log of a risk is a Cox model's linear predictor (with competing risks
    # Fine and Gray's) but for a constant, and is defined for any model that gives a probability.
    return average(
        [
            calibration_slope(outcome, complementary_log_log(p), horizon_months=horizon)
            for p in m.risk_by(horizon)
        ]
    )


def _binary_measures(outcome: Classes, kind: Kind, thresholds: Sequence[float]) -> list[Asked]:
    column = f"p_{outcome.levels[-1]}"

    def pooled(name: str, compute: Callable[[Floats], Statistic]) -> Asked:
        return Asked(name, None, lambda m: average([compute(p) for p in m.column(column)]))

    asked = [
        _one_auroc(outcome, column, kind, None),
        pooled("average_precision", lambda p: average_precision(outcome, p)),
        pooled("brier", lambda p: brier(outcome, p)),
        pooled("brier_scaled", lambda p: brier_scaled(outcome, p)),
        pooled("calibration_slope", lambda p: calibration_slope(outcome, log_odds(p))),
        pooled("calibration_intercept", lambda p: calibration_intercept(outcome, p)),
        pooled("log_score", lambda p: overall_log_score(outcome, p)),
        pooled("o_e", lambda p: observed_expected(outcome, p)),
    ]
    if kind == "external":
        asked += _distances(outcome, None)
    if thresholds:
        asked.append(_net_benefit(outcome, thresholds, None))
    return asked


def _one_auroc(outcome: Classes, column: str, kind: Kind, level: str | None) -> Asked:
    def ranked(m: ModelPredictions) -> Statistic:
        both = zip(m.column(column), _folds(m, kind), strict=True)
        return average([auroc(outcome, p, within=fold) for p, fold in both])

    return Asked("auroc", None, ranked, level)


def _class_measures(outcome: Classes, kind: Kind) -> list[Asked]:
    def predicted(m: ModelPredictions) -> list[Floats]:
        """Probabilities of all classes, (n_patients, n_levels), a repeat at a time."""
        columns = [m.column(f"p_{level}") for level in outcome.levels]
        return [np.stack(parts, axis=1) for parts in zip(*columns, strict=True)]

    def macro(m: ModelPredictions) -> Statistic:
        both = zip(predicted(m), _folds(m, kind), strict=True)
        return average([macro_auroc(outcome, p, within=fold) for p, fold in both])

    def pooled(name: str, compute: Callable[[Classes, Floats], Statistic]) -> Asked:
        return Asked(name, None, lambda m: average([compute(outcome, p) for p in predicted(m)]))

    asked = [
        Asked("auroc_macro", None, macro),
        pooled("balanced_accuracy", balanced_accuracy),
        pooled("brier_multiclass", multiclass_brier),
        pooled("brier_scaled", multiclass_brier_scaled),
        pooled("log_score", log_score),
    ]
    for level in outcome.levels:
        asked += _level_measures(one_against_rest(outcome, level), level, kind)
    return asked


def _level_measures(alone: Classes, level: str, kind: Kind) -> list[Asked]:
    column = f"p_{level}"

    def pooled(name: str, compute: Callable[[Floats], Statistic]) -> Asked:
        return Asked(name, None, lambda m: average([compute(p) for p in m.column(column)]), level)

    return [
        _one_auroc(alone, column, kind, level),
        pooled("calibration_slope", lambda p: calibration_slope(alone, log_odds(p))),
        pooled("o_e", lambda p: observed_expected(alone, p)),
    ]
