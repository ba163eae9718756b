"""The curves of a study's evidence: risk groups, calibration, and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from storm_clinic.cohort.outcome import Classes, Floats
from storm_clinic.metrics.classes import one_against_rest
from storm_clinic.metrics.inputs import Timed
from storm_clinic.predictions import Predictions, horizon_column
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.steps.study_patients import Evaluated
from storm_clinic.validation.calibration_curves import calibration_curve
from storm_clinic.validation.curves import (
    class_curves,
    confusion,
    cross_validated_groups,
    curves_by_class,
    curves_of_groups,
    risk_group_curves,
)
from storm_clinic.validation.evidence import (
    CalibrationCurve,
    ClassCurves,
    ConfusionMatrix,
    Kind,
    RiskGroupCurves,
)


@dataclass(frozen=True)
class Curves:
    """All curves of one evaluation."""

    risk_groups: tuple[RiskGroupCurves, ...]
    calibration: tuple[CalibrationCurve, ...]
    classes: tuple[ClassCurves, ...]
    confusion: tuple[ConfusionMatrix, ...]


def draw_curves(
    plan: EvaluationPlan,
    predictions: Predictions,
    evaluated: Sequence[Evaluated],
    kind: Kind,
    thresholds: Mapping[str, tuple[float, ...]],
) -> Curves:
    """Curves of every model on every cohort.

    Of several repeats of cross-validation the first is drawn: averaging them would draw an
    ensemble that nobody trained.
    """
    groups: list[RiskGroupCurves] = []
    calibration: list[CalibrationCurve] = []
    classes: list[ClassCurves] = []
    matrices: list[ConfusionMatrix] = []
    for item in evaluated:
        outcome, cohort = item.outcome, item.patients.cohort.name
        for model in predictions.models:
            rows, note = _first_repeat(predictions, model, item)
            calibration += _calibration(plan, rows, outcome, cohort, model, note)
            if isinstance(outcome, Classes) and len(outcome.levels) > 2:
                if not all(_given(rows, f"p_{level}") for level in outcome.levels):
                    continue  # estimates say that no such column was predicted
                p, about = _probabilities(rows, outcome), {"cohort": cohort, "model": model}
                classes += curves_by_class(outcome, p, **about)
                matrices.append(confusion(outcome, p, note=note, **about))
            elif isinstance(outcome, Classes):
                classes.append(class_curves(outcome, rows["risk"], cohort=cohort, model=model))
            elif kind == "cross-validation":
                groups.append(_groups_within_folds(plan, rows, outcome, cohort, model, note))
            elif model in thresholds:
                groups.append(
                    risk_group_curves(
                        outcome,
                        rows["risk"],
                        thresholds[model],
                        cohort=cohort,
                        model=model,
                        until_months=_until(plan),
                    )
                )
    return Curves(tuple(groups), tuple(calibration), tuple(classes), tuple(matrices))


def _first_repeat(
    predictions: Predictions, model: str, item: Evaluated
) -> tuple[pd.DataFrame, str]:
    table = predictions.of(model=model, cohort=item.patients.cohort.name).table
    repeats = sorted(table["repeat"].unique())
    rows = table[table["repeat"] == repeats[0]].set_index("patient_key")
    note = f"first of {len(repeats)} repeats of cross-validation" if len(repeats) > 1 else ""
    return rows.loc[list(item.patients.keys)], note


def _given(rows: pd.DataFrame, column: str) -> bool:
    """Whether the model predicts this; not every foreign one gives every probability."""
    return column in rows and bool(rows[column].notna().any())


def _probabilities(rows: pd.DataFrame, outcome: Classes) -> Floats:
    return rows[[f"p_{level}" for level in outcome.levels]].to_numpy(np.float64)


def _calibration(
    plan: EvaluationPlan,
    rows: pd.DataFrame,
    outcome: Timed | Classes,
    cohort: str,
    model: str,
    note: str,
) -> list[CalibrationCurve]:
    def curve(
        about: Timed | Classes, column: str, horizon: float | None = None, level: str = ""
    ) -> CalibrationCurve:
        return calibration_curve(
            about,
            rows[column],
            cohort=cohort,
            model=model,
            horizon_months=horizon,
            note=note,
            seed=plan.seed,
            level=level,
        )

    if not isinstance(outcome, Classes):
        # Beyond the longest follow-up nothing is observed; check SC102 says so in words.
        reached = [
            h
            for h in plan.endpoint.horizons_months
            if (outcome.time_months > h).any() and _given(rows, horizon_column(h))
        ]
        return [curve(outcome, horizon_column(horizon), horizon) for horizon in reached]
    if not all(_given(rows, f"p_{level}") for level in outcome.levels):
        return []
    if len(outcome.levels) == 2:
        return [curve(outcome, f"p_{outcome.levels[1]}")]
    return [
        curve(one_against_rest(outcome, level), f"p_{level}", level=level)
        for level in outcome.levels
    ]


def _groups_within_folds(
    plan: EvaluationPlan, rows: pd.DataFrame, outcome: Timed, cohort: str, model: str, note: str
) -> RiskGroupCurves:
    quantiles = plan.quantiles
    risk, fold = rows["risk"].to_numpy(np.float64), rows["fold"].to_numpy(np.int64)
    return curves_of_groups(
        outcome,
        cross_validated_groups(risk, fold, quantiles),
        n_groups=len(quantiles) + 1,
        cohort=cohort,
        model=model,
        until_months=_until(plan),
        note="; ".join(part for part in ("groups cut inside each fold", note) if part),
    )


def _until(plan: EvaluationPlan) -> float | None:
    """Curves end a little after the last month that the study asks about."""
    horizons = plan.endpoint.horizons_months
    return 1.25 * horizons[-1] if horizons else None
