"""Rivals of STORM on the same folds: what they see of each section, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.storm.baselines import (
    context_mean,
    hest_probe,
    library_predictor,
    mean_predictor,
    tuned_ridge,
)
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.storm.image_scale import scale_slide
from storm_clinic.storm.neighbourhood import neighbourhoods
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.targets import AssayTarget, of_whole_assay
from storm_clinic.storm.variable_genes import most_variable_genes

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RivalView:
    """A section as rivals see it.

    Attributes
    ----------
    section : PairedSection
        Its measured spots only.
    lattice : PairedSection
        The same spots first, then the points between them.
    image : float32 array, shape (n_points, width)
        Embeddings of the lattice.
    wide : float32 array, shape (n_spots, width)
        Embeddings of a wider field around each spot.
    group : str
        Its section or patient: what is left out together, also where a penalty is chosen.
    """

    section: PairedSection
    lattice: PairedSection
    image: Floats
    wide: Floats
    group: str

    def blocks(self) -> list[Floats]:
        """Each spot's tile, the mean of its 5 x 5 spots', the wider field."""
        tiles = self.image[: self.section.n_spots]
        return [tiles, context_mean(tiles, _around(self.section, 5)), self.wide]

    def scaled_blocks(self) -> list[Floats]:
        """What STORM sees, in a ridge's form: all scaled by slide, and means on the lattice too."""
        n_spots = self.section.n_spots
        image = scale_slide(self.image)
        near = context_mean(image, _around(self.lattice, 3))[:n_spots]
        far = context_mean(image[:n_spots], _around(self.section, 5))
        return [image[:n_spots], near, far, scale_slide(self.wide)]


def hold_out_rival(
    name: str, views: Sequence[RivalView], left_out: Sequence[str], *, n_genes: int
) -> list[HeldOut]:
    """Fit a rival on all other sections, and let it say what it says of those left out.

    Parameters
    ----------
    name : str
        A key of ``RIVALS``.
    views : sequence of RivalView
        All sections.
    left_out : sequence of str
        Names of sections.
    n_genes : int
        How many of the training sections' most variable genes are looked at.
    """
    training = [view for view in views if view.section.name not in left_out]
    chosen = most_variable_genes((view.section for view in training), n_genes)
    targets = [_target(view.section, chosen) for view in training]
    found = []
    for view in views:
        if view.section.name not in left_out:
            continue
        own = _target(view.section, chosen)
        imputed = RIVALS[name](training, targets, view)
        found.append(
            HeldOut(
                name,
                view.section.name,
                view.section.patient,
                0,
                chosen.symbols,
                np.where(own.known, own.values, np.nan).astype(np.float32),
                imputed.astype(np.float32),
            )
        )
    return found


def _target(section: PairedSection, chosen: GeneVocabulary) -> AssayTarget:
    return of_whole_assay(section.counts, section.symbols, chosen)


def _around(section: PairedSection, side: int) -> NDArray[np.int64]:
    return neighbourhoods(
        section.centres_um,
        pitch_um=section.pitch_um,
        grid=section.grid,
        side=3 if side == 3 else 5,
    ).rows


def _values(targets: Sequence[AssayTarget]) -> list[Floats]:
    return [target.values for target in targets]


def _mean(training: Sequence[RivalView], targets: Sequence[AssayTarget], view: RivalView) -> Floats:
    del training
    return np.asarray(mean_predictor(_values(targets), view.section.n_spots), dtype=np.float32)


def _library(
    training: Sequence[RivalView], targets: Sequence[AssayTarget], view: RivalView
) -> Floats:
    del training
    own = np.asarray(view.section.counts.sum(axis=1)).reshape(-1)
    libraries = [target.library for target in targets]
    return np.asarray(library_predictor(libraries, _values(targets), own), dtype=np.float32)


def _probe(
    training: Sequence[RivalView], targets: Sequence[AssayTarget], view: RivalView
) -> Floats:
    tiles = [one.image[: one.section.n_spots] for one in training]
    own = view.image[: view.section.n_spots]
    return np.asarray(hest_probe(tiles, _values(targets), own), dtype=np.float32)


def _ridge(
    training: Sequence[RivalView], targets: Sequence[AssayTarget], view: RivalView
) -> Floats:
    return _tuned(training, targets, view, RivalView.blocks)


def _scaled(
    training: Sequence[RivalView], targets: Sequence[AssayTarget], view: RivalView
) -> Floats:
    return _tuned(training, targets, view, RivalView.scaled_blocks)


def _tuned(
    training: Sequence[RivalView],
    targets: Sequence[AssayTarget],
    view: RivalView,
    blocks: Callable[[RivalView], list[Floats]],
) -> Floats:
    """A ridge whose penalty is chosen by leaving groups out; sections, where there is one group."""
    grouped = len({one.group for one in training}) > 1
    parts: dict[str, list[tuple[list[Floats], Floats]]] = {}
    for one, target in zip(training, targets, strict=True):
        key = one.group if grouped else one.section.name
        parts.setdefault(key, []).append((blocks(one), target.values))
    features = [
        [np.concatenate(same) for same in zip(*(one[0] for one in part), strict=True)]
        for part in parts.values()
    ]
    values = [np.concatenate([one[1] for one in part]) for part in parts.values()]
    return np.asarray(tuned_ridge(features, values, blocks(view)), dtype=np.float32)


_Rival = Callable[[Sequence[RivalView], Sequence[AssayTarget], RivalView], Floats]
RIVALS: Mapping[str, _Rival] = {
    "mean": _mean,
    "library": _library,
    "hest-probe": _probe,
    "ridge": _ridge,
    "ridge, scaled by slide": _scaled,
}
