"""Fitting a network by exact full-cohort gradients in bounded memory.

A partial likelihood couples every patient with every other, so a batch of patients has another
likelihood than the cohort. Here risks of all patients come first, then the loss and its gradient
by each risk in float64, then the backward pass micro-batch by micro-batch. The sum over batches is
the gradient of the whole cohort, whatever the batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.errors import TrainingError
from storm_clinic.heads.network import TileNetwork
from storm_clinic.heads.objectives import Objective
from storm_clinic.heads.tile_batches import TileBatch, TileBatches

Floats = NDArray[np.float64]

KEPT_TILES = 65_536  # activations of so many tiles are kept (about 60 MB) instead of recomputed
_LARGEST_GRADIENT = 1.0  # norm at which gradients are clipped


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: sums then do not depend on how many cores a machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def outputs_of(network: TileNetwork, batches: TileBatches, clinical: Tensor) -> Floats:
    """Raw outputs of all patients without dropout, shape (n_patients, n_outputs)."""
    with one_thread(), torch.no_grad():
        return _joined([_forward(network, batch, clinical, None) for batch in batches])


def attention_of(network: TileNetwork, batches: TileBatches) -> list[NDArray[np.float32]]:
    """Weights of each patient's tiles, in their order."""
    found: list[NDArray[np.float32]] = []
    with one_thread(), torch.no_grad():
        for batch in batches:
            _, weights = network.pool(batch.tiles, batch.segments)
            assert weights is not None
            stops = torch.cumsum(batch.segments.sizes, 0)[:-1].numpy()
            found += [part.copy() for part in np.split(weights.numpy(), stops)]
    return found


def accumulate_gradient(
    network: TileNetwork,
    batches: TileBatches,
    clinical: Tensor,
    mask: Tensor | None,
    objective: Objective,
    *,
    kept_tiles: int = KEPT_TILES,
) -> float:
    """Add the whole cohort's gradient to the network's parameters; return the loss.

    Parameters
    ----------
    network : TileNetwork
        Its parameters' gradients are added to.
    batches : TileBatches
        Tiles of all patients.
    clinical : tensor, shape (n_patients, n_clinical)
        Their clinical block.
    mask : tensor, shape (n_patients, n_hidden), optional
        Dropout of this step; both passes use the same.
    objective : Objective
        Knows their outcomes.
    kept_tiles : int
        A larger cohort is passed through the network twice instead of keeping its activations.

    Raises
    ------
    TrainingError
        If outputs are no longer finite.
    """
    keep = batches.n_tiles <= kept_tiles
    with torch.set_grad_enabled(keep):
        parts = [_forward(network, batch, clinical, mask) for batch in batches]
    loss, by_output = objective.loss(_joined(parts))
    gradient = torch.from_numpy(by_output)
    again = () if keep else (_forward(network, batch, clinical, mask) for batch in batches)
    start = 0
    for part in parts if keep else again:
        torch.autograd.backward(part, gradient[start : start + len(part)].to(part.dtype))
        start += len(part)
    return loss


def train(
    network: TileNetwork,
    batches: TileBatches,
    clinical: Tensor,
    objective: Objective,
    *,
    learning_rate: float,
    weight_decay: float,
    dropout: float,
    seed: int,
) -> Iterator[float]:
    """Take one AdamW step an epoch, for as long as losses are asked for.

    The rate stays constant: the n-th step is then the same whether or not more follow, so that a
    number of epochs that was chosen in inner folds means the same in the refit.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, weight_decay=weight_decay, foreach=False
    )
    generator = torch.Generator().manual_seed(seed)
    while True:
        with one_thread():
            optimiser.zero_grad()
            mask = _draw_mask(len(clinical), network.n_hidden, dropout, generator)
            loss = accumulate_gradient(network, batches, clinical, mask, objective)
            torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
            optimiser.step()
        yield loss


def _draw_mask(
    n_patients: int, n_hidden: int, dropout: float, generator: torch.Generator
) -> Tensor | None:
    if dropout == 0:
        return None
    kept = torch.rand(n_patients, n_hidden, generator=generator) >= dropout
    return kept / (1 - dropout)


def _forward(
    network: TileNetwork, batch: TileBatch, clinical: Tensor, mask: Tensor | None
) -> Tensor:
    rows = batch.patients
    mask = None if mask is None else mask[rows]
    outputs: Tensor = network(batch.tiles, batch.segments, clinical[rows], mask)
    return outputs


def _joined(parts: list[Tensor]) -> Floats:
    outputs: Floats = torch.cat([part.detach() for part in parts]).double().numpy()
    if not np.isfinite(outputs).all():
        raise TrainingError(
            "the network's outputs are no longer finite", fix="Lower its learning_rate."
        )
    return outputs
