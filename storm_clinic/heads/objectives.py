"""What a model's raw outputs are fitted to: losses with exact gradients, in float64."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Classes, Outcome, Survival
from storm_clinic.errors import StudyError, TrainingError
from storm_clinic.heads.baseline_hazard import BaselineHazard
from storm_clinic.heads.readout import (
    ClassReadout,
    HazardReadout,
    Readout,
    class_log_probabilities,
)
from storm_clinic.heads.survival import CoxLikelihood

Floats = NDArray[np.float64]


class Objective(Protocol):
    """A loss over all training patients at once."""

    @property
    def n_outputs(self) -> int:
        """Raw outputs a patient."""

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Mean loss of outputs (n_patients, n_outputs), and its gradient of the same shape."""

    def start(self) -> Floats:
        """Outputs of a model that knows nothing of a patient, shape (n_outputs,)."""

    def readout(self, outputs: Floats, horizons_months: tuple[float, ...]) -> Readout:
        """How outputs become probabilities, learned from the training patients' outputs."""


class CoxObjective:
    """Cox partial likelihood with Efron ties over all patients, per event."""

    n_outputs = 1

    def __init__(self, outcome: Survival) -> None:
        self._outcome, self._likelihood = outcome, CoxLikelihood(outcome)

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Negative log partial likelihood per event, and its gradient."""
        loss, gradient = self._likelihood.loss(outputs[:, 0])
        return loss, gradient[:, None]

    def start(self) -> Floats:
        """Equal hazards."""
        return np.zeros(1)

    def readout(self, outputs: Floats, horizons_months: tuple[float, ...]) -> Readout:
        """Baseline hazard of the training patients."""
        return HazardReadout(BaselineHazard.fit(self._outcome, outputs[:, 0]), horizons_months)


class ClassObjective:
    """Cross-entropy per patient; outputs are log-odds of each level against the first."""

    def __init__(self, outcome: Classes) -> None:
        counts = np.bincount(outcome.label, minlength=len(outcome.levels))
        if not counts.all():
            absent = outcome.levels[int(np.argmin(counts))]
            raise TrainingError(
                f"none of {outcome.n_patients} patients is of class {absent!r}",
                fix="Use fewer folds, or join rare classes.",
            )
        self._outcome, self._counts = outcome, counts
        self.n_outputs = len(outcome.levels) - 1

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Mean negative log-likelihood, and its gradient."""
        log_p = class_log_probabilities(outputs)
        rows = np.arange(len(log_p))
        residual = np.exp(log_p)
        residual[rows, self._outcome.label] -= 1.0
        loss = -log_p[rows, self._outcome.label].mean()
        return float(loss), residual[:, 1:] / len(log_p)

    def start(self) -> Floats:
        """Log-odds of the levels' shares."""
        shares = np.log(self._counts / self._counts.sum())
        return np.asarray(shares[1:] - shares[0])

    def readout(self, outputs: Floats, horizons_months: tuple[float, ...]) -> Readout:  # noqa: ARG002
        """Softmax; nothing is learned for it."""
        return ClassReadout(self._outcome.levels)


def objective_for(outcome: Outcome) -> CoxObjective | ClassObjective:
    """The loss by which linear and network heads fit this type of outcome.

    Raises
    ------
    TrainingError
        If no event happened, or a class has no patient.
    """
    if isinstance(outcome, Survival):
        return CoxObjective(outcome)
    if isinstance(outcome, Classes):
        return ClassObjective(outcome)
    raise StudyError("this head cannot be fitted to competing risks")


def held_out_log_likelihood(outcome: Outcome, outputs: Floats) -> float:
    """Log-likelihood of patients who were not trained on, summed over events or patients.

    For survival it is the partial likelihood among these patients. Unlike a C-index it sees
    whether hazards are too extreme, and it varies smoothly from one candidate to the next. A
    fold without events says nothing and gives 0.
    """
    if isinstance(outcome, Survival):
        if outcome.n_events == 0:
            return 0.0
        return CoxLikelihood(outcome).log_likelihood(outputs[:, 0])
    if isinstance(outcome, Classes):
        log_p = class_log_probabilities(outputs)
        return float(log_p[np.arange(len(log_p)), outcome.label].sum())
    raise StudyError("this head cannot be fitted to competing risks")
