"""What an evaluation looks at: outcomes, predictions and covariates of one cohort, in one order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from storm_clinic.cohort.outcome import Floats, Outcome
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.evidence import Kind


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """One cohort as it is judged; every array and table has one row a patient, in one order.

    Attributes
    ----------
    cohort : str
    kind : {"cross-validation", "external"}
    outcome : Survival, CompetingRisks or Classes, length n_patients
    models : tuple of ModelPredictions
    endpoint : Endpoint
        Horizons and tau in months; unused for classes.
    candidate : str
    comparator : str or None
        The clinical model.
    seed : int
    bootstraps : int
        Resamples of patients where a formula is lacking.
    covariates : DataFrame, optional
        Clinical covariates: float64 (NaN where missing) or ordered/unordered categorical.
    subgroups : DataFrame, optional
        Categorical columns by which measures are reported.
    sites : tuple of (str or None), optional
        Hospital of each patient; None where none is declared.
    thresholds : tuple of float
        Risk thresholds of the decision curve, ascending; empty where none are named.
    risk_cuts : mapping of model to tuple of float
        Cut points of risk groups that were fixed on development data.
    embeddings : mapping of input to float64 array, shape (n_patients, d)
        What models see, averaged over a patient's tiles; NaN rows where a patient has none.
    """

    cohort: str
    kind: Kind
    outcome: Outcome
    models: tuple[ModelPredictions, ...]
    endpoint: Endpoint
    candidate: str
    comparator: str | None
    seed: int
    bootstraps: int = 1000
    covariates: pd.DataFrame | None = None
    subgroups: pd.DataFrame | None = None
    sites: tuple[str | None, ...] | None = None
    thresholds: tuple[float, ...] = ()
    risk_cuts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    embeddings: Mapping[str, Floats] = field(default_factory=dict)

    def model(self, name: str) -> ModelPredictions:
        """Predictions of the model of that name."""
        return next(model for model in self.models if model.model == name)

    @property
    def n_patients(self) -> int:
        return self.outcome.n_patients
