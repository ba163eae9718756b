"""Decision curves of an evaluation: net benefit of every model against treating all or nobody."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from storm_clinic.cohort.outcome import Classes
from storm_clinic.errors import PredictionsError, StatisticsError
from storm_clinic.metrics.utility import DecisionCurve as Measured
from storm_clinic.metrics.utility import decision_curve
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import DecisionCurve
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.protocol import RESAMPLING_ONLY


def decision_curves(data: EvaluationData) -> tuple[DecisionCurve, ...]:
    """One curve a model and horizon, with its paired gain over the comparator.

    Nothing where no thresholds were named, or where there are more than two classes. Of several
    repeats of cross-validation the first is drawn. A model without the probabilities, or a horizon
    outside the follow-up, gives an empty curve with the reason in ``note``.
    """
    outcome = data.outcome
    if not data.thresholds or (isinstance(outcome, Classes) and len(outcome.levels) > 2):
        return ()
    horizons = (None,) if isinstance(outcome, Classes) else data.endpoint.horizons_months
    return tuple(curve for horizon in horizons for curve in _at(data, horizon))


def _at(data: EvaluationData, horizon: float | None) -> Iterator[DecisionCurve]:
    found = {model.model: _measured(data, model, horizon) for model in data.models}
    clinical = None if data.comparator is None else found[data.comparator]
    for model in data.models:
        measured = found[model.model]
        place = {"cohort": data.cohort, "model": model.model, "horizon_months": horizon}
        if isinstance(measured, str):
            empty = dict.fromkeys(
                ("thresholds", "net_benefit", "lower", "upper", "treat_all"), tuple[float, ...]()
            )
            yield DecisionCurve(method="not estimable", note=measured, **place, **empty)
            continue
        lower, upper = measured.band()
        curve = DecisionCurve(
            thresholds=_plain(measured.thresholds),
            net_benefit=_plain(measured.net_benefit),
            lower=_plain(lower),
            upper=_plain(upper),
            treat_all=_plain(measured.treat_all),
            method=_method(data, measured),
            note="; ".join(_cautions(model, measured)),
            **place,
        )
        if isinstance(clinical, Measured) and model.model != data.comparator:
            gain, gain_lower, gain_upper = measured.gain(clinical)
            curve = curve.model_copy(
                update={
                    "over": data.comparator,
                    "gain": _plain(gain),
                    "gain_lower": _plain(gain_lower),
                    "gain_upper": _plain(gain_upper),
                }
            )
        yield curve


def _measured(
    data: EvaluationData, model: ModelPredictions, horizon: float | None
) -> Measured | str:
    outcome = data.outcome
    try:
        if isinstance(outcome, Classes):
            [p, *_] = model.column(f"p_{outcome.levels[-1]}")
        else:
            [p, *_] = model.risk_by(horizon or 0.0)
        return decision_curve(outcome, p, data.thresholds, horizon_months=horizon)
    except (StatisticsError, PredictionsError) as error:
        return str(error)


def _method(data: EvaluationData, measured: Measured) -> str:
    limits = f"; {RESAMPLING_ONLY}" if data.kind == "cross-validation" else ""
    return f"{measured.method}{limits}"


def _cautions(model: ModelPredictions, measured: Measured) -> Iterator[str]:
    nobody = measured.thresholds[measured.n_above == 0]
    if len(nobody):
        yield f"nobody has a risk of {nobody.min():g} or more, so that nobody would be treated"
    early = measured.thresholds[~measured.followed]
    if len(early):
        yield (
            f"from a threshold of {early.min():g} on, nobody who would be treated is followed to "
            "the horizon: the benefit is understated there"
        )
    if model.n_repeats > 1:
        yield f"first of {model.n_repeats} repeats of cross-validation"


def _plain(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
