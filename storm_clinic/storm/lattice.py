"""More of a section's H&E than its spots show: points between them, without counts.

An assay that leaves gaps between its spots has gaps in its expression, not in its image. Embedded on
a finer lattice the image is seen whole, at the step at which slides are tiled later.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from storm_clinic.errors import SectionError
from storm_clinic.storm.neighbourhood import grid_angle
from storm_clinic.storm.paired import PairedSection


_NEAR = 0.6  # of a step: two points that one place of the lattice was meant for


def with_points_between(section: PairedSection, parts: int) -> PairedSection:
    """The section with points between its spots that have no counts.

    Spots come first and stay as they are; a point lies within half a pitch of a spot, along the
    directions of the grid. What counts is left to those who read: a spot without a count was not
    measured, and stands in no loss (see `targets.Target`).

    Parameters
    ----------
    section : PairedSection
        On a square grid.
    parts : int
        Into how many steps the pitch is divided; 1 gives the section itself.

    Returns
    -------
    PairedSection
        Its pitch is ``pitch_um / parts``. Where arrays stray from their grid and points of two spots
        nearly coincide, the first spot's is kept.

    Raises
    ------
    SectionError
        If the grid is not square, or ``parts`` is below 1.
    """
    if parts < 1 or section.grid != "square":
        raise SectionError(
            f"a {section.grid} grid cannot be divided into {parts}",
            where=f"section {section.name}",
            fix="Give a square grid and a whole number from 1.",
        )
    if parts == 1:
        return section
    step_um = section.pitch_um / parts
    reach = np.arange(-(parts // 2), parts // 2 + 1) * step_um
    x, y = np.meshgrid(reach, reach)
    angle = grid_angle(section.centres_um, pitch_um=section.pitch_um, grid="square")
    cos, sin = np.cos(angle), np.sin(angle)
    offsets = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1).reshape(-1, 2)
    offsets = offsets[np.abs(offsets).sum(axis=1) > 0]
    candidates = (section.centres_um[:, None] + offsets).reshape(-1, 2)
    between = candidates[_apart(section.centres_um, candidates, _NEAR * step_um)]
    empty = sparse.csr_array((len(between), len(section.symbols)), dtype=np.int32)
    return replace(
        section,
        pitch_um=step_um,
        centres_px=np.vstack([section.centres_px, between / section.mpp]),
        counts=sparse.vstack([section.counts, empty], format="csr"),
        spots=(*section.spots, *(f"between {place}" for place in range(len(between)))),
    )


def _apart(spots: np.ndarray, candidates: np.ndarray, radius_um: float) -> np.ndarray:
    """Places of candidates that are farther than a radius from spots and from earlier ones."""
    near_spot = cKDTree(spots).query(candidates)[0] < radius_um
    tree = cKDTree(candidates)
    taken = near_spot.copy()
    kept = []
    for place in np.flatnonzero(~near_spot):
        if taken[place]:
            continue
        kept.append(place)
        taken[tree.query_ball_point(candidates[place], radius_um)] = True
    return np.array(kept, dtype=np.int64)
