"""Comparable pairs: for each event, who outlived it and how their risks compare.

Two ways to the same sums. Under many case weights, the pairs of a block of events are a matrix, and
all resamples go through it in one product. For one set of weights and its influences, a tree over
the times counts each pair once at the level where the two times part: O(n log n), vectorised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from storm_clinic.cohort.outcome import Bools, Floats, Ints, Survival
from storm_clinic.metrics.risk_sets import suffix_sums

_BLOCK_PAIRS = 4_000_000


@dataclass(frozen=True, eq=False)
class PairSums:
    """Weighted sums over comparable pairs, for each patient in either role.

    Attributes
    ----------
    concordant, discordant, tied : float64 arrays, shape (n_patients,)
        Pairs the patient takes part in where the earlier event had the higher, the lower, or the
        same risk.
    """

    concordant: Floats
    discordant: Floats
    tied: Floats


class ComparablePairs:
    """Pairs (i, j) with an event of i at t and j still at risk after it, inside one stratum.

    A censoring at t comes after an event at t; two events at t are no pair. With entry times j must
    have entered before t.

    Parameters
    ----------
    outcome : Survival
    risk : float64 array, shape (n_patients,)
    eligible : bool array, shape (n_patients,)
        Whose events may open a pair (those before tau).
    stratum : int64 array, shape (n_patients,)
        Pairs are formed inside a stratum only.
    """

    def __init__(self, outcome: Survival, risk: Floats, eligible: Bools, stratum: Ints) -> None:
        self.n_patients = outcome.n_patients
        self._strata = [
            _Stratum.of(outcome, risk, eligible, np.flatnonzero(stratum == code))
            for code in np.unique(stratum)
        ]

    def resampled(self, weights: Floats, opened: Floats | None = None) -> tuple[Floats, Floats]:
        """Credit (1 concordant, 1/2 tied risk) and number of pairs, each (n_resamples,).

        ``opened`` (n_resamples or 1, n_patients) multiplies every pair that a patient's event
        opens, as in Uno's C.
        """
        credit, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for part in self._strata:
            for events, block_credit, block_pairs in part.blocks(weights):
                factor = (
                    weights[:, events]
                    if opened is None
                    else (weights[:, events] * opened[:, events])
                )
                credit += np.einsum("be,be->b", factor, block_credit)
                pairs += np.einsum("be,be->b", factor, block_pairs)
        return credit, pairs

    def sums(self, opened: Floats | None = None) -> PairSums:
        """Sums for each patient with every case weight 1."""
        factor = np.ones(self.n_patients) if opened is None else opened
        total = PairSums(*(np.zeros(self.n_patients) for _ in range(3)))
        for part in self._strata:
            part.add_sums(total, factor)
        return total


@dataclass(frozen=True, eq=False)
class _Stratum:
    members: Ints  # positions in the cohort, by key
    key: Ints  # 2 * dense time, + 1 if censored: i opens a pair with j where key_j > key_i
    risk: Floats
    event: Ints  # positions in members whose events open pairs
    entered: Ints | None  # for each event: how many members, by entry, entered before it
    entry_order: Ints | None

    @classmethod
    def of(cls, outcome: Survival, risk: Floats, eligible: Bools, members: Ints) -> _Stratum:
        time, event = outcome.time_months[members], outcome.event[members]
        key = 2 * np.unique(time, return_inverse=True)[1].astype(np.int64) + ~event
        order = np.argsort(key, kind="stable")
        members = members[order]
        opens = np.flatnonzero((eligible & outcome.event)[members])
        entered = entry_order = None
        if outcome.entry_months is not None and (outcome.entry_months > 0).any():
            entry = outcome.entry_months[members]
            entry_order = np.argsort(entry, kind="stable")
            entered = np.searchsorted(
                entry[entry_order], outcome.time_months[members][opens], side="left"
            ).astype(np.int64)
        return cls(members, key[order], risk[members], opens, entered, entry_order)

    def blocks(self, weights: Floats) -> Iterator[tuple[Ints, Floats, Floats]]:
        """Blocks of events (positions in the cohort), their credit and pairs per resample."""
        ordered = weights[:, self.members]
        pairs = suffix_sums(ordered)[:, np.searchsorted(self.key, self.key[self.event], "right")]
        late: Ints | None = None
        if self.entry_order is not None and self.entered is not None:
            # Everybody who enters at or after t also leaves after t: counted, and taken off here.
            pairs = pairs - suffix_sums(ordered[:, self.entry_order])[:, self.entered]
            late = np.empty(len(self.members), dtype=np.int64)
            late[self.entry_order] = np.arange(len(self.members))
        rows = max(1, _BLOCK_PAIRS // max(1, len(self.members)))
        for start in range(0, len(self.event), rows):
            event = self.event[start : start + rows]
            first = int(event[0])  # later positions only: keys ascend
            own, other = self.risk[event][:, None], self.risk[None, first:]
            credit = (other < own) + 0.5 * (other == own)
            credit *= self.key[None, first:] > self.key[event][:, None]
            if late is not None and self.entered is not None:
                credit *= late[None, first:] < self.entered[start : start + rows][:, None]
            yield (
                self.members[event],
                ordered[:, first:] @ credit.T,
                pairs[:, start : start + rows],
            )

    def add_sums(self, total: PairSums, factor: Floats) -> None:
        rank = np.unique(self.risk, return_inverse=True)[1].astype(np.int64)
        opened = factor[self.members][self.event]
        self._count(total, rank, self.key[self.event], self.key, opened)
        if self.entered is not None and self.entry_order is not None:
            # Take off those who had not entered: on the axis of entry order, late is later.
            position = np.empty(len(self.members), dtype=np.int64)
            position[self.entry_order] = np.arange(len(self.members))
            self._count(total, rank, self.entered - 1, position, -opened)

    def _count(self, total: PairSums, rank: Ints, early: Ints, late: Ints, opened: Floats) -> None:
        """Add every (event e, member m) with early_e < late_m, to both roles."""
        n_events = len(self.event)
        at = np.concatenate([early, late])
        at -= at.min(initial=0)
        ranks = np.concatenate([rank[self.event], rank])
        opener = np.arange(len(at)) < n_events
        amount = np.concatenate([opened, np.ones(len(late))])
        lower, equal, higher = _count_pairs(at, ranks, opener, amount)
        for into, values in (
            (total.concordant, (lower[:n_events], higher[n_events:])),
            (total.discordant, (higher[:n_events], lower[n_events:])),
            (total.tied, (equal[:n_events], equal[n_events:])),
        ):
            into[self.members[self.event]] += opened * values[0]
            into[self.members] += values[1]


def _count_pairs(
    at: Ints, rank: Ints, opener: Bools, amount: Floats
) -> tuple[Floats, Floats, Floats]:
    """For openers the waiters later than them, for waiters the openers earlier, by rank.

    Returns for each element the summed amounts of its partners with a lower, the same and a higher
    rank. Each pair with different ``at`` is met once: in the block of equal leading bits, where the
    next bit tells the earlier from the later.
    """
    order = np.argsort(rank, kind="stable")
    lower, equal, higher = (np.zeros(len(at)) for _ in range(3))
    for bit in range(int(at.max(initial=0)).bit_length() - 1, -1, -1):
        # Inside blocks of equal leading bits, elements stay in order of rank.
        order = order[np.argsort(at[order] >> (bit + 1), kind="stable")]
        block, ranked, opens = at[order] >> (bit + 1), rank[order], opener[order]
        given = amount[order]
        later = ((at[order] >> bit) & 1).astype(np.bool_)
        first, second = opens & ~later, ~opens & later
        block_edge = np.append(True, block[1:] != block[:-1])
        run_edge = block_edge | np.append(True, ranked[1:] != ranked[:-1])
        for receives, gives in ((first, second), (second, first)):
            total = np.append(0.0, np.cumsum(np.where(gives, given, 0.0)))
            before, until = _around(total, block_edge, receives)
            below, upto = _around(total, run_edge, receives)
            into = order[receives]
            lower[into] += below - before
            equal[into] += upto - below
            higher[into] += until - upto
    return lower, equal, higher


def _around(total: Floats, edge: Bools, where: Bools) -> tuple[Floats, Floats]:
    """Running total at the start and the end of the stretch (from edge to edge) of elements."""
    at_edges = total[np.append(np.flatnonzero(edge), len(edge))]
    stretch = (np.cumsum(edge) - 1)[where]
    return at_edges[stretch], at_edges[stretch + 1]
