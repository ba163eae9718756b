"""Heads whose model is a network on tiles. Torch is loaded when one is fitted or restored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Outcome
from storm_clinic.heads.contract import ModelOutput, Option, PatientData, Recipe, Sample, Stage
from storm_clinic.heads.covariates import Covariates
from storm_clinic.heads.design import (
    add_prefix,
    drop_prefix,
    encode_clinical,
    fit_covariates,
    image_of,
    restore_covariates,
    with_covariates,
)
from storm_clinic.heads.linear import fit_linear
from storm_clinic.heads.objectives import Objective, held_out_log_likelihood, objective_for
from storm_clinic.heads.readout import Readout, restore_readout
from storm_clinic.study import Kind

if TYPE_CHECKING:
    import torch

    from storm_clinic.heads.network import TileNetwork
    from storm_clinic.heads.tile_batches import TileBatches

Floats = NDArray[np.float64]

_START_RIDGE = 0.01  # of the clinical fit from which fused networks start

OPTIONS: Mapping[str, Option] = {
    "epochs": Option(200, "Most epochs; inner folds choose how many are used.", 1, 10_000),
    "hidden": Option(32, "Units of the hidden layer on each tile.", 1, 4096),
    "dropout": Option(0.25, "Share of the pooled vector left out in a step.", 0.0, 0.9),
    "learning_rate": Option(2e-3, "Step of AdamW.", 1e-7, 1.0),
    "weight_decay": Option(0.01, "Decay of AdamW.", 0.0, 100.0),
}
ATTENTION_OPTIONS: Mapping[str, Option] = {
    **OPTIONS,
    "attention": Option(16, "Units of the gated attention.", 1, 4096),
}


@dataclass(frozen=True, eq=False)
class NetworkModel:
    """A fitted network with all that its inputs need."""

    head: str
    inputs: tuple[str, ...]
    pooling: str
    n_attention: int
    centre: Floats
    scale: Floats
    covariates: Covariates | None
    weights: Mapping[str, NDArray[Any]]
    readout: Readout

    @property
    def notes(self) -> tuple[str, ...]:
        """What the clinical preprocessing dropped in training, and why."""
        return () if self.covariates is None else self.covariates.notes

    def predict(self, data: PatientData) -> ModelOutput:
        """Risks and probabilities of these patients."""
        from storm_clinic.heads.training import outputs_of

        clinical, notes = encode_clinical(self.covariates, data)
        outputs = outputs_of(self.network(), self._batches(data), _tensor(clinical))
        return self.readout.read(outputs, notes)

    def attention(self, data: PatientData) -> list[NDArray[np.float32]] | None:
        """Weight of each tile of each patient, summing to one; None for mean pooling."""
        from storm_clinic.heads.training import attention_of

        if self.pooling == "mean":
            return None
        return attention_of(self.network(), self._batches(data))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings from which the head restores the same model."""
        readout_arrays, readout = self.readout.state()
        arrays: dict[str, NDArray[Any]] = {
            "centre": self.centre,
            "scale": self.scale,
            **add_prefix("network", self.weights),
            **add_prefix("readout", readout_arrays),
        }
        settings = {
            "inputs": list(self.inputs),
            "pooling": self.pooling,
            "attention": self.n_attention,
            "readout": readout,
        }
        return with_covariates(arrays, settings, self.covariates)

    def network(self) -> TileNetwork:
        """The network with these weights.

        Raises
        ------
        InputError
            If they do not fit it.
        """
        from storm_clinic.heads.network import TileNetwork

        n_outputs, n_clinical = self.weights["from_clinical"].shape
        n_hidden, width = self.weights["tile.weight"].shape
        network = TileNetwork(
            self.pooling,
            width=width,
            n_clinical=n_clinical,
            n_outputs=n_outputs,
            n_hidden=n_hidden,
            n_attention=self.n_attention,
            seed=0,
        )
        network.load_arrays(self.weights)
        return network

    def _batches(self, data: PatientData) -> TileBatches:
        from storm_clinic.heads.tile_batches import TileBatches

        # Each tile is needed once, so none is held.
        bags = image_of(data, len(self.centre))
        return TileBatches(bags, self.centre, self.scale, resident_bytes=0)


