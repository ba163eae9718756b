"""Fitting a network by exact full-cohort gradients in bounded memory.

A partial likelihood couples every patient with every other, so a batch of patients has another
likelihood than the cohort. Here risks of all patients come first, then the loss and its gradient
by each risk in float64, then the backward pass micro-batch by micro-batch. The sum over batches is
the gradient of the whole cohort, whatever the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.errors import TrainingError
from storm_clinic.heads.contract import attended_input
from storm_clinic.heads.network import StepDraws, TileNetwork
from storm_clinic.heads.objectives import Objective
from storm_clinic.heads.patient_batches import PatientBatch, PatientBatches

Floats = NDArray[np.float64]

KEPT_TILES = 65_536  # activations of so many tiles are kept (about 60 MB) instead of recomputed


@dataclass(frozen=True)
class Schedule:
    """How a network is fitted.

    Attributes
    ----------
    learning_rate, weight_decay : float
        Of AdamW.
    dropout : float
        Share of each input's vector left out in a step.
    modality_dropout : float
        Share of patients from whom an input is hidden in a step; never all of one patient's.
    clip : float
        Norm at which gradients are clipped.
    most_tiles : int
        Tiles a bag shown in a step, drawn anew each time; 0 shows all.
    noise : float
        Standard deviation of normal noise on standardised features.
    instance_weight : float
        Weight of the mean instance loss of branches.
    bfloat16 : bool
        Whether matrices are multiplied in bfloat16; sums stay in float32.
    """

    learning_rate: float
    weight_decay: float
    dropout: float = 0.0
    modality_dropout: float = 0.0
    clip: float = 1.0
    most_tiles: int = 0
    noise: float = 0.0
    instance_weight: float = 0.0
    bfloat16: bool = False


@dataclass(frozen=True, eq=False)
class Step:
    """One step's chance: draws of patients, and the seed from which each batch draws tiles."""

    draws: StepDraws
    seed: int

    def thinned(self, batch: PatientBatch, schedule: Schedule) -> PatientBatch:
        """The batch with its tiles drawn; the same each time it is asked."""
        if not (schedule.most_tiles or schedule.noise):
            return batch
        generator = torch.Generator().manual_seed((self.seed + batch.rows.start) % 2**63)
        most, noise = schedule.most_tiles, schedule.noise
        tiles = {name: part.thinned(most, noise, generator) for name, part in batch.tiles.items()}
        streams = {}
        for name, stream in batch.streams.items():
            if 0 < most < len(stream):
                tiles[name] = stream.drawn(most, generator).thinned(0, noise, generator)
            else:
                streams[name] = stream.with_noise(noise, generator)
        return replace(batch, tiles=tiles, streams=streams)


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: sums then do not depend on how many cores a machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def outputs_of(network: TileNetwork, batches: PatientBatches) -> Floats:
    """Raw outputs of all patients without dropout, shape (n_patients, n_outputs)."""
    with one_thread(), torch.no_grad():
        return _joined([network(batch)[0] for batch in batches.passing()])


def attention_of(network: TileNetwork, batches: PatientBatches) -> list[NDArray[np.float32]] | None:
    """Weights of each patient's tiles of the `attended_input`, averaged over branches."""
    name = attended_input(network.architecture.tiles)
    found: list[NDArray[np.float32]] = []
    with one_thread(), torch.no_grad():
        for batch in batches.passing():
            _, pooled = network.pool(batch, batch.present, weighted=True)[name]
            if pooled.weights is None:
                return None
            weights = pooled.weights.mean(dim=1).numpy()
            if name in batch.streams:
                found.append(weights)
                continue
            stops = torch.cumsum(batch.tiles[name].segments.sizes, 0)[:-1].numpy()
            found += [part.copy() for part in np.split(weights, stops)]
    return found


