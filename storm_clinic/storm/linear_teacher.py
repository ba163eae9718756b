"""What a ridge says of sections that it has not seen: a second, smoother target for the network.

A measured spot is one noisy draw of its expression. A ridge on H&E around spots errs in other ways
than a network does, and foretells a section from the others without that section's noise. A network
that is taught by both is better than either (distillation, with the cross-fitting that keeps a
teacher from repeating what it learned by heart). Imports no torch.

References
----------
Hinton et al., Distilling the knowledge in a neural network, arXiv 1503.02531 (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import TrainingError
from storm_clinic.storm.baselines import tuned_alpha
from storm_clinic.storm.dual_ridge import DualRidge

Floats = NDArray[np.float32]

_REACHES = (0.5, 1.5)  # pitches: the spot with little else, and its whole neighbourhood
_LEAST_GROUPS = 3  # one to foretell, and two others of which each in turn chooses a penalty
_ROWS = 512


@dataclass(frozen=True, eq=False)
class TeacherView:
    """One section as the ridge sees it.

    Attributes
    ----------
    group : str
        What it must not be foretold from: its patient, or itself where all are of one.
    blocks : list of float32 array, shape (n_spots, image_width)
        See `near_means`.
    target : float32 array, shape (n_spots, n_genes)
        What the network is taught.
    """

    group: str
    blocks: list[Floats]
    target: Floats


def near_means(
    image: NDArray[Any], xy_um: NDArray[Any], around: NDArray[Any], *, pitch_um: float
) -> list[Floats]:
    """Mean embedding around each spot, falling with distance: exp(-distance / reach).

    Parameters
    ----------
    image : float array, shape (n_points, image_width)
        Embeddings of all points of a section.
    xy_um : float array, shape (n_points, 2)
        Their centres in µm.
    around : int array, shape (n_spots, n_slots)
        Points around each spot, -1 where there is none, itself in the middle.
    pitch_um : float
        In which the two reaches are counted.

    Returns
    -------
    list of float32 array, shape (n_spots, image_width)
        One a reach, half a pitch and one and a half.
    """
    present, points = around >= 0, around.clip(min=0)
    centre = xy_um[points[:, around.shape[1] // 2]]
    steps = np.linalg.norm(xy_um[points] - centre[:, None], axis=-1) / pitch_um
    found = []
    for reach in _REACHES:
        weights = np.exp(-steps / reach) * present
        weights /= weights.sum(axis=1, keepdims=True)
        mean = np.empty((len(around), image.shape[1]), dtype=np.float32)
        for first in range(0, len(around), _ROWS):
            rows = slice(first, first + _ROWS)
            mean[rows] = np.einsum("ns,nsw->nw", weights[rows], image[points[rows]])
        found.append(mean)
    return found


def foretold_by_others(views: Sequence[TeacherView]) -> list[Floats]:
    """Each section as a ridge tuned and fitted on all other groups foretells it.

    Parameters
    ----------
    views : sequence of TeacherView
        Training sections only.

    Returns
    -------
    list of float32 array, shape (n_spots, n_genes)
        In their order, each around its own mean.

    Raises
    ------
    TrainingError
        If there are fewer than three groups.
    """
    groups = list(dict.fromkeys(view.group for view in views))
    if len(groups) < _LEAST_GROUPS:
        raise TrainingError(
            f"{len(groups)} sections or patients, and a teacher takes {_LEAST_GROUPS}: one to "
            "foretell, two to choose its penalty on",
            where="teacher of STORM",
            fix="Give more sections, or set teacher to 0.",
        )
    found: dict[int, Floats] = {}
    for group in groups:
        others = [
            [view for view in views if view.group == other] for other in groups if other != group
        ]
        blocks = [
            [np.concatenate(same) for same in zip(*(view.blocks for view in part), strict=True)]
            for part in others
        ]
        targets = [np.concatenate([view.target for view in part]) for part in others]
        alpha = tuned_alpha(blocks, targets)
        for place, view in enumerate(views):
            if view.group == group:
                said = DualRidge(blocks, targets, view.blocks).predict(alpha)
                found[place] = (said - said.mean(axis=0)).astype(np.float32)
    return [found[place] for place in range(len(views))]
