"""Predictions laid beside outcomes: the same patients in the same order, or an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from storm_clinic.cohort.outcome import Floats, Ints
from storm_clinic.errors import PredictionsError
from storm_clinic.predictions import Predictions, horizon_column
from storm_clinic.validation.evidence import Kind


@dataclass(frozen=True, eq=False)
class ModelPredictions:
    """One model's predictions in the order of the outcome, one array a repeat.

    Attributes
    ----------
    model : str
    risk : tuple of float64 arrays, shape (n_patients,)
        Higher is worse, any scale.
    fold : tuple of int64 arrays, shape (n_patients,)
        Fold each patient was held out in; -1 where the model was not cross-validated.
    probabilities : dict of column name to tuple of float64 arrays, shape (n_patients,)
        ``risk_at_<months>m`` or ``p_<class>``.
    """

    model: str
    risk: tuple[Floats, ...]
    fold: tuple[Ints, ...]
    probabilities: dict[str, tuple[Floats, ...]]

    @property
    def n_repeats(self) -> int:
        return len(self.risk)

    def take(self, index: Ints) -> ModelPredictions:
        """The patients at these positions, in that order."""
        return ModelPredictions(
            self.model,
            tuple(risk[index] for risk in self.risk),
            tuple(fold[index] for fold in self.fold),
            {k: tuple(p[index] for p in repeats) for k, repeats in self.probabilities.items()},
        )

    def risk_by(self, horizon_months: float) -> tuple[Floats, ...]:
        """Probability of the event by a horizon, a repeat at a time.

        Raises
        ------
        PredictionsError
            If the model gave none for that horizon.
        """
        return self.column(horizon_column(horizon_months))

    def column(self, name: str) -> tuple[Floats, ...]:
        """One probability column; `PredictionsError` where it is absent."""
        if name not in self.probabilities:
            raise PredictionsError(f"no column {name} was predicted", where="predictions")
        return self.probabilities[name]


def align(
    predictions: Predictions, keys: Sequence[str], *, cohort: str, kind: Kind
) -> list[ModelPredictions]:
    """Bring every model's predictions for one cohort into the order of ``keys``.

    Raises
    ------
    PredictionsError
        If a model lacks a patient, predicts one that has no outcome, or its folds do not fit the
        kind of evidence; the message counts them and names none.
    """
    if len(set(keys)) != len(keys):
        raise PredictionsError("a patient's key is given twice", where=f"outcomes of {cohort}")
    table = predictions.of(cohort=cohort).table
    if table.empty:
        held = ", ".join(sorted(set(predictions.table["cohort"]))) or "none"
        raise PredictionsError(
            f"no row for cohort {cohort!r}", where="predictions", fix=f"Cohorts there: {held}."
        )
    columns = predictions.probability_columns
    return [
        _one_model(str(model), rows, list(keys), columns, kind)
        for model, rows in table.groupby("model", sort=False)
    ]


def _one_model(
    model: str, rows: pd.DataFrame, keys: list[str], columns: list[str], kind: Kind
) -> ModelPredictions:
    repeats = [part for _, part in rows.groupby("repeat", sort=True)]
    _check_folds(model, rows, len(repeats), kind)
    ordered = [_in_order(model, part, keys) for part in repeats]
    return ModelPredictions(
        model,
        tuple(part["risk"].to_numpy(np.float64) for part in ordered),
        tuple(part["fold"].to_numpy(np.int64) for part in ordered),
        {
            name: tuple(part[name].to_numpy(np.float64) for part in ordered)
            for name in columns
            if rows[name].notna().any()
        },
    )


def _check_folds(model: str, rows: pd.DataFrame, n_repeats: int, kind: Kind) -> None:
    where = f"predictions of model {model!r}"
    if kind == "external" and n_repeats != 1:
        raise PredictionsError(
            f"{n_repeats} repeats, but a validation cohort is scored once", where=where
        )
    if kind == "external" and (rows["fold"] >= 0).any():
        raise PredictionsError(
            "rows come from folds of a cross-validation",
            where=where,
            fix="Evaluate them as cross-validation, or score the locked model.",
        )
    if kind == "cross-validation" and (rows["fold"] < 0).any():
        raise PredictionsError(
            f"{int((rows['fold'] < 0).sum())} rows have no fold",
            where=where,
            fix="Cross-validated predictions name the fold in which the patient was held out.",
        )


def _in_order(model: str, part: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    found = part.set_index("patient_key")
    missing = [key for key in keys if key not in found.index]
    extra = len(found) - (len(keys) - len(missing))
    if missing or extra:
        raise PredictionsError(
            f"{len(missing)} patients with an outcome have no prediction, and {extra} with a "
            f"prediction have no outcome (repeat {part['repeat'].iloc[0]})",
            where=f"predictions of model {model!r}",
            fix="Exclude them before, with a reason in the attrition table.",
        )
    return found.loc[keys]
