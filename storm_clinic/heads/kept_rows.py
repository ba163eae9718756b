"""What was worked out of single bags, kept so that no fold works it out again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Key = tuple[str, int, int, int]  # what, and of which rows of which source

MOST_BYTES = 1 << 28  # rows of 1,536 numbers: of 20,000 patients


@dataclass(frozen=True, eq=False)
class KnownMeans:
    """Means of bags of one array, worked out when it was packed.

    Attributes
    ----------
    start, stop : int64 arrays, shape (n,)
        Rows of each bag, ascending; bags without rows are left out.
    means : float64 array or memmap, shape (n, width)
        Of each.
    """

    start: Ints
    stop: Ints
    means: Floats

    def find(self, start: Ints, stop: Ints) -> tuple[Ints, Bools]:
        """Where the means of these bags stand, and of which there are any: both (n_asked,)."""
        place = np.minimum(np.searchsorted(self.start, start), len(self.start) - 1)
        return place, (self.start[place] == start) & (self.stop[place] == stop)


class KeptRows:
    """Rows of numbers by what they say and of which bag; beyond a size no more are kept.

    Another process begins with none: rows are sent nowhere.

    Parameters
    ----------
    sources : tuple of arrays
        That the bags lie in; rows of other arrays are not these.
    """

    def __init__(self, sources: tuple[object, ...]) -> None:
        self.sources = sources
        self._rows: dict[Key, Floats] = {}
        self._n_bytes = 0

    def find(self, key: Key) -> Floats | None:
        """The row, or None where it is not kept; not to be changed."""
        return self._rows.get(key)

    def keep(self, key: Key, row: Floats) -> None:
        """Keep a copy of a row, if there is room."""
        if self._n_bytes + row.nbytes <= MOST_BYTES:
            self._rows[key] = row.copy()
            self._n_bytes += row.nbytes

    def __reduce__(self) -> tuple[type[KeptRows], tuple[tuple[object, ...]]]:
        return KeptRows, (self.sources,)
