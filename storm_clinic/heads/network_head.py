"""Heads whose model is a network on tiles. Torch is loaded when one is fitted or restored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Outcome
from storm_clinic.heads.contract import ModelOutput, Option, PatientData, Recipe, Sample, Stage
from storm_clinic.heads.design import add_prefix, drop_prefix
from storm_clinic.heads.network_inputs import Encoded, NetworkInputs, table_key
from storm_clinic.heads.objectives import OBJECTIVES, Objective, ObjectiveKind
from storm_clinic.heads.readout import Readout, restore_readout
from storm_clinic.heads.starting_point import fit_start
from storm_clinic.study import Kind

if TYPE_CHECKING:
    from storm_clinic.heads.architecture import Architecture
    from storm_clinic.heads.network import TileNetwork
    from storm_clinic.heads.patient_batches import PatientBatches
    from storm_clinic.heads.training import Schedule

Floats = NDArray[np.float64]

_OPTIONS: Mapping[str, Option] = {
    "epochs": Option(200, "Most epochs; inner folds choose how many are used.", 1, 10_000),
    "hidden": Option(32, "Units of the hidden layer on each tile.", 1, 4096),
    "dropout": Option(0.25, "Share of each pooled vector left out in a step.", 0.0, 0.9),
    "learning_rate": Option(2e-3, "Step of AdamW.", 1e-7, 1.0),
    "weight_decay": Option(0.01, "Decay of AdamW.", 0.0, 100.0),
    "clip": Option(1.0, "Norm at which gradients are clipped.", 1e-3, 1e6),
    "precision": Option(
        "fp32", "Of matrix products in training; sums are fp32.", choices=("fp32", "bf16")
    ),
    "most_tiles": Option(0, "Tiles a patient shown in a step, drawn anew; 0 shows all.", 0),
    "noise": Option(
        0.0, "Noise on tile features in a step, in their standard deviations.", 0.0, 10
    ),
    "fusion": Option(
        "late",
        "How inputs are joined, where there are several.",
        choices=("late", "early", "cross"),
    ),
    "modality_dropout": Option(
        0.1, "Share of patients from whom an input is hidden in a step.", 0.0, 0.9
    ),
    "components": Option(16, "Principal components of a table with more columns.", 1, 512),
}
_LATENTS = Option(4, "Latent vectors that read the tiles of an input.", 1, 256)
_ATTENTION = {"attention": Option(16, "Units of the gated attention.", 1, 4096)}
# Below, the name of each pooling with the options of its own.
POOLINGS: Mapping[str, Mapping[str, Option]] = {
    "mean": {},
    "max": {},
    "attention": _ATTENTION,
    "top": {**_ATTENTION, "top": Option(8, "Tiles that are kept of each patient.", 1, 100_000)},
    "clam": {
        **_ATTENTION,
        "instance_weight": Option(0.3, "Weight of the instance loss.", 0.0, 100.0),
    },
    "evidence": {},
    "transformer": {"latents": _LATENTS},
    "storm": {
        **_ATTENTION,
        "latents": _LATENTS,
        "fusion": replace(_OPTIONS["fusion"], default="early"),
    },
    # Of the package torchmil.
    "transmil": _ATTENTION,
    "dsmil": _ATTENTION,
    "dtfd": _ATTENTION,
}


@dataclass(frozen=True, eq=False)
class NetworkModel:
    """A fitted network with all that its inputs need."""

    head: str
    inputs: NetworkInputs
    architecture: Mapping[str, Any]
    weights: Mapping[str, NDArray[Any]]
    readout: Readout

    @property
    def notes(self) -> tuple[str, ...]:
        """What the clinical preprocessing dropped in training, and why."""
        return self.inputs.notes

    def predict(self, data: PatientData) -> ModelOutput:
        """Risks and probabilities of these patients."""
        outputs, notes = self._outputs(data)
        return self.readout.read(outputs, notes)

    def incidence(self, data: PatientData, months: Sequence[float]) -> Floats:
        """Probability of each cause's event by any time, (n_causes, n_patients, n_times)."""
        return self.readout.incidence(self._outputs(data)[0], months)

    def attention(self, data: PatientData) -> list[NDArray[np.float32]] | None:
        """Weight of each tile of each patient, summing to one; None where there is no such."""
        from storm_clinic.heads.training import attention_of

        network = self.network()
        return attention_of(network, _read_once(self.inputs.encode(data), network))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings from which the head restores the same model."""
        readout_arrays, readout = self.readout.state()
        input_arrays, inputs = self.inputs.state()
        arrays: dict[str, NDArray[Any]] = {
            **add_prefix("inputs", input_arrays),
            **add_prefix("network", self.weights),
            **add_prefix("readout", readout_arrays),
        }
        settings = {"inputs": inputs, "architecture": dict(self.architecture), "readout": readout}
        return arrays, settings

    def network(self) -> TileNetwork:
        """The network with these weights.

        Raises
        ------
        InputError
            If they do not fit it.
        """
        from storm_clinic.heads.architecture import Architecture
        from storm_clinic.heads.network import TileNetwork

        network = TileNetwork(Architecture.from_json(self.architecture), seed=0)
        network.load_arrays(self.weights)
        return network

    def _outputs(self, data: PatientData) -> tuple[Floats, tuple[str, ...]]:
        from storm_clinic.heads.training import outputs_of

        encoded, network = self.inputs.encode(data), self.network()
        return outputs_of(network, _read_once(encoded, network)), encoded.notes


@dataclass(frozen=True)
class NetworkHead:
    """A pooling with a way to fit outcomes; see `storm_clinic.heads.contract.Head`.

    Attributes
    ----------
    pooling : str
        A name of `POOLINGS`.
    objective : ObjectiveKind
    """

    pooling: str
    objective: ObjectiveKind
    takes: frozenset[Kind] = frozenset({"tiles", "clinical", "table"})
    needs: frozenset[Kind] = frozenset({"tiles"})
    stages: str | None = "epochs"

    @property
    def name(self) -> str:
        """``<pooling>-<objective>``."""
        return f"{self.pooling}-{self.objective.name}"

    @property
    def outcomes(self) -> tuple[type[Outcome], ...]:
        """Outcome types it can be fitted to."""
        return self.objective.outcomes

    @property
    def entry_times(self) -> bool:
        """Whether its likelihood uses entry times."""
        return self.objective.entry_times

    @property
    def options(self) -> Mapping[str, Option]:
        """Those of every network, of the pooling and of the objective."""
        return {**_OPTIONS, **POOLINGS[self.pooling], **self.objective.options}

    def path(self, train: Sample, recipe: Recipe, watch: Sample | None = None) -> Iterator[Stage]:
        """Walk epoch by epoch; the features' scale and the covariates are learned first."""
        from storm_clinic.heads import training
        from storm_clinic.heads.network import TileNetwork
        from storm_clinic.heads.patient_batches import PatientBatches

        objective = self.objective.build(train.outcome, recipe)
        inputs = NetworkInputs.fit(train.data, recipe.inputs, recipe.whole("components"))
        encoded = inputs.encode(train.data)
        architecture = self._architecture(inputs, encoded.clinical.shape[1], objective, recipe)
        network = TileNetwork(architecture, recipe.seed)
        network.start_from(*fit_start(encoded.clinical, objective))
        if self.pooling == "evidence":  # so that evidence begins as evidence for the event
            network.point_readouts(-1 if self.objective.name == "weibull" else 1)
        schedule = self._schedule(recipe)
        streamed = _streamed_tiles(network)
        batches = PatientBatches(encoded, bfloat16=schedule.bfloat16, streamed_tiles=streamed)
        watched = None
        if watch is not None:
            watched = PatientBatches(inputs.encode(watch.data), streamed_tiles=streamed)
        losses = training.train(network, batches, objective, schedule, seed=recipe.seed)

        def finish() -> NetworkModel:
            exact = _read_once(encoded, network) if schedule.bfloat16 else batches
            outputs = training.outputs_of(network, exact)
            return NetworkModel(
                head=self.name,
                inputs=inputs,
                architecture=architecture.to_json(),
                weights=network.arrays(),
                readout=objective.readout(outputs, recipe.horizons_months),
            )

        for _, loss in zip(range(recipe.whole("epochs")), losses, strict=False):
            held_out = 0.0
            if watch is not None and watched is not None:
                held_out = objective.held_out(watch.outcome, training.outputs_of(network, watched))
            yield Stage(loss, held_out, finish)

    def restore(self, arrays: Mapping[str, NDArray[Any]], settings: Any) -> NetworkModel:
        """The model whose state this was."""
        model = NetworkModel(
            head=self.name,
            inputs=NetworkInputs.from_state(drop_prefix("inputs", arrays), settings["inputs"]),
            architecture=settings["architecture"],
            weights=drop_prefix("network", arrays),
            readout=restore_readout(drop_prefix("readout", arrays), settings["readout"]),
        )
        model.network()  # weights that do not fit are refused here, not when a patient comes
        return model

    def _architecture(
        self, inputs: NetworkInputs, n_clinical: int, objective: Objective, recipe: Recipe
    ) -> Architecture:
        from storm_clinic.heads.architecture import Architecture

        def own(name: str) -> int:
            return recipe.whole(name) if name in self.options else 0

        widths = inputs.widths
        return Architecture(
            pooling=self.pooling,
            fusion=recipe.word("fusion"),  # type: ignore[arg-type]
            tiles={name: widths[name] for name in inputs.tiles},
            tables={table_key(name): widths[table_key(name)] for name in inputs.tables},
            n_clinical=n_clinical,
            shared=tuple(bool(value) for value in objective.shared),
            n_branches=objective.n_branches,
            n_hidden=recipe.whole("hidden"),
            n_attention=own("attention"),
            n_top=own("top"),
            n_latents=own("latents"),
        )

    def _schedule(self, recipe: Recipe) -> Schedule:
        from storm_clinic.heads.training import Schedule

        return Schedule(
            learning_rate=recipe.number("learning_rate"),
            weight_decay=recipe.number("weight_decay"),
            dropout=recipe.number("dropout"),
            modality_dropout=recipe.number("modality_dropout"),
            clip=recipe.number("clip"),
            most_tiles=recipe.whole("most_tiles"),
            noise=recipe.number("noise"),
            instance_weight=(
                recipe.number("instance_weight") if "instance_weight" in self.options else 0.0
            ),
            bfloat16=recipe.word("precision") == "bf16",
        )


def _read_once(encoded: Encoded, network: TileNetwork) -> PatientBatches:
    """Batches for a single look: each tile is needed once, so none is held."""
    from storm_clinic.heads.patient_batches import PatientBatches

    return PatientBatches(encoded, resident_bytes=0, streamed_tiles=_streamed_tiles(network))


def _streamed_tiles(network: TileNetwork) -> int | None:
    from storm_clinic.heads.patient_batches import STREAMED_TILES

    return STREAMED_TILES if network.can_stream else None


NETWORK_HEADS: tuple[NetworkHead, ...] = tuple(
    NetworkHead(pooling, objective) for pooling in POOLINGS for objective in OBJECTIVES
)
