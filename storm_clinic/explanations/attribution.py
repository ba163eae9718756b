"""Integrated Gradients: what each tile, gene and input of tiles adds to a patient's risk.

Between a baseline and the patient lies a straight path; the gradient along it, averaged and
multiplied by how far each number has come, is that number's share of the change of the risk
(Sundararajan, Taly and Yan, ICML 2017). Shares sum to the whole change (completeness), which is
checked each time; the integral is approximated by captum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.errors import InputError
from storm_clinic.heads.bags import TILE_BUDGET
from storm_clinic.heads.contract import FittedModel, PatientData
from storm_clinic.heads.network_head import NetworkModel
from storm_clinic.heads.patient_batches import PatientBatch, PatientBatches
from storm_clinic.heads.readout import Readout
from storm_clinic.heads.segments import Segments
from storm_clinic.heads.tile_tensors import TileTensors
from storm_clinic.heads.training import one_thread

Floats = NDArray[np.float64]

BASELINE = "every tile as the mean tile of training"
TOLERANCE = 0.01  # of the change of the risk that shares may miss
FLOOR = 1e-4  # and what they may miss of a risk that hardly changes
FIRST_STEPS, MOST_STEPS = 16, 512
_STEP = 1e-5  # of the central difference that gives the slope of a risk in raw outputs


@dataclass(frozen=True, eq=False)
class Attribution:
    """What one patient's tiles add to the risk, against the baseline `BASELINE`.

    Covariates and tables are the patient's own on both ends of the path.

    Attributes
    ----------
    values : dict of str to float64 array, shape (n_tiles, n_features)
        By input of tiles; inputs that the patient lacks are not there.
    columns : dict of str to tuple of str
        What each feature is, such as a gene; empty where features have no names.
    risk, baseline_risk : float
        Of the patient, and of the baseline.
    n_steps : int
        Points of the path at which the gradient was taken.
    """

    values: Mapping[str, Floats]
    columns: Mapping[str, tuple[str, ...]]
    risk: float
    baseline_risk: float
    n_steps: int

    @property
    def by_input(self) -> dict[str, float]:
        """Share of each input; their sum is the change of the risk."""
        return {name: float(values.sum()) for name, values in self.values.items()}

    @property
    def by_tile(self) -> dict[str, Floats]:
        """Share of each tile, (n_tiles,), by input."""
        return {name: values.sum(axis=1) for name, values in self.values.items()}

    def by_column(self, name: str) -> Floats:
        """Share of each feature of an input over all tiles, (n_features,): of a gene, say."""
        return np.asarray(self.values[name].sum(axis=0))

    @property
    def gap(self) -> float:
        """By how much the shares miss the change of the risk."""
        return sum(self.by_input.values()) - (self.risk - self.baseline_risk)

    @property
    def complete(self) -> bool:
        """Whether the shares sum to the change: within 1% of it, or within 0.0001."""
        return abs(self.gap) <= TOLERANCE * abs(self.risk - self.baseline_risk) + FLOOR


def is_available() -> bool:
    """Whether captum is installed."""
    return find_spec("captum") is not None


def attribute(
    model: FittedModel, patient: PatientData, *, most_steps: int = MOST_STEPS
) -> Attribution:
    """Integrated Gradients of one patient's risk, with as many steps as completeness needs.

    Steps are doubled from 16 until the shares sum to the change of the risk. Where they do not
    with ``most_steps``, the result says so (`Attribution.complete`): it is for the caller to leave
    it out, and to count it.

    Parameters
    ----------
    model : FittedModel
        A network; its own risk is explained, whatever its objective.
    patient : PatientData
        Of one patient.
    most_steps : int
        Points of the path at most.

    Raises
    ------
    InputError
        If the model is no network, captum is not installed, or there is not one patient with a
        tile.
    """
    if not isinstance(model, NetworkModel):
        raise InputError(
            f"a model of {model.head!r} has no gradients; networks have", where="attribution"
        )
    if len(patient) != 1:
        raise InputError(f"one patient is explained at a time, not {len(patient)}")
    with one_thread():
        [batch] = PatientBatches(model.inputs.encode(patient), dtype=np.float64, resident_bytes=0)
        given = {name: t.values[None] for name, t in batch.tiles.items() if len(t.values)}
        if not given:
            raise InputError("the patient has no tile, so that there is nothing to explain")
        network = model.network().double().eval()

        def risks(*tiles: Tensor) -> Tensor:
            """Of copies of the patient with other tiles: (n, n_tiles, n_features) an input."""
            copies = _copies(batch, dict(zip(given, tiles, strict=True)), len(tiles[0]))
            risk: Tensor = _Risk.apply(network(copies)[0], model.readout)
            return risk

        inputs = tuple(given.values())
        baselines = tuple(torch.zeros_like(tiles) for tiles in inputs)  # means are 0 when encoded
        with torch.no_grad():
            risk, baseline_risk = risks(*inputs).item(), risks(*baselines).item()
        n_tiles = sum(tiles.shape[1] for tiles in inputs)
        n_steps = min(FIRST_STEPS, most_steps)
        while True:
            shares = integrated_gradients(
                risks, inputs, baselines, n_steps=n_steps, at_once=TILE_BUDGET // n_tiles
            )
            found = Attribution(
                values={n: part[0].numpy().copy() for n, part in zip(given, shares, strict=True)},
                columns={name: model.inputs.tiles[name].columns for name in given},
                risk=risk,
                baseline_risk=baseline_risk,
                n_steps=n_steps,
            )
            if found.complete or n_steps >= most_steps:
                return found
            n_steps = min(2 * n_steps, most_steps)


def integrated_gradients(
    function: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    baselines: tuple[Tensor, ...],
    *,
    n_steps: int,
    at_once: int,
) -> tuple[Tensor, ...]:
    """Share of each number of ``inputs`` in ``function(inputs) - function(baselines)``.

    Parameters
    ----------
    function : callable
        From tensors of shape (n, ...) to one number each, shape (n,).
    inputs, baselines : tuples of tensors, shape (1, ...)
        Ends of the path.
    n_steps : int
        Gauss-Legendre points.
    at_once : int
        Points that are looked at together; at least one is.

    Returns
    -------
    tuple of tensors of the inputs' shapes

    Raises
    ------
    InputError
        If captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise InputError(
            "Integrated Gradients need captum, which is not installed",
            where="attribution",
            fix="pip install 'storm-clinic[models]'",
        ) from error
    shares: tuple[Tensor, ...] = IntegratedGradients(function).attribute(
        inputs,
        baselines=baselines,
        n_steps=n_steps,
        method="gausslegendre",
        internal_batch_size=max(1, at_once),
    )
    return tuple(part.detach() for part in shares)


