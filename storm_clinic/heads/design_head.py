"""Heads that predict from a design matrix: one row of numbers a patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Outcome
from storm_clinic.heads.contract import ModelOutput, Option, PatientData, Recipe, Sample, Stage
from storm_clinic.heads.design import Design, add_prefix, drop_prefix
from storm_clinic.heads.readout import Readout, restore_readout
from storm_clinic.study import Kind

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]


class Predictor(Protocol):
    """What makes raw outputs of a design matrix, and is stored as arrays and JSON."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was unusual about the outcomes it was fitted to."""

    def outputs(self, matrix: Floats) -> Floats:
        """Raw outputs, (n_patients, n_outputs), of a matrix (n_patients, n_columns)."""

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""


class Criterion(Protocol):
    """How raw outputs are judged, and what they say."""

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Training loss of outputs, and its gradient."""

    def held_out(self, outcome: Outcome, outputs: Floats) -> float:
        """Log-likelihood of patients who were not trained on, summed."""

    def readout(self, outputs: Floats, horizons_months: tuple[float, ...]) -> Readout:
        """How outputs become probabilities, learned from the training patients' outputs."""


Walk = Callable[[Floats, int, Outcome, Recipe], Iterator[Predictor]]


@dataclass(frozen=True, eq=False)
class DesignModel:
    """A predictor with the design matrix that it was fitted to."""

    head: str
    inputs: tuple[str, ...]
    design: Design
    predictor: Predictor
    readout: Readout

    @property
    def notes(self) -> tuple[str, ...]:
        """What was dropped in training, and why."""
        return (*self.design.notes, *self.predictor.notes)

    def predict(self, data: PatientData) -> ModelOutput:
        """Risks and probabilities of these patients."""
        matrix, notes = self.design.encode(data)
        return self.readout.read(self.predictor.outputs(matrix), notes)

    def incidence(self, data: PatientData, months: Sequence[float]) -> Floats:
        """Probability of each cause's event by any time, (n_causes, n_patients, n_times)."""
        matrix, _ = self.design.encode(data)
        return self.readout.incidence(self.predictor.outputs(matrix), months)

    def attention(self, data: PatientData) -> None:
        """None: a summary looks at all tiles alike."""

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings from which the head restores the same model."""
        design_arrays, design = self.design.state()
        own_arrays, own = self.predictor.state()
        readout_arrays, readout = self.readout.state()
        arrays = {
            **own_arrays,
            **add_prefix("design", design_arrays),
            **add_prefix("readout", readout_arrays),
        }
        settings = {"inputs": list(self.inputs), "design": design, "readout": readout}
        return arrays, settings | {"predictor": own}


@dataclass(frozen=True)
class DesignHead:
    """A way to fit a predictor; see `storm_clinic.heads.contract.Head`.

    Attributes
    ----------
    walk : callable
        From matrix, number of columns that are not clinical, outcomes and recipe to predictors,
        from simple to complex.
    judge : callable
        From outcomes and recipe to what judges a predictor's outputs; refuses outcomes without
        an event or a class.
    restore_predictor : callable
        From arrays and settings to the predictor whose state they were.
    """

    name: str
    outcomes: tuple[type[Outcome], ...]
    takes: frozenset[Kind]
    needs: frozenset[Kind]
    walk: Walk
    judge: Callable[[Outcome, Recipe], Criterion]
    restore_predictor: Callable[[Arrays, Mapping[str, Any]], Predictor]
    options: Mapping[str, Option] = field(default_factory=dict)
    stages: str | None = None
    entry_times: bool = True

    def path(self, train: Sample, recipe: Recipe, watch: Sample | None = None) -> Iterator[Stage]:
        """Walk from simple to complex; a single stage where there is nothing to walk along."""
        criterion = self.judge(train.outcome, recipe)
        design, matrix = Design.fit(
            train.data,
            recipe.inputs,
            pooling=recipe.word("pooling") if "pooling" in self.options else "mean",
            n_components=recipe.whole("components"),
        )
        watched = None if watch is None else design.encode(watch.data)[0]
        for predictor in self.walk(matrix, design.n_block_columns, train.outcome, recipe):
            outputs = predictor.outputs(matrix)
            held_out = 0.0
            if watch is not None and watched is not None:
                held_out = criterion.held_out(watch.outcome, predictor.outputs(watched))
            model = partial(DesignModel, self.name, recipe.inputs, design, predictor)
            readout = partial(criterion.readout, outputs, recipe.horizons_months)
            yield Stage(criterion.loss(outputs)[0], held_out, partial(_finish, model, readout))

    def restore(self, arrays: Arrays, settings: Any) -> DesignModel:
        """The model whose state this was."""
        return DesignModel(
            head=self.name,
            inputs=tuple(settings["inputs"]),
            design=Design.from_state(drop_prefix("design", arrays), settings["design"]),
            predictor=self.restore_predictor(arrays, settings["predictor"]),
            readout=restore_readout(drop_prefix("readout", arrays), settings["readout"]),
        )


def _finish(model: Callable[[Readout], DesignModel], readout: Callable[[], Readout]) -> DesignModel:
    return model(readout())
