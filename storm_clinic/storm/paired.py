"""A section whose H&E and expression were measured on the same spots, in one typed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.slides.mpp import is_plausible

Grid = Literal["square", "hexagonal"]


@dataclass(frozen=True, eq=False)
class PairedSection:
    """Spots of one section: where they lie on its image, and what was counted in them.

    Attributes
    ----------
    name : str
    patient : str
        The unit of splitting: sections of one patient never stand on both sides.
    technology : str
        ``st``, ``visium``, ``visium_hd``, ``xenium``, ``cosmx``, or as a file names it.
    grid : "square" or "hexagonal"
        How spots are packed.
    spot_um, pitch_um : float
        A spot's diameter (a square bin's side), and the distance between nearest centres, in µm.
    image : Path or None
        The picture that ``centres_px`` refers to; None where only expression is at hand.
    mpp : float
        Microns per pixel of that picture's level 0.
    centres_px : float64 array, shape (n_spots, 2)
        Centres (x, y) in level-0 pixels of the image.
    counts : sparse CSR array of int32, shape (n_spots, n_symbols)
        Raw counts.
    symbols : tuple of str
        One name a column of counts, as the assay names its genes.
    spots : tuple of str
        Barcodes or names, none twice.
    left_out : mapping of str to int
        Why spots or transcripts of the source are not in here, and how many.

    Raises
    ------
    SectionError
        If anything contradicts: sizes, raw counts that are none, a pitch that is not a length.
    """

    name: str
    patient: str
    technology: str
    grid: Grid
    spot_um: float
    pitch_um: float
    image: Path | None
    mpp: float
    centres_px: NDArray[np.float64]
    counts: Any
    symbols: tuple[str, ...]
    spots: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = raw_counts(self.counts, where=self.name)
        object.__setattr__(self, "counts", counts)
        centres = np.asarray(self.centres_px, dtype=np.float64)
        object.__setattr__(self, "centres_px", centres)
        problem = self._problem(centres)
        if problem:
            raise SectionError(problem, where=f"section {self.name}")

    def _problem(self, centres: NDArray[np.float64]) -> str | None:
        n_spots, n_symbols = self.counts.shape
        if not self.name or not self.patient:
            return "name and patient must not be empty"
        if self.grid not in ("square", "hexagonal"):
            return f"grid must be square or hexagonal, is {self.grid!r}"
        if not (0 < self.spot_um < np.inf and 0 < self.pitch_um < np.inf):
            return f"spot ({self.spot_um} µm) and pitch ({self.pitch_um} µm) must be lengths"
        if not is_plausible(self.mpp):
            return f"{self.mpp} µm per pixel cannot be"
        if centres.shape != (n_spots, 2) or len(self.spots) != n_spots:
            return (
                f"{n_spots} rows of counts, but centres of shape {centres.shape} "
                f"and {len(self.spots)} names of spots"
            )
        if not n_spots:
            return "has no spots"
        if len(self.symbols) != n_symbols:
            return f"{n_symbols} columns of counts, but {len(self.symbols)} symbols"
        if not np.isfinite(centres).all():
            return "a centre is not a number"
        if len(set(self.spots)) != n_spots:
            return "a spot occurs twice"
        return None

    @property
    def n_spots(self) -> int:
        return len(self.spots)

    @property
    def centres_um(self) -> NDArray[np.float64]:
        """Centres (x, y) in µm from the image's top-left corner, shape (n_spots, 2)."""
        return self.centres_px * self.mpp

    def subset(self, rows: Sequence[int] | NDArray[Any], *, why: str) -> PairedSection:
        """The section with these spots only; ``why`` the others are left out is kept."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return replace(
            self,
            centres_px=self.centres_px[rows],
            counts=self.counts[rows],
            spots=tuple(self.spots[row] for row in rows),
            left_out={**self.left_out, why: self.n_spots - len(rows)},
        )


def raw_counts(counts: Any, *, where: str | Path) -> Any:
    """Counts as a CSR array of int32.

    Parameters
    ----------
    counts : sparse or dense array, shape (n_spots, n_symbols)
        Integers, of any number type.
    where : str or Path
        What an error names.

    Raises
    ------
    SectionError
        If a value is negative, is no whole number or does not fit: then these are no raw counts.
    """
    table = sparse.csr_array(counts, copy=True)  # the caller keeps its own as it is
    table.sum_duplicates()
    values = table.data
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(values) & (values == np.floor(values))
    fits = whole & (values >= 0) & (values <= np.iinfo(np.int32).max)
    if not fits.all():
        raise SectionError(
            f"{int((~fits).sum())} values are no raw counts, such as {values[~fits][0]}",
            where=where,
            fix="Give counts before any normalisation or logarithm.",
        )
    return table.astype(np.int32)
