"""A model's predictions as one covariate of a regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storm_clinic.cohort.outcome import Classes, Floats
from storm_clinic.errors import PredictionsError, StatisticsError
from storm_clinic.metrics.calibration import complementary_log_log, log_odds
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.evaluation_data import EvaluationData

TRAINED_HERE = (
    "The risks were cross-validated on these patients: errors ignore the training of the models, "
    "so that intervals are too narrow and p too small."
)


@dataclass(frozen=True, eq=False)
class RiskCovariate:
    """One model's risk, with mean 0 and standard deviation 1 over all evaluated patients.

    Attributes
    ----------
    name : str
        As a term of a regression.
    values : float64 array, shape (n_patients,)
    scale : str
        What was standardised.
    notes : tuple of str
    """

    name: str
    values: Floats
    scale: str
    notes: tuple[str, ...]


def risk_covariate(model: ModelPredictions, data: EvaluationData) -> RiskCovariate:
    """Put a model's predictions on the scale on which a regression is linear.

    With times the complementary log-log of the probability at the last followed horizon, which for
    a Cox model (with competing risks for Fine and Gray's) is its linear predictor but for a
    constant; of two classes the log odds. Both have one scale in all folds; repeats are averaged.
    A model without such probabilities enters by its ``risk`` as it is, standardised within each
    fold of a cross-validation, where the scales differ.

    Raises
    ------
    StatisticsError
        If the model gives all patients the same risk.
    """
    notes = (TRAINED_HERE,) if data.kind == "cross-validation" else ()
    try:
        values, scale = _by_probability(model, data)
    except (StatisticsError, PredictionsError) as error:
        values, scale = _by_risk(model, data)
        notes = (f"{model.model}: {scale} is used: {str(error).rstrip('.')}.", *notes)
    spread = float(values.std())
    if not spread > 1e-12 * max(float(np.abs(values).max()), 1.0):
        raise StatisticsError(f"{model.model} gives all patients the same risk")
    return RiskCovariate(
        f"{model.model} risk, per SD", (values - values.mean()) / spread, scale, notes
    )


def _by_probability(model: ModelPredictions, data: EvaluationData) -> tuple[Floats, str]:
    outcome = data.outcome
    if isinstance(outcome, Classes):
        level = outcome.levels[-1]
        columns = [log_odds(p) for p in model.column(f"p_{level}")]
        return np.mean(columns, axis=0), f"log odds of {level}"
    horizons = data.endpoint.horizons_months
    if not horizons:
        raise StatisticsError("no horizon is named at which a probability was predicted")
    followed = [h for h in horizons if h < outcome.time_months.max()]
    horizon = max(followed, default=horizons[0])
    columns = [complementary_log_log(p) for p in model.risk_by(horizon)]
    return np.mean(columns, axis=0), f"complementary log-log of the risk at {horizon:g} months"


def _by_risk(model: ModelPredictions, data: EvaluationData) -> tuple[Floats, str]:
    if data.kind == "external":
        return model.risk[0], "the risk as the model gives it"
    repeats = [_within(r, f) for r, f in zip(model.risk, model.fold, strict=True)]
    return np.mean(repeats, axis=0), "the risk standardised within each fold"


def _within(risk: Floats, fold: np.ndarray) -> Floats:
    standard = np.zeros(len(risk))
    for one in np.unique(fold):
        here = fold == one
        spread = float(risk[here].std())
        standard[here] = (risk[here] - risk[here].mean()) / spread if spread > 0 else 0.0
    return standard
