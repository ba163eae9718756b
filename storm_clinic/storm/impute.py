"""Teach a STORM network, its virtual-ST head with it, to impute expression from H&E alone.

Starts from a pretrained network or from a new one. What is learned is where in a section a gene is
high or low: expression is taken around each section's own mean, in spreads of each gene, because
differences between whole sections are as much those of staining day and chemistry. The mean over
all training spots is added back by the network's `GeneScale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.errors import TrainingError
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.image_scale import scale_slide
from storm_clinic.storm.linear_teacher import TeacherView, foretold_by_others, near_means
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.neighbourhood import Side, neighbourhoods
from storm_clinic.storm.optimisation import Optimisation, Optimiser
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.targets import of_whole_assay

_WHERE = "fine-tuning of STORM"
_LEAST_SPREAD = 0.1  # of log1p CP10k: a gene seen in one spot of a thousand shall not rule a loss


@dataclass(frozen=True, eq=False)
class TaughtSection:
    """A section as a network is taught by it.

    Attributes
    ----------
    name, patient : str
    image : float32 tensor, shape (n_points, image_width)
        Embeddings of all points of the section's lattice.
    xy_um : float32 tensor, shape (n_points, 2)
    around : int64 tensor, shape (n_spots, n_slots)
        Points around each measured spot, -1 where there is none.
    spots : int64 array, shape (n_spots,)
        Rows of the points whose expression was measured.
    target : float32 array, shape (n_spots, n_genes)
        log1p of counts per 10,000 counts of the whole assay.
    library : int64 array, shape (n_spots,)
    panel : bool array, shape (n_genes,)
        Genes that the assay looked for.
    """

    name: str
    patient: str
    image: Tensor
    xy_um: Tensor
    around: Tensor
    spots: NDArray[np.int64]
    target: NDArray[np.float32]
    library: NDArray[np.int64]
    panel: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        section: PairedSection,
        image: NDArray[Any],
        vocabulary: GeneVocabulary,
        *,
        side: Side = 5,
        scaled: bool,
    ) -> TaughtSection:
        """Put a section and its embeddings together.

        Parameters
        ----------
        section : PairedSection
            Points without a count are seen, and never taught.
        image : float array, shape (n_points, image_width)
            Embeddings of its points.
        vocabulary : GeneVocabulary
            Genes to teach. Counts are divided by all of the assay's, so that the target does not
            depend on which genes are taught.
        side : 1, 3 or 5
            Points along an edge of a context.
        scaled : bool
            Whether the network wants embeddings scaled slide by slide.
        """
        found = of_whole_assay(section.counts, section.symbols, vocabulary)
        spots = np.flatnonzero(found.library > 0)
        around = neighbourhoods(
            section.centres_um, pitch_um=section.pitch_um, grid=section.grid, side=side
        )
        seen = scale_slide(image) if scaled else np.array(image, dtype=np.float32)
        return cls(
            name=section.name,
            patient=section.patient,
            image=torch.from_numpy(seen),
            xy_um=torch.from_numpy(section.centres_um.astype(np.float32)),
            around=torch.from_numpy(around.rows[spots]),
            spots=spots,
            target=found.values[spots],
            library=found.library[spots],
            panel=found.known,
        )

    def contexts(self, wanted: Tensor) -> Contexts:
        """H&E around some measured spots, as the network meets it at inference."""
        rows = self.around[wanted]
        points = rows.clamp(min=0)
        return Contexts(valid=rows >= 0, xy_um=self.xy_um[points], image=self.image[points])


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
    seed : int
        Of order and dropout, and of weights where a network is new.

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
    seed: int = 0

    def __post_init__(self) -> None:
        fits = {
            "epochs and batch must be at least 1": self.epochs >= 1 and self.batch >= 1,
            "warm_up must be from 0 to below 1": 0 <= self.warm_up < 1,
            "l1 and l2 must not be negative, nor both 0": min(self.l1, self.l2) >= 0
            and self.l1 + self.l2 > 0,
            "teacher must not be negative": self.teacher >= 0,
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
        If no spot is there to learn from, a gradient is not finite, or a teacher is asked for
        where there are fewer than three sections, or patients if there are several.
    """
    if not sum(len(section.spots) for section in sections):
        raise TrainingError("there is no measured spot", where=_WHERE)
    mean, spread = _gene_scale(sections)
    model.gene_scale.set(mean, spread)
    wanted = _wanted(sections, spread, plan, pitch_um=model.config.pitch_um)
    index = [(place, row) for place, one in enumerate(sections) for row in range(len(one.spots))]
    order = np.random.default_rng(plan.seed)
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
                optimiser.backward(_loss(model, sections, wanted, drawn, plan))
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
    plan: FinetunePlan,
) -> Tensor:
    by_section: dict[int, list[int]] = {}
    for place, row in drawn:
        by_section.setdefault(place, []).append(row)
    parts, targets, panels = [], [], []
    for place, rows in by_section.items():
        at = torch.tensor(rows)
        parts.append(sections[place].contexts(at))
        targets.append(wanted[place][at])
        panels.append(torch.from_numpy(sections[place].panel).expand(len(rows), -1))
    images = [part.image for part in parts if part.image is not None]
    contexts = Contexts(
        valid=torch.cat([part.valid for part in parts]),
        xy_um=torch.cat([part.xy_um for part in parts]),
        image=torch.cat(images),
    )
    foretold = model.head.in_spreads(model.head.hidden(model(contexts).spot))
    away = (foretold - torch.cat(targets))[torch.cat(panels)]
    return plan.l1 * away.abs().mean() + plan.l2 * away.square().mean()


def _gene_scale(sections: Sequence[TaughtSection]) -> tuple[Tensor, Tensor]:
    """Mean over all spots, and spread around each section's own mean; 0 and 1 for unseen genes."""
    n_genes = len(sections[0].panel)
    n, total, squares = np.zeros(n_genes), np.zeros(n_genes), np.zeros(n_genes)
    for section in sections:
        values = section.target.astype(np.float64)
        n += len(values) * section.panel
        total += values.sum(axis=0) * section.panel
        squares += ((values - values.mean(axis=0)) ** 2).sum(axis=0) * section.panel
    mean = total / np.maximum(n, 1)
    spread = np.where(n > 0, np.maximum(np.sqrt(squares / np.maximum(n, 1)), _LEAST_SPREAD), 1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(spread).float()


def _wanted(
    sections: Sequence[TaughtSection], spread: Tensor, plan: FinetunePlan, *, pitch_um: float
) -> list[Tensor]:
    """Expression of each section's spots around its own mean, in spreads; a teacher's mixed in.

    Two squared errors, against what was measured and against what a teacher says, have the same
    gradient as one against their weighted mean.
    """
    measured = [
        (section.target - section.target.mean(axis=0)) / spread.numpy() for section in sections
    ]
    if not plan.teacher:
        return [torch.from_numpy(target) for target in measured]
    several = len({section.patient for section in sections}) > 1
    views = [
        TeacherView(
            section.patient if several else section.name,
            near_means(
                section.image.numpy(),
                section.xy_um.numpy(),
                section.around.numpy(),
                pitch_um=pitch_um,
            ),
            target,
        )
        for section, target in zip(sections, measured, strict=True)
    ]
    # A ridge would take a gene that a panel lacks to be at its mean there.
    everywhere = np.all([section.panel for section in sections], axis=0)
    weight = (plan.teacher * everywhere).astype(np.float32)
    taught = zip(measured, foretold_by_others(views), strict=True)
    return [torch.from_numpy((target + weight * said) / (1 + weight)) for target, said in taught]
