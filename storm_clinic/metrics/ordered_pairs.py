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
    at_early, at_late = _places(early, late)
    tree = _Tree(at_early, at_late, early.rank, late.rank)
    as_early, as_late = tree.sums(
        tree.placed(at_early, early.amount), tree.placed(at_late, late.amount)
    )
    return as_early[at_early], as_late[at_late]


def _places(early: Side, late: Side) -> tuple[Ints, Ints]:
    """Places of both sides in order of time; of one time late ones first, so that they do not pair.

    One patient's two roles share a place if nobody else is there.
    """
    first = np.searchsorted(late.at, early.at, side="left")
    after = np.searchsorted(late.at, early.at, side="right")
    changes = np.append(True, early.at[1:] != early.at[:-1])
    both = np.flatnonzero((after - first == 1) & changes & np.append(changes[1:], True))
    both = both[late.rank[first[both]] == early.rank[both]]
    alone = np.ones(len(early.at), dtype=np.bool_)
    alone[both] = False
    at_late = np.arange(len(late.at)) + np.searchsorted(early.at[alone], late.at, side="left")
    at_early = np.empty(len(early.at), dtype=np.int64)
    at_early[alone] = np.arange(int(alone.sum())) + after[alone]
    at_early[both] = at_late[first[both]]
    return at_early, at_late


class _Tree:
    def __init__(self, at_early: Ints, at_late: Ints, early: Ints, late: Ints) -> None:
        n = 1 + max(int(at_early.max(initial=0)), int(at_late.max(initial=0)))
        self._levels = max(0, (n // _LEAF).bit_length() - 1)
        self._leaf = -(-n // (1 << self._levels))
        self._size = self._leaf << self._levels
        beyond = 1 + max(int(early.max(initial=0)), int(late.max(initial=0)))
        self._rank = np.full(self._size, beyond, dtype=np.int32)
        self._rank[at_early], self._rank[at_late] = early, late
        self._order = np.argsort(self._rank, kind="stable").astype(np.int32)
        self._ties = bool((np.bincount(self._rank)[:beyond] > 1).any())

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