@dataclass(frozen=True)
class NetworkHead:
    """A pooling with the loss of the outcome; see `storm_clinic.heads.contract.Head`."""

    name: str
    pooling: str
    outcomes: tuple[type[Outcome], ...]
    options: Mapping[str, Option]
    takes: frozenset[Kind] = frozenset({"tiles", "clinical", "table"})
    needs: frozenset[Kind] = frozenset({"tiles"})
    stages: str | None = "epochs"
    entry_times: bool = True

    def path(self, train: Sample, recipe: Recipe, watch: Sample | None = None) -> Iterator[Stage]:
        """Walk epoch by epoch; the features' scale and the covariates are learned first."""
        from storm_clinic.heads import training

        objective = objective_for(train.outcome)
        centre, scale = image_of(train.data).tile_moments()
        covariates = fit_covariates(train.data, recipe.inputs)
        design, _ = encode_clinical(covariates, train.data)
        network = self._started(train, recipe, objective, design)
        batches, clinical = _load(train, centre, scale), _tensor(design)
        watched = None
        if watch is not None:
            watched = (
                _load(watch, centre, scale),
                _tensor(encode_clinical(covariates, watch.data)[0]),
            )
        losses = training.train(
            network,
            batches,
            clinical,
            objective,
            learning_rate=recipe.number("learning_rate"),
            weight_decay=recipe.number("weight_decay"),
            dropout=recipe.number("dropout"),
            seed=recipe.seed,
        )

        def finish() -> NetworkModel:
            outputs = training.outputs_of(network, batches, clinical)
            return NetworkModel(
                head=self.name,
                inputs=recipe.inputs,
                pooling=self.pooling,
                n_attention=self._n_attention(recipe),
                centre=centre,
                scale=scale,
                covariates=covariates,
                weights=network.arrays(),
                readout=objective.readout(outputs, recipe.horizons_months),
            )

        for _, loss in zip(range(recipe.whole("epochs")), losses, strict=False):
            held_out = 0.0
            if watch is not None and watched is not None:
                outputs = training.outputs_of(network, *watched)
                held_out = held_out_log_likelihood(watch.outcome, outputs)
            yield Stage(loss, held_out, finish)

    def restore(self, arrays: Mapping[str, NDArray[Any]], settings: Any) -> NetworkModel:
        """The model whose state this was."""
        model = NetworkModel(
            head=self.name,
            inputs=tuple(settings["inputs"]),
            pooling=settings["pooling"],
            n_attention=int(settings["attention"]),
            centre=arrays["centre"],
            scale=arrays["scale"],
            covariates=restore_covariates(arrays, settings),
            weights=drop_prefix("network", arrays),
            readout=restore_readout(drop_prefix("readout", arrays), settings["readout"]),
        )
        model.network()  # weights that do not fit are refused here, not when a patient comes
        return model

    def _n_attention(self, recipe: Recipe) -> int:
        return recipe.whole("attention") if "attention" in self.options else 0

    def _started(
        self, train: Sample, recipe: Recipe, objective: Objective, design: Floats
    ) -> TileNetwork:
        """A network that says at first what the clinical covariates say alone."""
        from storm_clinic.heads.network import TileNetwork

        network = TileNetwork(
            self.pooling,
            width=image_of(train.data).width,
            n_clinical=design.shape[1],
            n_outputs=objective.n_outputs,
            n_hidden=recipe.whole("hidden"),
            n_attention=self._n_attention(recipe),
            seed=recipe.seed,
        )
        slopes, intercepts = np.empty((0, objective.n_outputs)), objective.start()
        if design.shape[1]:
            slopes, intercepts = fit_linear(design, train.outcome, ridge=_START_RIDGE)
        network.start_from(slopes, intercepts)
        return network


def _load(sample: Sample, centre: Floats, scale: Floats) -> TileBatches:
    from storm_clinic.heads.tile_batches import TileBatches

    return TileBatches(image_of(sample.data), centre, scale)


def _tensor(design: Floats) -> torch.Tensor:
    import torch

    return torch.from_numpy(design.astype(np.float32))
