"""What was imputed on a left-out section, beside what was measured. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One left-out section under one recipe and seed.

    Attributes
    ----------
    recipe : str
    section, patient : str
    seed : int
    genes : tuple of str
        Chosen on training sections.
    measured, imputed : float32 array, shape (n_spots, n_genes)
        log1p CP10k of the measured spots, in the section's order. ``measured`` is NaN in genes that
        the section's assay did not look for.
    """

    recipe: str
    section: str
    patient: str
    seed: int
    genes: tuple[str, ...]
    measured: NDArray[np.float32]
    imputed: NDArray[np.float32]
