"""Landmarks at the horizons: how many are still event-free, and how well risks rank them."""

from __future__ import annotations

from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.inputs import Timed
from storm_clinic.metrics.landmark import at_landmark, landmark_concordance
from storm_clinic.metrics.uncertainty import Interval, Statistic, average, bootstrap
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import Bounded, Landmark
from storm_clinic.validation.evaluation_data import EvaluationData


def landmarks(
    data: EvaluationData, outcome: Timed, model: ModelPredictions
) -> tuple[Landmark, ...]:
    """One a horizon; risks are those predicted at time 0.

    Cross-validated risks are ranked inside their folds, and averaged over repeats.
    """
    return tuple(
        _landmark(data, outcome, model, months) for months in data.endpoint.horizons_months
    )


def _landmark(
    data: EvaluationData, outcome: Timed, model: ModelPredictions, months: float
) -> Landmark:
    try:
        left = at_landmark(outcome, months).outcome
    except StatisticsError as error:
        return Landmark(months=months, n_patients=0, n_events=0, c_index=Bounded(note=str(error)))
    return Landmark(
        months=months,
        n_patients=left.n_patients,
        n_events=left.n_events,
        c_index=_ranking(data, outcome, model, months),
    )


def _ranking(
    data: EvaluationData, outcome: Timed, model: ModelPredictions, months: float
) -> Bounded:
    folded = data.kind == "cross-validation"
    try:
        found = average(
            [
                landmark_concordance(
                    outcome,
                    risk,
                    months,
                    tau_months=data.endpoint.tau_months,
                    within=fold if folded else None,
                )
                for risk, fold in zip(model.risk, model.fold, strict=True)
            ]
        )
    except StatisticsError as error:
        return Bounded(note=str(error))
    try:
        interval = _interval(found, data)
    except StatisticsError as error:
        return Bounded(value=found.value, note=str(error))
    # A Wald interval knows no bounds; a C-index does.
    return Bounded(
        value=found.value, lower=max(0.0, interval.lower), upper=min(1.0, interval.upper)
    )


def _interval(found: Statistic, data: EvaluationData) -> Interval:
    if found.se is None:
        return bootstrap(found, n=data.bootstraps, seed=data.seed)
    if found.se == 0:
        raise StatisticsError(f"{found.n_events} events rank all alike: there is no interval")
    return found.interval()
