"""Sums over all pairs of an earlier and a later element, by which of the two ranks higher.

A tree over the positions meets each pair once, where its two elements part: O(n log n), every level
one pass over arrays. The smallest blocks are compared directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Bools, Floats, Ints

_LEAF = 8  # blocks end between this size and twice it


@dataclass(frozen=True, eq=False)
class Side:
    """The earlier or the later elements of some pairs.

    Attributes
    ----------
    at : int64 array, shape (n,)
        Ascending; an earlier element at a pairs with a later one at b where a < b.
    rank : int64 array, shape (n,)
    amount : float64 array, shape (n,)
        What the element counts in the sums of its partners.
    """

    at: Ints
    rank: Ints
    amount: Floats


def signed_sums(early: Side, late: Side) -> tuple[Floats, Floats]:
    """For each element, the amounts of its partners, signed.

    Partners count + where the earlier element has the higher rank, - where it has the lower, and
    nothing where the ranks tie. Returned for the early and for the late elements.
    """
    n_early, n_late = len(early.at), len(late.at)
    place = np.concatenate(
        [
            # At one time late elements come first, so that they are no pair with the early ones.
            np.arange(n_early) + np.searchsorted(late.at, early.at, side="right"),
            np.arange(n_late) + np.searchsorted(early.at, late.at, side="left"),
        ]
    )
    tree = _Tree(place, np.concatenate([early.rank, late.rank]))
    given = (tree.placed(place[:n_early], early.amount), tree.placed(place[n_early:], late.amount))
    as_early, as_late = tree.sums(*given)
    return as_early[place[:n_early]], as_late[place[n_early:]]


class _Tree:
    def __init__(self, place: Ints, rank: Ints) -> None:
        n = len(place)
        self._levels = max(0, (n // _LEAF).bit_length() - 1)
        self._leaf = -(-n // (1 << self._levels)) if n else 1
        self._size = self._leaf << self._levels
        highest = int(rank.max(initial=0))
        self._rank = np.full(self._size, highest + 1, dtype=np.int32)
        self._rank[place] = rank
        self._order = np.argsort(self._rank, kind="stable").astype(np.int32)
        self._ties = bool((np.bincount(rank, minlength=1) > 1).any())

    def placed(self, place: Ints, amount: Floats) -> Floats:
        values = np.zeros(self._size)
        values[place] = amount
        return values

    def sums(self, early: Floats, late: Floats) -> tuple[Floats, Floats]:
        """Signed sums at every place, as an early and as a late element."""
        as_early, as_late = self._leaves(early, late)
        order = self._order
        for level in range(self._levels - 1, -1, -1):
            width = self._leaf << level
            rows = order.reshape(-1, 2 * width)
            middle = np.arange(len(rows), dtype=np.int32)[:, None] * (2 * width) + width
            second = rows >= middle
            runs = self._runs(rows) if self._ties else None
            from_late = _balance(np.where(second, late[rows], 0.0), runs)
            from_early = _balance(np.where(second, 0.0, early[rows]), runs)
            before, after = rows[~second], rows[second]
            as_early[before] += from_late[~second]
            as_late[after] -= from_early[second]
            # Both halves stay in order of rank.
            halves = (before.reshape(-1, 1, width), after.reshape(-1, 1, width))
            order = np.concatenate(halves, axis=1).ravel()
        return as_early, as_late

    def _leaves(self, early: Floats, late: Floats) -> tuple[Floats, Floats]:
        rank = self._rank.reshape(-1, self._leaf)
        own, other = rank[:, :, None], rank[:, None, :]
        sign = (own > other).astype(np.float64) - (own < other)
        sign *= np.triu(np.ones((self._leaf, self._leaf)), 1)
        as_early = sign @ late.reshape(-1, self._leaf, 1)
        as_late = early.reshape(-1, 1, self._leaf) @ sign
        return as_early.ravel(), as_late.ravel()

    def _runs(self, rows: NDArray[np.int32]) -> tuple[Ints, Ints]:
        """Stretches of one rank inside a row: their first places, and the stretch of each place."""
        rank = self._rank[rows]
        start: Bools = np.ones(rank.shape, dtype=np.bool_)
        start[:, 1:] = rank[:, 1:] != rank[:, :-1]
        flat = start.ravel()
        return np.flatnonzero(flat), np.cumsum(flat) - 1


def _balance(values: Floats, runs: tuple[Ints, Ints] | None) -> Floats:
    """Along rows in order of rank: the sum of those ranked lower less that of those higher."""
    upto = np.cumsum(values, axis=1)
    total = upto[:, -1:]
    if runs is None:
        return np.asarray(2 * upto - values - total)
    starts, stretch = runs
    ends = np.append(starts[1:], values.size) - 1
    below_and_upto = (upto - values).ravel()[starts] + upto.ravel()[ends]
    return np.asarray(below_and_upto[stretch].reshape(values.shape) - total)
