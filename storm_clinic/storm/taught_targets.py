"""What a network is taught of each spot: what was measured, and what makes it less noisy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.errors import TrainingError
from storm_clinic.storm.linear_teacher import TeacherView, foretold_by_others, near_means
from storm_clinic.storm.taught_section import TaughtSection

Floats = NDArray[np.float32]

_LEAST_SPREAD = 0.1  # of log1p CP10k: a gene seen in one spot of a thousand shall not rule a loss


def gene_scale(sections: Sequence[TaughtSection]) -> tuple[Tensor, Tensor]:
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


def wanted_of_spots(
    sections: Sequence[TaughtSection],
    spread: Tensor,
    *,
    teacher: float,
    gene_axes: int,
    pitch_um: float,
) -> list[Tensor]:
    """Expression of each section's spots around its own mean, in spreads, as it is to be learned.

    Two squared errors, against what was measured and against what a teacher says, have the same
    gradient as one against their weighted mean. The same holds for what half of the target is
    replaced by.

    Parameters
    ----------
    sections : sequence of TaughtSection
        Training sections only.
    spread : float tensor, shape (n_genes,)
        From `gene_scale`.
    teacher, gene_axes
        See `FinetunePlan`.
    pitch_um : float
        One step of distance, for the teacher.

    Returns
    -------
    list of float32 tensor, shape (n_spots, n_genes)

    Raises
    ------
    TrainingError
        If there are too few sections or patients for a teacher, or too few spots or genes for the
        axes.
    """
    wanted = [
        (section.target - section.target.mean(axis=0)) / spread.numpy() for section in sections
    ]
    # Neither a ridge nor an axis of genes can tell a gene that a panel lacks from one at its mean.
    everywhere = np.all([section.panel for section in sections], axis=0)
    if teacher:
        wanted = _taught_too(sections, wanted, teacher * everywhere, pitch_um=pitch_um)
    if gene_axes:
        wanted = half_along_axes(wanted, gene_axes, everywhere)
    return [torch.from_numpy(target) for target in wanted]


def half_along_axes(
    targets: Sequence[Floats], n_axes: int, taking_part: NDArray[np.bool_]
) -> list[Floats]:
    """Halfway between targets and their part along the leading principal axes of genes.

    Parameters
    ----------
    targets : sequence of float32 array, shape (n_spots, n_genes)
        Around each section's mean, so that the axes are those of tissue and not of sections.
    n_axes : int
        How many.
    taking_part : bool array, shape (n_genes,)
        Other genes stay as they are.

    Raises
    ------
    TrainingError
        If all spots and genes together do not have as many axes.
    """
    genes = np.flatnonzero(taking_part)
    values = np.concatenate(targets)[:, genes].astype(np.float64)
    if n_axes > min(values.shape):
        raise TrainingError(
            f"{values.shape[0]} spots of {values.shape[1]} genes do not have {n_axes} axes",
            where="axes of genes",
            fix="Lower gene_axes.",
        )
    variances, directions = np.linalg.eigh(values.T @ values)
    axes = directions[:, np.argsort(-variances, kind="stable")[:n_axes]]
    found = []
    for target in targets:
        half = target.copy()
        own = target[:, genes].astype(np.float64)
        half[:, genes] = (own + own @ axes @ axes.T) / 2
        found.append(half)
    return found


def _taught_too(
    sections: Sequence[TaughtSection],
    measured: Sequence[Floats],
    weight: NDArray[np.float64],
    *,
    pitch_um: float,
) -> list[Floats]:
    """What was measured, and what a ridge on the other sections says, by its weight a gene."""
    several = len({section.patient for section in sections}) > 1
    views = [
        TeacherView(
            section.patient if several else section.name,
            near_means(
                section.image.mean(dim=0).numpy(),  # a ridge errs less on the mean of all looks
                section.xy_um.numpy(),
                section.around.numpy(),
                pitch_um=pitch_um,
            ),
            target,
        )
        for section, target in zip(sections, measured, strict=True)
    ]
    taught = zip(measured, foretold_by_others(views), strict=True)
    return [((target + weight * said) / (1 + weight)).astype(np.float32) for target, said in taught]
