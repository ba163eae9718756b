"""How well each gene was imputed on tissue that the network had not seen. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import CheckpointError

_ARRAYS = ("r", "lower", "upper")


@dataclass(frozen=True, eq=False)
class GeneReliability:
    """Held-out correlation of each gene of a vocabulary, with its interval.

    Attributes
    ----------
    r, lower, upper : float32 array, shape (n_genes,)
        Pearson correlation of measured and imputed expression, and its interval, in the order of
        the vocabulary. NaN in all three where a gene was not evaluated.
    how : str
        What was held out, as a sentence: "leave one section out, 5 sections of 1 patient, 3 seeds".

    Raises
    ------
    CheckpointError
        If lengths differ, a value is no correlation, an interval does not hold its estimate, or
        ``how`` is empty.
    """

    r: NDArray[np.float32]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    how: str

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        problem = self._problem()
        if problem:
            raise CheckpointError(problem, where="reliability of genes")

    def _problem(self) -> str | None:
        shapes = [getattr(self, name).shape for name in _ARRAYS]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            return f"r, lower and upper must have one length, are {shapes}"
        known = np.isfinite(self.r)
        for name in ("lower", "upper"):
            if not np.array_equal(known, np.isfinite(getattr(self, name))):
                return f"{name} is known for other genes than r"
        within = (
            (self.lower >= -1) & (self.lower <= self.r) & (self.r <= self.upper) & (self.upper <= 1)
        )
        if not within[known].all():
            place = int(np.flatnonzero(known & ~within)[0])
            found = ", ".join(f"{name} {getattr(self, name)[place]:g}" for name in _ARRAYS)
            return f"gene {place}: {found}; must be -1 <= lower <= r <= upper <= 1"
        if not self.how.strip():
            return "nothing says how it was measured"
        return None

    def __len__(self) -> int:
        return len(self.r)

    def exceeds(self, threshold: float) -> NDArray[np.bool_]:
        """Genes whose lower bound lies above a threshold; never one that was not evaluated."""
        return np.asarray(self.lower > threshold)  # NaN exceeds nothing

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The three arrays by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], how: str) -> GeneReliability:
        """What `to_arrays` gave.

        Raises
        ------
        CheckpointError
            If an array is missing or unknown, or values cannot be.
        """
        wrong = sorted(set(arrays) ^ set(_ARRAYS))
        if wrong:
            raise CheckpointError(
                f"missing or unknown array {', '.join(wrong)}", where="reliability of genes"
            )
        return cls(**arrays, how=how)
