"""Who is at risk when: counts and product limits at the distinct times, under many case weights."""

from __future__ import annotations

import numpy as np

from storm_clinic.cohort.outcome import Bools, Floats, Ints, Survival


class RiskSets:
    """Distinct times of a cohort and the weighted counts at each of them.

    Patients are at risk at ``entry < t <= time``, as R's (start, stop] intervals; at one time,
    events come before censorings.

    Attributes
    ----------
    times : float64 array, shape (n_times,)
        Distinct event and censoring times in months, ascending.
    slot : int64 array, shape (n_patients,)
        Position of each patient's time in ``times``.
    event : bool array, shape (n_patients,)
    """

    def __init__(self, outcome: Survival) -> None:
        self.times, slot = np.unique(outcome.time_months, return_inverse=True)
        self.slot: Ints = slot.astype(np.int64)
        self._order = np.argsort(self.slot, kind="stable")
        self._starts = np.searchsorted(self.slot[self._order], np.arange(len(self.times)))
        self.event: Bools = outcome.event
        self._event = outcome.event[self._order].astype(np.float64)
        self._entry_order: Ints | None = None
        if outcome.entry_months is not None and (outcome.entry_months > 0).any():
            self._entry_order = np.argsort(outcome.entry_months, kind="stable")
            entries = outcome.entry_months[self._entry_order]
            # Patients from this position on enter at or after each time: not yet at risk.
            self._late_from = np.searchsorted(entries, self.times, side="left")

    def counts(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Weighted events, censorings and patients at risk, each (n_resamples, n_times)."""
        ordered = weights[:, self._order]
        events = np.add.reduceat(ordered * self._event, self._starts, axis=1)
        censored = np.add.reduceat(ordered * (1 - self._event), self._starts, axis=1)
        at_risk = np.cumsum((events + censored)[:, ::-1], axis=1)[:, ::-1]
        if self._entry_order is not None:
            at_risk = at_risk - suffix_sums(weights[:, self._entry_order])[:, self._late_from]
        return events, censored, at_risk

    def event_free(self, weights: Floats) -> Floats:
        """Kaplan-Meier of the event at ``times``, (n_resamples, n_times)."""
        events, _, at_risk = self.counts(weights)
        return _product_limit(events, at_risk)

    def uncensored(self, weights: Floats) -> Floats:
        """Kaplan-Meier of censoring at ``times``: patients with an event then have left before."""
        events, censored, at_risk = self.counts(weights)
        return _product_limit(censored, at_risk - events)

    def event_free_influence(self, slope: Floats) -> Floats:
        """How far each patient moves a number through the Kaplan-Meier curve of the event.

        ``slope`` (n_times + 1,) is the number's derivative by the logarithm of the curve, its start
        in front; (n_patients,), per unit of weight where every weight is 1, without entry times.
        """
        events, _, at_risk = (counts[0] for counts in self.counts(self._ones()))
        return self._through(slope, events, at_risk, self.event, np.ones_like(self.event))

    def uncensored_influence(self, slope: Floats) -> Floats:
        """The same through the Kaplan-Meier curve of censoring."""
        events, censored, at_risk = (counts[0] for counts in self.counts(self._ones()))
        return self._through(slope, censored, at_risk - events, ~self.event, ~self.event)

    def _through(
        self, slope: Floats, leaving: Floats, at_risk: Floats, leaves: Bools, at_own_time: Bools
    ) -> Floats:
        staying = at_risk - leaving
        inverse = np.divide(1.0, staying, out=np.zeros_like(staying), where=staying > 0)
        hazard = np.divide(leaving, at_risk, out=np.zeros_like(at_risk), where=at_risk > 0)
        # A step moves the curve at its own time and ever after.
        moved = np.cumsum(slope[::-1])[::-1][1:] * inverse
        exposed = np.append(0.0, np.cumsum(moved * hazard))
        return np.asarray(exposed[self.slot + at_own_time] - leaves * moved[self.slot])

    def _ones(self) -> Floats:
        return np.ones((1, len(self.slot)))

    def up_to(self, months: Floats | float) -> Ints:
        """How many of ``times`` lie at or before these months; an index into `with_start`."""
        return np.asarray(np.searchsorted(self.times, months, side="right"), dtype=np.int64)

    def before(self, months: Floats | float) -> Ints:
        """How many of ``times`` lie before these months; an index into `with_start`."""
        return np.asarray(np.searchsorted(self.times, months, side="left"), dtype=np.int64)


def with_start(curve: Floats) -> Floats:
    """Put the value 1 of time 0 in front of curves of shape (n_resamples, n_times)."""
    return np.concatenate([np.ones((len(curve), 1)), curve], axis=1)


def suffix_sums(values: Floats) -> Floats:
    """Sum from each position to the end along rows, with a last column of 0."""
    total = np.cumsum(values[:, ::-1], axis=1)[:, ::-1]
    return np.concatenate([total, np.zeros((len(values), 1))], axis=1)


def _product_limit(leaving: Floats, at_risk: Floats) -> Floats:
    # Nobody at risk: nobody leaves, and the curve stays where it is.
    hazard = np.divide(leaving, at_risk, out=np.zeros_like(leaving), where=at_risk > 0)
    return np.cumprod(1 - hazard, axis=1)


def event_influence(sets: RiskSets, outcome: Survival, months: float, weights: Floats) -> Floats:
    """How far each patient moves 1 - Kaplan-Meier at one time, per unit of weight.

    The infinitesimal jackknife, as ``survfit(..., influence = TRUE)`` in R with the opposite sign;
    (n_resamples, n_patients), without entry times.
    """
    events, _, at_risk = sets.counts(weights)
    last = int(sets.up_to(months))
    survival = with_start(sets.event_free(weights))[:, [last]]
    remaining = at_risk - events
    # Where everybody at risk has the event the curve is 0, and so is every influence.
    inverse = np.divide(1.0, remaining, out=np.zeros_like(remaining), where=remaining > 0)
    step = np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0) * inverse
    exposed = np.concatenate([np.zeros((len(step), 1)), np.cumsum(step, axis=1)], axis=1)
    happened = outcome.event & (sets.slot < last)
    return np.asarray(
        survival * (happened * inverse[:, sets.slot] - exposed[:, np.minimum(sets.slot + 1, last)])
    )
