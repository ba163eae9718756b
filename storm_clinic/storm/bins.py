"""Small square bins merged into larger ones: Visium HD's 8 µm bins hold few counts each."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.storm.neighbourhood import grid_angle
from storm_clinic.storm.paired import PairedSection

_STRAY = 0.25  # of a pitch, by which a bin may lie off its place on the grid
_DISAGREEMENT = 0.05  # between stated and measured pitch, as when a run of Space Ranger is read
_FIRST = 100  # bins from which the grid is measured first


class _Grid(NamedTuple):
    """Bins in a square grid that was fitted to them; x + iy stands for a place.

    Attributes
    ----------
    cells : int64 array, shape (n, 2)
        Column and row of each bin, from 0.
    origin_um, step_um : complex
        Place of the cell (0, 0), and the way to the next column; the next row lies a quarter turn
        on.
    """

    cells: NDArray[np.int64]
    origin_um: complex
    step_um: complex


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
        the bin's, wherever in it tissue is. Every count of a small bin is in its large one, or the
        small bin is counted in ``left_out``.

    Raises
    ------
    SectionError
        If the grid is not square, the side no multiple, bins do not lie on a grid of that pitch
        within 5%, or none is left.
    """
    where = f"section {section.name}"
    factor = _factor(section, bin_um, where)
    if not 0 < least_share <= 1:
        raise SectionError(f"least_share must be above 0 to 1, is {least_share}", where=where)
    grid = _fitted_grid(section, where)
    large = grid.cells // factor
    n_columns = int(large[:, 0].max()) + 1
    # Numbered row by row.
    places, groups, sizes = np.unique(
        large[:, 1] * n_columns + large[:, 0], return_inverse=True, return_counts=True
    )
    kept = sizes >= least_share * factor**2
    if not kept.any():
        raise SectionError(f"no bin of {bin_um} µm is filled to {least_share:.0%}", where=where)
    into = sparse.csr_array(
        (np.ones(section.n_spots, dtype=np.int64), (groups, np.arange(section.n_spots))),
        shape=(len(places), section.n_spots),
    )
    rows, columns = np.divmod(places[kept], n_columns)
    middles = (columns + 1j * rows) * factor + (1 + 1j) * (factor - 1) / 2
    centres = grid.origin_um + grid.step_um * middles
    why = f"bins of {section.pitch_um:g} µm in sparse bins of {bin_um:g} µm"
    n_lost = int(sizes[~kept].sum())
    return replace(
        section,
        spot_um=float(bin_um),
        pitch_um=float(bin_um),
        centres_px=np.stack([centres.real, centres.imag], axis=1) / section.mpp,
        counts=(into @ section.counts)[np.flatnonzero(kept)],
        spots=tuple(f"{x}x{y}" for x, y in zip(columns.tolist(), rows.tolist(), strict=True)),
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


def _fitted_grid(section: PairedSection, where: str) -> _Grid:
    """Column and row of every bin.

    Stated pitch and scale are too coarse to number 800 bins of one row, let alone 3,000: one part
    in a thousand is a whole bin at the end. So turn and step are measured from the middle outwards,
    each time over four times as many bins as before.
    """
    pitch, centres = section.pitch_um, section.centres_um
    start = centres[np.square(centres - np.median(centres, axis=0)).sum(axis=1).argmin()]
    places = np.ascontiguousarray(centres - start).view(np.complex128)[:, 0] / pitch
    n = len(places)
    outwards = np.argsort(np.abs(places), kind="stable")
    angle = grid_angle(centres[outwards[:_FIRST]], pitch_um=pitch, grid="square")
    step, origin = np.exp(1j * angle), 0j
    n_near = min(n, _FIRST)
    while True:
        near = places[outwards[:n_near]]
        step, origin = _fit(near, _nearest((near - origin) / step), step)
        if n_near == n:
            break
        n_near = min(n, 4 * n_near)
    straight = (places - origin) / step
    nearest = _nearest(straight)
    off = straight - nearest
    worst = float(max(np.abs(off.real).max(), np.abs(off.imag).max()))
    if worst > _STRAY or abs(abs(step) - 1) > _DISAGREEMENT:
        raise SectionError(
            f"bins lie {abs(step) * pitch:.4g} µm apart, up to {worst:.2f} of that off the grid",
            where=where,
            fix=f"Check µm per pixel and the pitch, which is said to be {pitch:g} µm.",
        )
    cells = np.stack([nearest.real, nearest.imag], axis=1).astype(np.int64)
    first = cells.min(axis=0)
    cells -= first
    n_taken = len(np.unique(cells[:, 1] * (int(cells[:, 0].max()) + 1) + cells[:, 0]))
    if n_taken < n:
        raise SectionError("two bins lie in one place", where=where)
    origin_um = complex(*start) + (origin + step * complex(*first)) * pitch
    return _Grid(cells, complex(origin_um), complex(step * pitch))


def _nearest(straight: NDArray[np.complex128]) -> NDArray[np.complex128]:
    nearest: NDArray[np.complex128] = np.rint(straight.real) + 1j * np.rint(straight.imag)
    return nearest


def _fit(
    places: NDArray[np.complex128], cells: NDArray[np.complex128], step: complex
) -> tuple[complex, complex]:
    """Step and origin of least squares; the step stays where all bins are in one cell."""
    away = cells - cells.mean()
    spread = float(np.vdot(away, away).real)
    if spread > 0:
        step = complex(np.vdot(away, places)) / spread
    return step, complex(places.mean() - step * cells.mean())
