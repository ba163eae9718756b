"""Comparable pairs: for each event, who outlived it and how their risks compare.

Two ways to the same sums. Under many case weights, the pairs of a block of events are a matrix, and
all resamples go through it in one product. For one set of weights and its influences, each pair is
counted once in a tree over the times: O(n log n), vectorised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from storm_clinic.cohort.outcome import Bools, Floats, Ints, Survival
from storm_clinic.metrics.ordered_pairs import Side, signed_sums
from storm_clinic.metrics.risk_sets import suffix_sums

_BLOCK_PAIRS = 4_000_000


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over comparable pairs, for each patient in each of the two roles.

    A pair's balance is +1 where the earlier event had the higher risk, -1 where it had the lower,
    and 0 where the risks tie. The other patient's amount is summed, the patient's own is left out.

    Attributes
    ----------
    opened, opened_pairs : float64 arrays, shape (n_patients,)
        Balance and number of the pairs that the patient's event opens.
    waited, waited_pairs : float64 arrays, shape (n_patients,)
        Balance and number of the pairs opened by others in which the patient had no event yet.
    """

    opened: Floats
    opened_pairs: Floats
    waited: Floats
    waited_pairs: Floats

    def add(
        self, openers: Side, waiters: Side, opening: Ints, waiting: Ints, sign: float = 1.0
    ) -> None:
        """Add (or take off) the pairs of two sides, at the patients in these positions."""
        opened, waited = signed_sums(openers, waiters)
        self.opened[opening] += sign * opened
        self.waited[waiting] += sign * waited
        later = np.append(np.cumsum(waiters.amount[::-1])[::-1], 0.0)
        number = later[np.searchsorted(waiters.at, openers.at, side="right")]
        self.opened_pairs[opening] += sign * number
        before = np.append(0.0, np.cumsum(openers.amount))
        number = before[np.searchsorted(openers.at, waiters.at, side="left")]
        self.waited_pairs[waiting] += sign * number


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
        self.n_openers = int((eligible & outcome.event).sum())
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

    def resampled_roles(self, weights: Floats, opens: Floats) -> tuple[Floats, Floats]:
        """Credit of each patient in either role, both (n_resamples, n_patients).

        The first sums ``weights`` over those who waited while the patient's event opened a pair,
        the second ``opens`` over those who opened one while the patient waited.
        """
        opened, waited = np.zeros_like(weights), np.zeros_like(weights)
        for part in self._strata:
            ordered = weights[:, part.members]
            for rows, first, credit in part.credits():
                events = part.members[part.event[rows]]
                opened[:, events] = ordered[:, first:] @ credit.T
                waited[:, part.members[first:]] += opens[:, events] @ credit
        return opened, waited

    def sums(self, opens: Floats | None = None, waits: Floats | None = None) -> PairSums:
        """Sums for each patient; what a patient counts in either role is 1 by default."""
        ones = np.ones(self.n_patients)
        total = PairSums(*(np.zeros(self.n_patients) for _ in range(4)))
        for part in self._strata:
            part.add_sums(total, ones if opens is None else opens, ones if waits is None else waits)
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
        if self.entry_order is not None and self.entered is not None:
            # Everybody who enters at or after t also leaves after t: counted, and taken off here.
            pairs = pairs - suffix_sums(ordered[:, self.entry_order])[:, self.entered]
        for rows, first, credit in self.credits():
            yield self.members[self.event[rows]], ordered[:, first:] @ credit.T, pairs[:, rows]

    def credits(self) -> Iterator[tuple[slice, int, Floats]]:
        """Blocks of events: which they are, and from which member on, their pairs' credit."""
        late: Ints | None = None
        if self.entry_order is not None and self.entered is not None:
            late = np.empty(len(self.members), dtype=np.int64)
            late[self.entry_order] = np.arange(len(self.members))
        size = max(1, _BLOCK_PAIRS // max(1, len(self.members)))
        for start in range(0, len(self.event), size):
            rows = slice(start, start + size)
            event = self.event[rows]
            first = int(event[0])  # later positions only: keys ascend
            own, other = self.risk[event][:, None], self.risk[None, first:]
            credit = (other < own) + 0.5 * (other == own)
            credit *= self.key[None, first:] > self.key[event][:, None]
            if late is not None and self.entered is not None:
                credit *= late[None, first:] < self.entered[rows][:, None]
            yield rows, first, credit

    def add_sums(self, total: PairSums, opens: Floats, waits: Floats) -> None:
        opener = self.members[self.event]
        rank = np.unique(self.risk, return_inverse=True)[1].astype(np.int64)
        openers = Side(self.key[self.event], rank[self.event], opens[opener])
        total.add(openers, Side(self.key, rank, waits[self.members]), opener, self.members)
        if self.entered is not None and self.entry_order is not None:
            # Take off those who had not entered: on the axis of entry order, late is later.
            at, entering = np.arange(len(self.members)), self.members[self.entry_order]
            openers = Side(self.entered - 1, rank[self.event], opens[opener])
            waiters = Side(at, rank[self.entry_order], waits[entering])
            total.add(openers, waiters, opener, entering, -1.0)
