"""Net benefit of every model at every horizon, over the thresholds that the study named."""

from __future__ import annotations

import numpy as np

from storm_clinic.cohort.outcome import Bools, Classes, Floats, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics import utility
from storm_clinic.metrics.inputs import as_probability
from storm_clinic.predictions import horizon_column
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import DecisionCurve
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.protocol import RESAMPLING_ONLY


def decision_curves(data: EvaluationData) -> tuple[DecisionCurve, ...]:
    """Net benefit over the study's thresholds, of every model at every horizon.

    A curve stops before the first threshold above which nobody has a prediction, or nobody is
    followed to the horizon; its note says so. A model that gave no probabilities has an empty curve
    with the reason. Of several repeats of cross-validation the net benefits are averaged.

    Parameters
    ----------
    data : EvaluationData
        Without thresholds no curve is asked for.

    Returns
    -------
    tuple of DecisionCurve
        By model, then by horizon; one curve a model for two classes.
    """
    if not data.thresholds:
        return ()
    horizons: tuple[float | None, ...] = (
        (None,) if isinstance(data.outcome, Classes) else data.endpoint.horizons_months
    )
    return tuple(_curve(data, model, horizon) for model in data.models for horizon in horizons)


def _curve(data: EvaluationData, model: ModelPredictions, horizon: float | None) -> DecisionCurve:
    over, notes = _comparator(data, model, horizon)
    try:
        predicted = _probability(data, model, horizon)
        found = utility.decision_curve(
            data.outcome, predicted, data.thresholds, horizon_months=horizon, over=over
        )
    except StatisticsError as error:
        return _empty(data, model, horizon, str(error))
    over_name = data.comparator if over is not None else None
    if over is not None and not found.gain_followed[0]:
        notes.append(
            f"no gain: nobody treated by {over_name} at {data.thresholds[0]:g} is followed to the "
            "horizon"
        )
        over_name = None
    reach, why = _reach(found, over_name)
    notes += why
    if data.kind == "cross-validation":
        notes.append(f"the interval {RESAMPLING_ONLY}")
    gained = over_name is not None
    return DecisionCurve(
        cohort=data.cohort,
        model=model.model,
        horizon_months=horizon,
        thresholds=_first(found.thresholds, reach),
        net_benefit=_first(found.net_benefit, reach),
        lower=_first(found.lower, reach),
        upper=_first(found.upper, reach),
        treat_all=_first(found.treat_all, reach),
        over=over_name,
        gain=_first(found.gain, reach) if gained else (),
        gain_lower=_first(found.gain_lower, reach) if gained else (),
        gain_upper=_first(found.gain_upper, reach) if gained else (),
        method=f"{found.method}{_estimator(data)}",
        note="; ".join(notes),
    )


def _empty(
    data: EvaluationData, model: ModelPredictions, horizon: float | None, why: str
) -> DecisionCurve:
    return DecisionCurve(
        cohort=data.cohort,
        model=model.model,
        horizon_months=horizon,
        thresholds=(),
        net_benefit=(),
        lower=(),
        upper=(),
        treat_all=(),
        method="not estimable",
        note=why,
    )


def _comparator(
    data: EvaluationData, model: ModelPredictions, horizon: float | None
) -> tuple[Floats | None, list[str]]:
    """The comparator's probabilities; without them, why there is no gain."""
    if data.comparator is None or model.model == data.comparator:
        return None, []
    try:
        other = _probability(data, data.model(data.comparator), horizon)
        # What is wrong with the comparator's numbers must not take the model's curve with it.
        for repeat in other:
            as_probability(repeat, data.outcome)
    except StatisticsError as error:
        return None, [f"no gain: {error}"]
    return other, []


def _probability(data: EvaluationData, model: ModelPredictions, horizon: float | None) -> Floats:
    """Of the event, (n_repeats, n_patients)."""
    if isinstance(data.outcome, Classes):
        levels = data.outcome.levels
        if len(levels) != 2:
            raise StatisticsError(
                f"net benefit is defined for two classes, not for {len(levels)}",
                fix="Name a class against the rest as an endpoint of its own.",
            )
        column, what = f"p_{levels[1]}", f"probability of {levels[1]}"
    else:
        assert horizon is not None
        column, what = horizon_column(horizon), f"risk by {horizon:g} months"
    repeats = model.probabilities.get(column, ())
    if not repeats or all(np.isnan(values).all() for values in repeats):
        raise StatisticsError(f"{model.model} predicted no {what}")
    return np.stack(repeats)


def _reach(found: utility.DecisionCurve, over: str | None) -> tuple[int, list[str]]:
    """How many thresholds the curve covers, and why it covers no more."""
    stops = [
        (_stop(found.n_above > 0), "no patient has a predicted risk at or above it"),
        (
            _stop(found.followed),
            "nobody with a predicted risk at or above it is followed to the horizon",
        ),
    ]
    if over is not None:
        why = f"nobody treated by {over} there is followed to the horizon"
        stops.append((_stop(found.gain_followed), why))
    reach, why = min(stops, key=lambda stop: stop[0])
    if reach == len(found.thresholds):
        return reach, []
    return reach, [f"the curve stops before {found.thresholds[reach]:g}: {why}"]


def _stop(fine: Bools) -> int:
    """Position of the first threshold where it is not fine."""
    return int(np.argmin(fine)) if not fine.all() else len(fine)


def _first(values: Floats | None, reach: int) -> tuple[float, ...]:
    return () if values is None else tuple(values[:reach].tolist())


def _estimator(data: EvaluationData) -> str:
    if isinstance(data.outcome, Classes):
        return ""
    name = "Kaplan-Meier" if isinstance(data.outcome, Survival) else "Aalen-Johansen"
    return f"; {name} among those at or above each threshold"
