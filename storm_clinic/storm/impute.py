"""Teach a STORM network, its virtual-ST head with it, to impute expression from H&E alone.

Starts from a pretrained network or from a new one. What is learned is where in a section a gene is
high or low: expression is taken around each section's own mean, in spreads of each gene, because
differences between whole sections are as much those of staining day and chemistry. The mean over
all training spots is added back by the network's `GeneScale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.errors import TrainingError
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.optimisation import Optimisation, Optimiser
from storm_clinic.storm.taught_section import TaughtSection
from storm_clinic.storm.taught_targets import gene_scale, wanted_of_spots

_WHERE = "fine-tuning of STORM"


@dataclass(frozen=True, kw_only=True)
class FinetunePlan:
    """How a network is taught to impute.

    Attributes
    ----------
    epochs, batch : int
        Passes over all spots; spots a batch.
    learning_rate, weight_decay : float
    warm_up : float
        Share of all updates in which the rate rises.
    l1, l2 : float
        Weights of the absolute and of the squared error, both in spreads of each gene; where there
        is a teacher, from the weighted mean of what was measured and what it says.
    teacher : float
        Weight, beside 1 for what was measured, of what a ridge fitted on other sections foretells
        of a spot; see `linear_teacher`. 0: no teacher. It says nothing of genes that some training
        section was not looked through for.
    gene_axes : int
        Half of what is taught is replaced by its part along this many principal axes of genes,
        those that vary most over the training spots: genes that go together are measured with less
        noise together than each alone. 0: nothing is replaced. Only genes that all training
        sections were looked through for take part.
    seed : int
        Of order, looks and dropout, and of weights where a network is new.

    Raises
    ------
    TrainingError
        If a number cannot be.
    """

    epochs: int = 10
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warm_up: float = 0.1
    l1: float = 0.0
    l2: float = 1.0
    teacher: float = 0.0
    gene_axes: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        fits = {
            "epochs and batch must be at least 1": self.epochs >= 1 and self.batch >= 1,
            "warm_up must be from 0 to below 1": 0 <= self.warm_up < 1,
            "l1 and l2 must not be negative, nor both 0": min(self.l1, self.l2) >= 0
            and self.l1 + self.l2 > 0,
            "teacher and gene_axes must not be negative": min(self.teacher, self.gene_axes) >= 0,
            "seed must not be negative": self.seed >= 0,
        }
        problem = next((text for text, is_right in fits.items() if not is_right), None)
        if problem:
            raise TrainingError(problem, where=_WHERE)


def finetune(model: StormModel, sections: Sequence[TaughtSection], plan: FinetunePlan) -> None:
    """Teach a network by the measured spots of training sections; it is left in evaluation mode.

    Gene scale is measured on these sections, spots of all of them in one order drawn from the seed.

    Parameters
    ----------
    model : StormModel
        Changed in place.
    sections : sequence of TaughtSection
        Training sections only.
    plan : FinetunePlan
        How.

    Raises
    ------
    TrainingError
        If no spot is there to learn from, sections have different numbers of looks, a gradient is
        not finite, or a teacher is asked for where there are fewer than three sections, or patients
        if there are several.
    """
    if not sum(len(section.spots) for section in sections):
        raise TrainingError("there is no measured spot", where=_WHERE)
    [n_looks, *others] = {len(section.image) for section in sections}
    if others:
        raise TrainingError("sections have different numbers of looks", where=_WHERE)
    mean, spread = gene_scale(sections)
    model.gene_scale.set(mean, spread)
    wanted = wanted_of_spots(
        sections,
        spread,
        teacher=plan.teacher,
        gene_axes=plan.gene_axes,
        pitch_um=model.config.pitch_um,
    )
    with torch.no_grad():
        sections = [replace(one, image=model.along_axes(one.image)) for one in sections]
    index = [(place, row) for place, one in enumerate(sections) for row in range(len(one.spots))]
    order, looks = np.random.default_rng(plan.seed), np.random.default_rng([plan.seed, 1])
    per_epoch = -(-len(index) // plan.batch)
    n_steps = per_epoch * plan.epochs
    optimiser = Optimiser(
        model,
        Optimisation(
            learning_rate=plan.learning_rate,
            n_steps=n_steps,
            warm_up=min(round(plan.warm_up * n_steps), n_steps - 1),
            weight_decay=plan.weight_decay,
        ),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(plan.seed)
        model.train()
        for _ in range(plan.epochs):
            shuffled = order.permutation(len(index))
            for first in range(0, len(index), plan.batch):
                drawn = [index[place] for place in shuffled[first : first + plan.batch]]
                look = int(looks.integers(n_looks))
                optimiser.backward(_loss(model, sections, wanted, drawn, look, plan))
    model.eval()


def impute(model: StormModel, section: TaughtSection) -> NDArray[np.float32]:
    """Expression of a section's measured spots, from H&E alone: (n_spots, n_genes), log1p CP10k."""
    with torch.inference_mode():
        encoded = model(section.contexts(torch.arange(len(section.spots))))
        found: NDArray[np.float32] = model.virtual_expression(encoded.spot).numpy()
    return found


def _loss(
    model: StormModel,
    sections: Sequence[TaughtSection],
    wanted: Sequence[Tensor],
    drawn: Sequence[tuple[int, int]],
    look: int,
    plan: FinetunePlan,
) -> Tensor:
    """Of a batch of spots (place of section, row), whose sections' images lie along the axes."""
    by_section: dict[int, list[int]] = {}
    for place, row in drawn:
        by_section.setdefault(place, []).append(row)
    parts, targets, panels = [], [], []
    for place, rows in by_section.items():
        at = torch.tensor(rows)
        parts.append(sections[place].contexts(at, look))
        targets.append(wanted[place][at])
        panels.append(torch.from_numpy(sections[place].panel).expand(len(rows), -1))
    images = [part.image for part in parts if part.image is not None]
    contexts = Contexts(
        valid=torch.cat([part.valid for part in parts]),
        xy_um=torch.cat([part.xy_um for part in parts]),
        image=model.embed_along_axes(torch.cat(images)),
    )
    foretold = model.head.in_spreads(model.head.hidden(model(contexts, embedded=True).spot))
    away = (foretold - torch.cat(targets))[torch.cat(panels)]
    return plan.l1 * away.abs().mean() + plan.l2 * away.square().mean()
