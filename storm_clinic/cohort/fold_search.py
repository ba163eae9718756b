"""Search for folds of whole groups in which patients and strata are spread evenly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_RESTARTS = 24
_MANY_GROUPS = 150  # beyond, small groups balance without swaps and restarts
_LACKING = 1e9  # costs more than any imbalance


def deal(strata: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Deal patients to folds like cards, stratum after stratum; shape (n_patients,).

    Folds differ by one patient at most, in all and within each stratum.
    """
    shuffled = rng.permutation(len(strata))
    by_stratum = shuffled[np.argsort(strata[shuffled], kind="stable")]
    fold = np.empty(len(strata), dtype=np.int64)
    fold[by_stratum] = rng.permutation(folds)[np.arange(len(strata)) % folds]
    return fold


def relabel(fold: Ints) -> Ints:
    """Number folds in order of first appearance, so that equal partitions are equal arrays."""
    _, first, inverse = np.unique(fold, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def arrange_groups(
    counts: Ints, required: NDArray[np.bool_], folds: int, repeats: int, seed: int
) -> list[Ints]:
    """Distinct assignments of groups to folds: the best first, then those least like it.

    From random starts, groups are moved and swapped while that lowers the cost: the sum over
    folds and strata of (n - expected)^2 / expected, and the same for fold sizes. Later repeats
    may cost up to ``folds - 1`` more than the best, less than dealing single patients at random
    would by chance, and are chosen to share as few pairs of patients with earlier ones as can be.

    Parameters
    ----------
    counts : int array, shape (n_groups, n_strata)
        Patients of each group in each stratum.
    required : bool array, shape (n_strata,)
        Strata that no fold may lack.
    folds : int
        How many.
    repeats : int
        How many assignments at most.
    seed : int
        Of the random starts.

    Returns
    -------
    list of int arrays, shape (n_groups,)
        Empty if no assignment was found in which every fold has every required stratum.
    """
    cost = _Cost(counts, required, folds)
    rng = np.random.default_rng(seed)
    restarts = _RESTARTS if len(counts) <= _MANY_GROUPS else 2
    pool: dict[bytes, tuple[float, Ints]] = {}
    for _ in range(restarts * repeats):
        total, fold = _search(cost, rng)
        pool[fold.tobytes()] = (total, fold)
    best = min(total for total, _ in pool.values())
    if best >= _LACKING:
        return []
    good = sorted(
        (entry for entry in pool.values() if entry[0] <= best + folds - 1), key=lambda e: e[0]
    )
    return _unlike([fold for _, fold in good], counts.sum(axis=1), repeats)


def _unlike(good: list[Ints], sizes: Ints, n: int) -> list[Ints]:
    """The first, then each time the one with fewest pairs of patients in common with those."""
    chosen = [0]
    shared = np.zeros(len(good))
    while len(chosen) < min(n, len(good)):
        shared += [_pairs_in_both(fold, good[chosen[-1]], sizes) for fold in good]
        left = np.setdiff1d(np.arange(len(good)), chosen)
        chosen.append(int(left[np.argmin(shared[left])]))
    return [good[at] for at in chosen]


def _pairs_in_both(one: Ints, other: Ints, sizes: Ints) -> float:
    """Twice the pairs of patients that share a fold in both, up to a constant."""
    cells = np.bincount(one * (int(other.max()) + 1) + other, weights=sizes)
    return float((cells**2).sum())


class _Cost:
    """How far loads of folds are from even, and what a change would do."""

    def __init__(self, counts: Ints, required: NDArray[np.bool_], folds: int) -> None:
        sizes = counts.sum(axis=1, keepdims=True)
        self.counts = np.hstack([counts, sizes]).astype(np.float64)
        self.expected = self.counts.sum(axis=0) / folds
        self.required = np.append(required, True)
        self.folds = folds

    def of(self, load: Floats) -> Floats:
        """Cost of folds with these loads (..., n_strata + 1)."""
        uneven = ((load - self.expected) ** 2 / self.expected).sum(axis=-1)
        lacking = (load[..., self.required] < 0.5).sum(axis=-1)
        return np.asarray(uneven + _LACKING * lacking)


def _search(cost: _Cost, rng: np.random.Generator) -> tuple[float, Ints]:
    fold = rng.integers(cost.folds, size=len(cost.counts))
    load = np.zeros((cost.folds, cost.counts.shape[1]))
    np.add.at(load, fold, cost.counts)
    while _move(cost, fold, load) or _swap(cost, fold, load):
        pass
    return float(cost.of(load).sum()), relabel(fold)


def _move(cost: _Cost, fold: Ints, load: Floats) -> bool:
    """Move the one group whose move gains most; changes ``fold`` and ``load``."""
    now = cost.of(load)
    leaves = cost.of(load[fold] - cost.counts) - now[fold]
    joins = cost.of(load[None] + cost.counts[:, None]) - now
    change = leaves[:, None] + joins
    change[np.arange(len(fold)), fold] = 0.0
    group, to = np.unravel_index(int(change.argmin()), change.shape)
    if change[group, to] > -1e-9:
        return False
    load[fold[group]] -= cost.counts[group]
    load[to] += cost.counts[group]
    fold[group] = to
    return True


def _swap(cost: _Cost, fold: Ints, load: Floats) -> bool:
    """Swap the two groups whose swap gains most; changes ``fold`` and ``load``."""
    if len(fold) > _MANY_GROUPS:
        return False
    now = cost.of(load)[fold]
    gain = cost.counts[None] - cost.counts[:, None]
    here = cost.of(load[fold][:, None] + gain) - now[:, None]
    change = np.where(fold[:, None] == fold[None], 0.0, here + here.T)
    one, other = np.unravel_index(int(change.argmin()), change.shape)
    if change[one, other] > -1e-9:
        return False
    exchanged = cost.counts[other] - cost.counts[one]
    load[fold[one]] += exchanged
    load[fold[other]] -= exchanged
    fold[one], fold[other] = fold[other], fold[one]
    return True
