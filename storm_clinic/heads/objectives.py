"""What a model's raw outputs are fitted to: losses with exact gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Outcome, Survival
from storm_clinic.errors import TrainingError
from storm_clinic.heads.baseline_hazard import BaselineHazard
from storm_clinic.heads.contract import Option, Recipe
from storm_clinic.heads.discrete_time import DeepHit, DiscreteHazard
from storm_clinic.heads.readout import (
    ClassReadout,
    HazardReadout,
    Readout,
    class_log_probabilities,
)
from storm_clinic.heads.survival import CoxLikelihood, Ties
from storm_clinic.heads.weibull import WeibullObjective

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Objective(Protocol):
    """A loss over all training patients at once.

    Attributes
    ----------
    n_outputs : int
        Raw outputs a patient.
    shared : bool array, shape (n_outputs,)
        Outputs that are one number for all patients.
    n_branches : int
        Ways in which a tile can matter: one a class, a cause, or one in all.
    branch : int64 array, shape (n_patients,)
        The branch that each training patient's outcome speaks for; -1 where it speaks for none.
    separable : bool
        Whether a patient's gradient depends on that patient's outputs alone.
    """

    @property
    def n_outputs(self) -> int: ...

    @property
    def shared(self) -> Bools: ...

    @property
    def n_branches(self) -> int: ...

    @property
    def branch(self) -> Ints: ...

    @property
    def separable(self) -> bool: ...

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Mean loss of outputs (n_patients, n_outputs), and its gradient of the same shape."""

    def start(self) -> Floats:
        """Outputs of a model that knows nothing of a patient, shape (n_outputs,)."""

    def held_out(self, outcome: Outcome, outputs: Floats) -> float:
        """Log-likelihood of patients who were not trained on, summed."""

    def readout(self, outputs: Floats, horizons_months: tuple[float, ...]) -> Readout:
        """How outputs become probabilities, learned from the training patients' outputs."""


class CoxObjective:
    """Cox partial likelihood over all patients, per event."""

    n_outputs = 1
    n_branches = 1
    separable = False

    def __init__(self, outcome: Survival, ties: Ties = "efron") -> None:
        self._outcome, self._ties = outcome, ties
        self._likelihood = CoxLikelihood(outcome, ties)
        self.shared = np.zeros(1, dtype=np.bool_)
        self.branch = outcome.event.astype(np.int64) - 1

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Negative log partial likelihood per event, and its gradient."""
        loss, gradient = self._likelihood.loss(outputs[:, 0])
        return loss, gradient[:, None]

    def start(self) -> Floats:
        """Equal hazards."""
        return np.zeros(1)

    def held_out(self, outcome: Outcome, outputs: Floats) -> float:
        """Log partial likelihood among these patients; 0 where none of them had the event."""
        assert isinstance(outcome, Survival)
        if outcome.n_events == 0:
            return 0.0
        return CoxLikelihood(outcome, self._ties).log_likelihood(outputs[:, 0])

    def readout(self, outputs: Floats, horizons_months: tuple[float, ...]) -> Readout:
        """Baseline hazard of the training patients."""
        baseline = BaselineHazard.fit(self._outcome, outputs[:, 0], self._ties)
        return HazardReadout(baseline, horizons_months)


class ClassObjective:
    """Cross-entropy per patient; outputs are log-odds of each level against the first.

    Parameters
    ----------
    outcome : Classes
    balanced : bool
        Weight patients so that every level weighs as much in all. What is learned then minds rare
        levels more; the readout takes the weights out again, so that probabilities are still
        those of patients like the training ones.
    """

    separable = True

    def __init__(self, outcome: Classes, *, balanced: bool = False) -> None:
        counts = np.bincount(outcome.label, minlength=len(outcome.levels))
        if not counts.all():
            absent = outcome.levels[int(np.argmin(counts))]
            raise TrainingError(
                f"none of {outcome.n_patients} patients is of class {absent!r}",
                fix="Use fewer folds, or join rare classes.",
            )
        self._outcome, self._counts = outcome, counts
        level_weights = len(outcome) / (len(counts) * counts) if balanced else np.ones(len(counts))
        self._weight = level_weights[outcome.label]
        self._log_weights = np.log(level_weights)
        self.n_outputs = len(outcome.levels) - 1
        self.shared = np.zeros(self.n_outputs, dtype=np.bool_)
        self.n_branches = len(outcome.levels)
        self.branch = outcome.label

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Mean weighted negative log-likelihood, and its gradient."""
        log_p = class_log_probabilities(outputs)
        rows = np.arange(len(log_p))
        residual = np.exp(log_p)
        residual[rows, self._outcome.label] -= 1.0
        loss = -(self._weight * log_p[rows, self._outcome.label]).mean()
        return float(loss), self._weight[:, None] * residual[:, 1:] / len(log_p)

    def start(self) -> Floats:
        """Log-odds of the levels' weighted shares."""
        shares = np.log(self._counts) + self._log_weights
        return np.asarray(shares[1:] - shares[0])

    def held_out(self, outcome: Outcome, outputs: Floats) -> float:
        """Log-likelihood of these patients, each weighing alike."""
        assert isinstance(outcome, Classes)
        corrected = outputs - self._offsets
        log_p = class_log_probabilities(corrected)
        return float(log_p[np.arange(len(log_p)), outcome.label].sum())

    def readout(self, outputs: Floats, horizons_months: tuple[float, ...]) -> Readout:  # noqa: ARG002
        """Softmax after taking the weights out."""
        return ClassReadout(self._outcome.levels, tuple(float(value) for value in self._offsets))

    @property
    def _offsets(self) -> Floats:
        return np.asarray(self._log_weights[1:] - self._log_weights[0])