class _Risk(torch.autograd.Function):
    """The risk that a readout makes of raw outputs; its slope by central differences.

    Readouts are written in numpy. They have few outputs, so that this costs nothing, and the slope
    is right to about ten digits.
    """

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, readout: Readout) -> Tensor:
        """From (n, n_outputs) to (n,)."""
        ctx.outputs, ctx.readout = outputs.detach().numpy(), readout
        return torch.from_numpy(np.array(readout.read(ctx.outputs).risk))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        """Gradient by the outputs; the readout has none."""
        outputs = ctx.outputs
        n, n_outputs = outputs.shape
        step = _STEP * np.maximum(1.0, np.abs(outputs))
        moved = np.eye(n_outputs)[:, None, :] * step  # (output that moves, n, n_outputs)
        both = np.concatenate([outputs + moved, outputs - moved]).reshape(-1, n_outputs)
        up, down = ctx.readout.read(both).risk.reshape(2, n_outputs, n)
        slope = ((up - down) / (2 * step.T)).T
        return gradients[0][:, None] * torch.from_numpy(slope), None


def _copies(batch: PatientBatch, tiles: Mapping[str, Tensor], n: int) -> PatientBatch:
    """One patient ``n`` times, each time with other tiles."""
    return PatientBatch(
        slice(0, n),
        {
            name: TileTensors(
                tiles.get(name, own.values[None].expand(n, -1, -1)).flatten(0, 1),
                Segments(own.segments.sizes.expand(n)),
                None if own.places is None else own.places.repeat(n, 1),
            )
            for name, own in batch.tiles.items()
        },
        {name: numbers.expand(n, -1) for name, numbers in batch.tables.items()},
        {name: who.expand(n) for name, who in batch.present.items()},
        batch.clinical.expand(n, -1),
    )
