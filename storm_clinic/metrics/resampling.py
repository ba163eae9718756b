"""Bootstrap resamples of patients as rows of case weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Floats, Ints
from storm_clinic.errors import StatisticsError

_BLOCK_VALUES = 2_000_000  # weights held at once: 16 MB


def resample(
    compute: Callable[[Floats], Floats],
    n_patients: int,
    *,
    n: int,
    seed: int,
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
) -> Floats:
    """Values of ``compute`` on ``n`` bootstrap resamples, shape (n, ...)."""
    if n < 1:
        raise StatisticsError(f"{n} resamples", fix="Ask for at least one.")
    blocks = _weights(n_patients, n, np.random.default_rng(seed), strata, clusters)
    return np.concatenate([compute(block) for block in blocks])


def _weights(
    n_patients: int,
    n: int,
    rng: np.random.Generator,
    strata: ArrayLike | None,
    clusters: ArrayLike | None,
) -> Iterator[Floats]:
    if strata is not None and clusters is not None:
        raise StatisticsError("resample inside strata or whole clusters, not both")
    rows = max(1, _BLOCK_VALUES // n_patients)
    for start in range(0, n, rows):
        b = min(rows, n - start)
        if clusters is not None:
            codes = label_codes(clusters, n_patients, "clusters")
            yield _draw(rng, b, int(codes.max()) + 1)[:, codes]
        elif strata is not None:
            codes = label_codes(strata, n_patients, "strata")
            block = np.empty((b, n_patients))
            for code in range(int(codes.max()) + 1):
                members = np.flatnonzero(codes == code)
                block[:, members] = _draw(rng, b, len(members))
            yield block
        else:
            yield _draw(rng, b, n_patients)


def _draw(rng: np.random.Generator, rows: int, size: int) -> Floats:
    """How often each of ``size`` units is drawn in ``size`` draws, for each row."""
    drawn = rng.integers(0, size, size=(rows, size))
    drawn += np.arange(rows)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def label_codes(labels: ArrayLike, n_patients: int, what: str) -> Ints:
    """Number the labels 0, 1, ... in sorted order, one label a patient."""
    array = np.asarray(labels)
    if array.shape != (n_patients,):
        raise StatisticsError(f"{what} of shape {array.shape} for {n_patients} patients")
    levels, codes = np.unique(array, return_inverse=True)
    if what == "clusters" and len(levels) < 2:
        raise StatisticsError("one cluster", fix="At least two are needed to see how they differ.")
    return codes.astype(np.int64)
