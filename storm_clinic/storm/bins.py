"""Small square bins merged into larger ones: Visium HD's 8 µm bins hold few counts each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.storm.neighbourhood import grid_angle
from storm_clinic.storm.paired import PairedSection

_STRAY = 0.25  # of a pitch, by which a bin may lie off its place on the grid


def merge_bins(section: PairedSection, bin_um: float, *, least_share: float = 0.5) -> PairedSection:
    """Add up neighbouring square bins, such as 7 x 7 bins of 8 µm to one of 56 µm.

    Parameters
    ----------
    section : PairedSection
        On a square grid without gaps between bins; the grid may be turned against the image.
    bin_um : float
        Side of a merged bin; a whole multiple of the section's pitch.
    least_share : float
        A merged bin of which fewer small bins than this share are at hand, as at the edge of the
        tissue, is left out and its small bins are counted.

    Returns
    -------
    PairedSection
        Row by row of the grid; a spot is named by its place (``column x row``), and its centre is
        the bin's, wherever in it tissue is.

    Raises
    ------
    SectionError
        If the grid is not square, the side no multiple, bins do not lie on a grid, or none is left.
    """
    where = f"section {section.name}"
    factor = _factor(section, bin_um, where)
    if not 0 < least_share <= 1:
        raise SectionError(f"least_share must be above 0 to 1, is {least_share}", where=where)
    turn, origin, cells = _cells(section, where)
    places, groups, sizes = np.unique(
        (cells // factor)[:, ::-1], axis=0, return_inverse=True, return_counts=True
    )  # (row, column), so that they come row by row
    groups = groups.reshape(-1)
    kept = sizes >= least_share * factor**2
    if not kept.any():
        raise SectionError(f"no bin of {bin_um} µm is filled to {least_share:.0%}", where=where)
    small = np.arange(section.n_spots)
    into = sparse.csr_array(
        (np.ones(section.n_spots, dtype=np.int64), (groups, small)),
        shape=(len(places), section.n_spots),
    )
    columns_rows = places[kept][:, ::-1]
    middles = (columns_rows * factor + (factor - 1) / 2) * section.pitch_um
    why = f"bins of {section.pitch_um:g} µm in sparse bins of {bin_um:g} µm"
    n_lost = int(sizes[~kept].sum())
    return replace(
        section,
        spot_um=float(bin_um),
        pitch_um=float(bin_um),
        centres_px=(middles @ turn + origin) / section.mpp,
        counts=(into @ section.counts.astype(np.int64))[np.flatnonzero(kept)],
        spots=tuple(f"{x}x{y}" for x, y in columns_rows.tolist()),
        left_out={**section.left_out, **({why: n_lost} if n_lost else {})},
    )


def _factor(section: PairedSection, bin_um: float, where: str) -> int:
    if section.grid != "square":
        raise SectionError(
            f"only square bins can be merged, not a {section.grid} grid", where=where
        )
    factor = bin_um / section.pitch_um
    if not (factor >= 1 and abs(factor - round(factor)) < 1e-6 * factor):
        raise SectionError(
            f"{bin_um} µm is no whole multiple of bins of {section.pitch_um} µm", where=where
        )
    return round(factor)


def _cells(
    section: PairedSection, where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Turn from the grid's axes to the image's, µm of the cell (0, 0), and each bin's cell."""
    centres, pitch = section.centres_um, section.pitch_um
    angle = grid_angle(centres, pitch_um=pitch, grid="square")
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])  # rows: the grid's axes, seen in the image
    straight = (centres - centres[0]) @ turn.T / pitch
    cells = np.rint(straight).astype(np.int64)
    # Each direction's mean phase, so that the first bin's own stray does not move the grid.
    phase = (straight - cells).mean(axis=0)
    off = np.abs(straight - cells - phase).max()
    if off > _STRAY:
        raise SectionError(
            f"a bin lies {off:.2f} of a pitch off the grid",
            where=where,
            fix="Check pitch and µm per pixel.",
        )
    first = cells.min(axis=0)
    origin = centres[0] + ((first + phase) * pitch) @ turn
    cells -= first
    if len(np.unique(cells, axis=0)) < len(cells):
        raise SectionError("two bins lie in one place", where=where)
    return turn, origin, cells