Build = Callable[[Outcome, Recipe], Objective]


@dataclass(frozen=True)
class ObjectiveKind:
    """A way to fit outputs to outcomes: its name, the outcomes it is for, its settings.

    Attributes
    ----------
    name : str
        Second part of a network head's name.
    outcomes : tuple of type
    build : callable
        From training outcomes and a recipe to the objective.
    options : dict
    entry_times : bool
        Whether the likelihood uses them.
    """

    name: str
    outcomes: tuple[type[Outcome], ...]
    build: Build
    options: Mapping[str, Option] = field(default_factory=dict)
    entry_times: bool = True


def _cox(outcome: Outcome, recipe: Recipe) -> Objective:
    assert isinstance(outcome, Survival)
    return CoxObjective(outcome, "breslow" if recipe.word("ties") == "breslow" else "efron")


def _hazard(outcome: Outcome, recipe: Recipe) -> Objective:
    assert isinstance(outcome, Survival | CompetingRisks)
    return DiscreteHazard(outcome, recipe.whole("intervals"))


def _deephit(outcome: Outcome, recipe: Recipe) -> Objective:
    assert isinstance(outcome, Survival | CompetingRisks)
    return DeepHit(
        outcome,
        recipe.whole("intervals"),
        ranking=recipe.number("ranking"),
        sigma=recipe.number("sigma"),
    )


def _weibull(outcome: Outcome, _recipe: Recipe) -> Objective:
    assert isinstance(outcome, Survival)
    return WeibullObjective(outcome)


def _classes(outcome: Outcome, recipe: Recipe) -> Objective:
    assert isinstance(outcome, Classes)
    return ClassObjective(outcome, balanced=recipe.word("class_weight") == "balanced")


TIES = Option("efron", "How tied events are counted.", choices=("efron", "breslow"))
CLASS_WEIGHT = Option(
    "none",
    "balanced: every class weighs alike in training; probabilities are corrected for it.",
    choices=("none", "balanced"),
)
_INTERVALS = Option(8, "Intervals between quantiles of the event times.", 1, 200)

OBJECTIVES: tuple[ObjectiveKind, ...] = (
    ObjectiveKind("cox", (Survival,), _cox, {"ties": TIES}),
    ObjectiveKind("hazard", (Survival, CompetingRisks), _hazard, {"intervals": _INTERVALS}),
    ObjectiveKind("weibull", (Survival,), _weibull),
    ObjectiveKind(
        "deephit",
        (Survival, CompetingRisks),
        _deephit,
        {
            "intervals": _INTERVALS,
            "ranking": Option(0.2, "Weight of the loss on the order of pairs.", 0.0, 100.0),
            "sigma": Option(0.1, "Difference of incidence at which that loss falls to 1/e.", 0.01),
        },
        entry_times=False,
    ),
    ObjectiveKind("classes", (Classes,), _classes, {"class_weight": CLASS_WEIGHT}),
)
