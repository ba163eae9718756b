"""One fixed protocol from predictions and outcomes to estimates, the patient as the unit.

All intervals come from one set of bootstrap resamples of patients, drawn from one seed, so that
gains of one model over another are paired. A number that the data cannot give becomes an estimate
without a value, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from storm_clinic.cohort.outcome import Classes, Floats, Outcome, Survival
from storm_clinic.errors import PredictionsError, StatisticsError
from storm_clinic.metrics.calibration import (
    calibration_intercept,
    calibration_slope,
    complementary_log_log,
    log_odds,
    observed_expected,
)
from storm_clinic.metrics.discrimination import (
    auroc,
    average_precision,
    concordance,
    dynamic_auc,
    uno_concordance,
)
from storm_clinic.metrics.overall import brier, brier_scaled
from storm_clinic.metrics.smoothing import calibration_error
from storm_clinic.metrics.uncertainty import Statistic, average, bootstrap
from storm_clinic.predictions import Predictions
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions, align
from storm_clinic.validation.evidence import Estimate, Kind
from storm_clinic.validation.measures import MEASURES, gain_of

RESAMPLING_ONLY = "describes resampling of these patients, supports no claim"


@dataclass(frozen=True)
class _Asked:
    """One number asked of every model: its name, where it is judged, and how it is computed."""

    metric: str
    horizon_months: float | None
    compute: Callable[[ModelPredictions], Statistic]


@dataclass(frozen=True)
class _Protocol:
    """What all numbers of one evaluation share."""

    outcome: Outcome
    cohort: str
    kind: Kind
    bootstraps: int
    seed: int


def evaluate(
    predictions: Predictions,
    keys: Sequence[str],
    outcome: Outcome,
    *,
    cohort: str,
    endpoint: Endpoint,
    candidate: str,
    comparator: str | None,
    kind: Kind,
    seed: int,
    bootstraps: int = 1000,
) -> list[Estimate]:
    """Every measure of every model on one cohort, and the gains between models.

    Parameters
    ----------
    predictions : Predictions
        Of all models; rows of other cohorts are not looked at.
    keys : sequence of str, length n_patients
        Patient keys, in the order of the outcome.
    outcome : Survival or Classes, length n_patients
        What happened to them.
    cohort : str
        Rows of the predictions with this name are used.
    endpoint : Endpoint
        Horizons and tau, in months; unused for classes.
    candidate, comparator : str
        The candidate's gains are over every other model, every model's over the comparator (the
        clinical one; None if there is none).
    kind : {"cross-validation", "external"}
        Cross-validated risks are ranked inside folds only, because the folds' models share no
        scale, and averaged over repeats; their intervals support no claim.
    seed : int
        Of the bootstrap.
    bootstraps : int
        Resamples of patients.

    Returns
    -------
    list of Estimate
        In the order of the measures, then the models, then the gains.

    Raises
    ------
    PredictionsError
        If predictions and outcomes are not about the same patients, or a model is absent.
    StatisticsError
        If the outcome is of a kind this protocol does not cover.
    """
    models = align(predictions, keys, cohort=cohort, kind=kind)
    if len(keys) != outcome.n_patients:
        raise PredictionsError(f"{len(keys)} keys for {outcome.n_patients} outcomes", where=cohort)
    for name in (candidate, comparator):
        if name is not None and name not in {model.model for model in models}:
            raise PredictionsError(f"no row of model {name!r} for {cohort}", where="predictions")
    shared = _Protocol(outcome, cohort, kind, bootstraps, seed)
    return [
        estimate
        for asked in _asked(outcome, endpoint, kind)
        for estimate in _measure(asked, models, candidate, comparator, shared)
    ]


def _asked(outcome: Outcome, endpoint: Endpoint, kind: Kind) -> list[_Asked]:
    if isinstance(outcome, Survival):
        return _survival_measures(outcome, endpoint, kind)
    if isinstance(outcome, Classes):
        return _class_measures(outcome, kind)
    raise StatisticsError(
        "competing risks are not covered by this protocol",
        fix="Declare the endpoint as survival of one cause, and say so.",
    )


def _survival_measures(outcome: Survival, endpoint: Endpoint, kind: Kind) -> list[_Asked]:
    tau = endpoint.tau_months

    def within(m: ModelPredictions, repeat: int) -> np.ndarray | None:
        return m.fold[repeat] if kind == "cross-validation" else None

    def c_index(m: ModelPredictions) -> Statistic:
        return average(
            [
                concordance(outcome, risk, tau_months=tau, within=within(m, r))
                for r, risk in enumerate(m.risk)
            ]
        )

    asked = [_Asked("c_index", None, c_index)]
    if kind == "external":
        asked.append(
            _Asked(
                "c_index_uno",
                None,
                lambda m: uno_concordance(outcome, m.risk[0], tau_months=tau),
            )
        )
    for horizon in endpoint.horizons_months:
        asked += _horizon_measures(outcome, horizon, within)
        if kind == "external":
            asked.append(_Asked("ici", horizon, _survival_ici(outcome, horizon)))
    if endpoint.horizons_months:
        last = _last_followed(outcome, endpoint.horizons_months)
        asked.append(_Asked("calibration_slope", None, lambda m: _cox_slope(outcome, m, last)))
    return asked


def _horizon_measures(
    outcome: Survival,
    horizon: float,
    within: Callable[[ModelPredictions, int], np.ndarray | None],
) -> list[_Asked]:
    def each(m: ModelPredictions, compute: Callable[[Floats, int], Statistic]) -> Statistic:
        return average([compute(p, r) for r, p in enumerate(m.risk_by(horizon))])

    def auc(m: ModelPredictions) -> Statistic:
        return each(m, lambda p, r: dynamic_auc(outcome, p, horizon, within=within(m, r)))

    return [
        _Asked("auc", horizon, auc),
        _Asked(
            "brier",
            horizon,
            lambda m: each(m, lambda p, _: brier(outcome, p, horizon_months=horizon)),
        ),
        _Asked(
            "brier_scaled",
            horizon,
            lambda m: each(m, lambda p, _: brier_scaled(outcome, p, horizon_months=horizon)),
        ),
        _Asked(
            "o_e",
            horizon,
            lambda m: each(m, lambda p, _: observed_expected(outcome, p, horizon_months=horizon)),
        ),
    ]


def _survival_ici(outcome: Survival, horizon: float) -> Callable[[ModelPredictions], Statistic]:
    return lambda m: calibration_error(outcome, m.risk_by(horizon)[0], horizon_months=horizon)


def _last_followed(outcome: Survival, horizons: Sequence[float]) -> float:
    followed = [h for h in horizons if h < outcome.time_months.max()]
    return max(followed, default=horizons[0])


def _cox_slope(outcome: Survival, m: ModelPredictions, horizon: float) -> Statistic:
    # The complementary log-log of a risk is a Cox model's linear predictor but for a constant, and
    # is defined for any model that gives a probability.
    return average(
        [
            calibration_slope(outcome, complementary_log_log(p), horizon_months=horizon)
            for p in m.risk_by(horizon)
        ]
    )


def _class_measures(outcome: Classes, kind: Kind) -> list[_Asked]:
    column = f"p_{outcome.levels[-1]}"

    def pooled(compute: Callable[[Floats], Statistic]) -> Callable[[ModelPredictions], Statistic]:
        return lambda m: average([compute(p) for p in m.column(column)])

    def ranked(m: ModelPredictions) -> Statistic:
        folds = m.fold if kind == "cross-validation" else [None] * m.n_repeats
        return average(
            [auroc(outcome, p, within=f) for p, f in zip(m.column(column), folds, strict=True)]
        )

    asked = [
        _Asked("auroc", None, ranked),
        _Asked("average_precision", None, pooled(lambda p: average_precision(outcome, p))),
        _Asked("brier", None, pooled(lambda p: brier(outcome, p))),
        _Asked("brier_scaled", None, pooled(lambda p: brier_scaled(outcome, p))),
        _Asked(
            "calibration_slope", None, pooled(lambda p: calibration_slope(outcome, log_odds(p)))
        ),
        _Asked("calibration_intercept", None, pooled(lambda p: calibration_intercept(outcome, p))),
        _Asked("o_e", None, pooled(lambda p: observed_expected(outcome, p))),
    ]
    if kind == "external":
        asked.append(_Asked("ici", None, pooled(lambda p: calibration_error(outcome, p))))
    return asked


def _measure(
    asked: _Asked,
    models: list[ModelPredictions],
    candidate: str,
    comparator: str | None,
    shared: _Protocol,
) -> list[Estimate]:
    found: dict[str, Statistic | str] = {}
    for m in models:
        try:
            found[m.model] = _remembered(asked.compute(m))
        except (StatisticsError, PredictionsError) as error:
            found[m.model] = str(error)
    estimates = [_estimate(asked, name, None, found[name], shared) for name in found]
    if MEASURES[asked.metric].has_gain:
        for name, other in _pairs(list(found), candidate, comparator):
            gain = _difference(found[name], found[other])
            estimates.append(_estimate(asked, name, other, gain, shared))
    return estimates


def _pairs(models: list[str], candidate: str, comparator: str | None) -> list[tuple[str, str]]:
    """Every model over the comparator, and the candidate over every other model."""
    over_comparator = [(m, comparator) for m in models if comparator and m != comparator]
    others = [(candidate, m) for m in models if m not in (candidate, comparator)]
    return over_comparator + others


def _difference(value: Statistic | str, other: Statistic | str) -> Statistic | str:
    if isinstance(value, str) or isinstance(other, str):
        return value if isinstance(value, str) else str(other)
    return value - other


def _estimate(
    asked: _Asked, model: str, over: str | None, found: Statistic | str, shared: _Protocol
) -> Estimate:
    metric = asked.metric if over is None else gain_of(asked.metric)
    place = {
        "metric": metric,
        "cohort": shared.cohort,
        "model": model,
        "over": over,
        "horizon_months": asked.horizon_months,
        "n_patients": shared.outcome.n_patients,
        "n_events": shared.outcome.n_events,
    }
    if isinstance(found, str):
        return Estimate(value=None, method="not estimable", note=found, **place)
    limits = f"; {RESAMPLING_ONLY}" if shared.kind == "cross-validation" else ""
    try:
        interval = bootstrap(found, n=shared.bootstraps, seed=shared.seed)
    except StatisticsError as error:
        return Estimate(value=found.value, method=found.method, note=str(error), **place)
    return Estimate(
        value=found.value,
        lower=interval.lower,
        upper=interval.upper,
        method=f"{interval.method}{limits}",
        **place,
    )


def _remembered(statistic: Statistic) -> Statistic:
    """The same statistic, computed once for each block of resamples.

    A model's resampled values serve its own interval and every gain it takes part in.
    """
    known: dict[bytes, Floats] = {}

    def under(weights: Floats) -> Floats:
        key = blake2b(weights.tobytes(), digest_size=16).digest()
        if key not in known:
            known[key] = statistic.under(weights)
        return known[key]

    return replace(statistic, under=under)