def accumulate_gradient(
    network: TileNetwork,
    batches: PatientBatches,
    step: Step,
    objective: Objective,
    schedule: Schedule,
    *,
    kept_tiles: int = KEPT_TILES,
) -> float:
    """Add the whole cohort's gradient to the network's parameters; return the loss.

    Parameters
    ----------
    network : TileNetwork
        Its parameters' gradients are added to.
    batches : PatientBatches
        All patients.
    step : Step
        What chance decided; both passes use the same.
    objective : Objective
        Knows their outcomes.
    schedule : Schedule
        How the network is fitted.
    kept_tiles : int
        Of a larger cohort no activations are kept: it is passed through the network twice, or once
        where the objective is separable.

    Raises
    ------
    TrainingError
        If outputs are no longer finite.
    """
    branch = torch.from_numpy(objective.branch) if schedule.instance_weight else None
    instance_weight = schedule.instance_weight / batches.n_patients

    def look(batch: PatientBatch, own_branch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with _precision(schedule):
            thinned, draws = step.thinned(batch, schedule), step.draws.of(batch.rows)
            outputs = network(thinned, draws, own_branch)
        return outputs  # type: ignore[no-any-return]

    def forward(batch: PatientBatch) -> tuple[Tensor, Tensor]:
        return look(batch, None if branch is None else branch[batch.rows])

    if batches.n_tiles <= kept_tiles:
        parts = [forward(batch) for batch in batches]
        loss, by_output = objective.loss(_joined([part[0] for part in parts]))
        instance = 0.0
        for part, rows in zip(parts, batches.rows, strict=True):
            instance += _backward(part, by_output[rows], instance_weight)
    elif objective.separable:
        loss, instance = _one_pass(forward, batches, objective, instance_weight)
    else:
        with torch.no_grad():
            outputs = _joined([look(batch)[0] for batch in batches.passing()])
        loss, by_output = objective.loss(outputs)
        instance = 0.0
        for batch in batches.passing():
            instance += _backward(forward(batch), by_output[batch.rows], instance_weight)
    return loss + instance


def _one_pass(
    forward: Callable[[PatientBatch], tuple[Tensor, Tensor]],
    batches: PatientBatches,
    objective: Objective,
    instance_weight: float,
) -> tuple[float, float]:
    """Loss and instance loss where nobody's gradient depends on anybody else's outputs."""
    outputs = np.zeros((batches.n_patients, objective.n_outputs))
    instance = 0.0
    for batch in batches.passing():
        part = forward(batch)
        outputs[batch.rows] = _joined([part[0]])
        own = objective.loss(outputs)[1][batch.rows]
        instance += _backward(part, own, instance_weight)
    return objective.loss(outputs)[0], instance


def _backward(part: tuple[Tensor, Tensor], by_output: Floats, instance_weight: float) -> float:
    """Add the gradient of some patients' outputs and instance loss; the latter, weighted."""
    outputs, instance_loss = part
    tensors: list[Tensor] = [outputs]
    gradients: list[Any] = [torch.from_numpy(by_output).to(outputs.dtype)]
    if instance_loss.requires_grad:
        tensors.append(instance_loss)
        gradients.append(instance_loss.new_tensor(instance_weight))
    torch.autograd.backward(tensors, gradients)
    return float(instance_loss.detach()) * instance_weight


def train(
    network: TileNetwork,
    batches: PatientBatches,
    objective: Objective,
    schedule: Schedule,
    *,
    seed: int,
) -> Iterator[float]:
    """Take one AdamW step an epoch, for as long as losses are asked for.

    The rate stays constant: the n-th step is then the same whether or not more follow, so that a
    number of epochs that was chosen in inner folds means the same in the refit.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(),
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        foreach=False,
    )
    generator = torch.Generator().manual_seed(seed)
    while True:
        with one_thread():
            optimiser.zero_grad()
            step = _draw(network, batches, schedule, generator)
            loss = accumulate_gradient(network, batches, step, objective, schedule)
            torch.nn.utils.clip_grad_norm_(network.parameters(), schedule.clip)
            optimiser.step()
        yield loss


def _draw(
    network: TileNetwork,
    batches: PatientBatches,
    schedule: Schedule,
    generator: torch.Generator,
) -> Step:
    n = batches.n_patients
    dropout: dict[str, Tensor] = {}
    if schedule.dropout:
        for name, size in network.vector_sizes.items():
            if network.architecture.pooling == "evidence" and name in network.architecture.tiles:
                continue  # of one number a branch dropout would hide the whole input
            drawn = torch.rand(n, size, generator=generator) >= schedule.dropout
            dropout[name] = drawn / (1 - schedule.dropout)
    kept: dict[str, Tensor] = {}
    several = len(network.vector_sizes) + (network.architecture.n_clinical > 0) > 1
    if schedule.modality_dropout and several:
        kept = _keep_inputs(network, batches, schedule.modality_dropout, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    return Step(StepDraws(dropout, kept), seed)


def _keep_inputs(
    network: TileNetwork, batches: PatientBatches, share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Whose inputs are shown; who would be left with nothing keeps all that he has."""
    names = list(network.vector_sizes)
    drawn = torch.rand(batches.n_patients, len(names), generator=generator) >= share
    present = torch.stack([batches.present[name] for name in names], dim=1)
    left = (drawn & present).any(dim=1) | (network.architecture.n_clinical > 0)
    drawn = drawn | ~left[:, None]
    return {name: drawn[:, at] for at, name in enumerate(names)}


def _precision(schedule: Schedule) -> Any:
    if not schedule.bfloat16:
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


def _joined(parts: list[Tensor]) -> Floats:
    outputs: Floats = torch.cat([part.detach() for part in parts]).double().numpy()
    if not np.isfinite(outputs).all():
        raise TrainingError(
            "the network's outputs are no longer finite", fix="Lower its learning_rate."
        )
    return outputs
