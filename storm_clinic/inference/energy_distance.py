"""Whether two samples of patients come from one distribution, by distances between patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError

_BLOCK_VALUES = 2_000_000  # indicators held at once: 16 MB


@dataclass(frozen=True)
class EnergyTest:
    """The energy distance of two samples, and its test.

    Attributes
    ----------
    distance : float
        2 E|X - Y| - E|X - X'| - E|Y - Y'|, over all pairs of the two samples (each patient with
        himself too): never negative, in the unit of the values.
    statistic : float
        ``distance`` times n m / (n + m), as R's ``energy::eqdist.etest`` prints it.
    coefficient : float
        ``distance`` / (2 E|X - Y|), from 0 (alike) to 1; 0 where all values are equal.
    p : float
        (1 + permutations at least as far apart) / (1 + permutations); never 0.
    n_first, n_second, permutations : int
    """

    distance: float
    statistic: float
    coefficient: float
    p: float
    n_first: int
    n_second: int
    permutations: int


def energy_test(
    first: ArrayLike, second: ArrayLike, *, permutations: int = 9_999, seed: int = 0
) -> EnergyTest:
    """Compare two samples in all respects at once: place, spread, shape.

    The energy distance is 0 if and only if both distributions are the same. Labels are dealt out
    anew among the patients, which is exact whatever the distribution and the number of values.

    With the matrix of distances centred in rows and columns, its sign turned, the distance is
    (n + m)² / (n m)² times the sum of its entries among patients of one sample; so all
    permutations are one matrix product.

    Parameters
    ----------
    first : float array, shape (n, n_values)
        Finite, on a common scale (e.g. standard deviations).
    second : float array, shape (m, n_values)
        The other sample.
    permutations : int
        At least 19, so that p can reach 0.05.
    seed : int
        Equal seeds give equal permutations.

    Raises
    ------
    StatisticsError
        If a sample has fewer than two patients or a value that is not finite, widths differ, or
        there are too few permutations.

    References
    ----------
    Székely & Rizzo, InterStat 5 (2004) 1-6; J. Stat. Plan. Inference 143 (2013) 1249-1272.
    Rizzo & Székely, Ann. Appl. Stat. 4 (2010) 1034-1055 (the coefficient). Phipson & Smyth, Stat.
    Appl. Genet. Mol. Biol. 9 (2010) 39 (p is never 0).
    """
    x, y = _checked(first, "first"), _checked(second, "second")
    if x.shape[1] != y.shape[1]:
        raise StatisticsError(
            f"{x.shape[1]} values a patient in one sample, {y.shape[1]} in the other"
        )
    if permutations < 19:
        raise StatisticsError(f"{permutations} permutations", fix="Ask for at least 19.")
    n, m = len(x), len(y)
    pooled = np.concatenate([x, y])
    distances = cdist(pooled, pooled)
    between = float(distances[:n, n:].mean())
    means = distances.mean(axis=0)
    centred = means[:, None] + means[None, :] - means.mean() - distances
    scale = ((n + m) / (n * m)) ** 2
    # The smaller sample is the one that is drawn; the other's sum is the same.
    chosen = np.arange(n) if n <= m else np.arange(n, n + m)
    indicator = np.zeros((1, n + m))
    indicator[0, chosen] = 1.0
    distance = max(0.0, float(scale * _sums_within(centred, indicator)[0]))
    as_far = 0
    # Equal up to rounding counts as equal: sums in another order differ in the last digit.
    limit = distance / scale - 1e-12 * float(np.abs(centred).sum())
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK_VALUES // (n + m))
    for start in range(0, permutations, rows):
        block = np.tile(indicator, (min(rows, permutations - start), 1))
        as_far += int((_sums_within(centred, rng.permuted(block, axis=1)) >= limit).sum())
    return EnergyTest(
        distance=distance,
        statistic=distance * n * m / (n + m),
        coefficient=distance / (2 * between) if between > 0 else 0.0,
        p=(1 + as_far) / (1 + permutations),
        n_first=n,
        n_second=m,
        permutations=permutations,
    )


def _sums_within(centred: Floats, indicators: Floats) -> Floats:
    """Sum of the entries among the patients of each row of indicators, shape (n_rows,)."""
    return np.asarray(((indicators @ centred) * indicators).sum(axis=1), dtype=np.float64)


def _checked(values: ArrayLike, which: str) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise StatisticsError(
            f"the {which} sample has shape {x.shape}, or a value that is not finite",
            fix="Give a row a patient, at least two; leave out who has none.",
        )
    return x
