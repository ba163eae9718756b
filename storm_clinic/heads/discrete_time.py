"""Discrete-time models: hazards in each interval, and DeepHit, for one cause or several."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from storm_clinic.cohort.outcome import CompetingRisks, Outcome, Survival
from storm_clinic.errors import TrainingError
from storm_clinic.heads.interval_readout import IntervalReadout
from storm_clinic.heads.intervals import TimeGrid, causes_of, n_causes_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PAIR_CELLS = 4_000_000  # pairs of patients looked at together: 32 MB of float64


class DiscreteHazard:
    """Cause-specific hazards of each interval; with one cause this is the logistic hazard.

    Outputs are log-odds of each cause in each interval against surviving it, laid out cause by
    cause: column ``k * n_intervals + j``.

    Parameters
    ----------
    outcome : Survival or CompetingRisks
        Of the training patients. A patient who enters late is at risk from the interval of entry.
    n_intervals : int
        Intervals between quantiles of the event times.

    References
    ----------
    Brown, Applied Statistics 24 (1975) 84-94. Tutz and Schmid, Modeling Discrete Time-to-Event
    Data (2016), ch. 3 and 8. Gensheimer and Narasimhan, PeerJ 7 (2019) e6257.
    """

    separable = True

    def __init__(self, outcome: Survival | CompetingRisks, n_intervals: int) -> None:
        self.grid = TimeGrid.fit(outcome, n_intervals)
        self._n_causes = n_causes_of(outcome)
        self._placed = self.grid.place(outcome)
        self.n_outputs = self._n_causes * self.grid.n_intervals
        self.shared = np.zeros(self.n_outputs, dtype=np.bool_)
        self.n_branches = self._n_causes
        self.branch = causes_of(outcome) - 1

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Mean negative log-likelihood of a patient, and its gradient."""
        log_p = self._log_probabilities(outputs)
        at_risk = self._placed.at_risk(self.grid.n_intervals)[:, None, :]
        events = self._placed.events(self._n_causes, self.grid.n_intervals)
        n = len(outputs)
        loss = -self._log_likelihood(log_p, at_risk, events) / n
        gradient = (np.exp(log_p[:, 1:]) * at_risk - events) / n
        return float(loss), gradient.reshape(n, -1)

    def start(self) -> Floats:
        """Hazards of everybody together, shape (n_outputs,)."""
        at_risk = self._placed.at_risk(self.grid.n_intervals).sum(axis=0)
        events = self._placed.events(self._n_causes, self.grid.n_intervals).sum(axis=0)
        # Half an event more each way keeps intervals finite in which all or none failed.
        survived = at_risk - events.sum(axis=0)
        return np.asarray(np.log((events + 0.5) / (survived + 0.5)).ravel())

    def held_out(self, outcome: Outcome, outputs: Floats) -> float:
        """Log-likelihood of patients who were not trained on, summed."""
        assert isinstance(outcome, Survival | CompetingRisks)
        placed = self.grid.place(outcome)
        return self._log_likelihood(
            self._log_probabilities(outputs),
            placed.at_risk(self.grid.n_intervals)[:, None, :],
            placed.events(self._n_causes, self.grid.n_intervals),
        )

    def readout(self, _outputs: Floats, horizons_months: tuple[float, ...]) -> IntervalReadout:
        """From hazards to incidences; nothing more is learned for it."""
        return IntervalReadout("discrete-hazard", self.grid, self._n_causes, horizons_months)

    def _log_probabilities(self, outputs: Floats) -> Floats:
        """Log-probability of surviving (first) and of each cause, (n, 1 + causes, intervals)."""
        against = outputs.reshape(len(outputs), self._n_causes, self.grid.n_intervals)
        none = np.zeros((len(outputs), 1, self.grid.n_intervals))
        return np.asarray(log_softmax(np.concatenate([none, against], axis=1), axis=1))

    @staticmethod
    def _log_likelihood(log_p: Floats, at_risk: NDArray[np.bool_], events: Floats) -> float:
        survived = at_risk[:, 0] & (events.sum(axis=1) == 0)
        # Where an event is impossible its log-probability may be -inf, and 0 times that NaN.
        happened = np.where(events > 0, log_p[:, 1:], 0.0)
        return float(np.where(survived, log_p[:, 0], 0.0).sum() + happened.sum())


class DeepHit:
    """Joint distribution of time and cause, with a loss on the order of pairs.

    Outputs are log-odds of each cause in each interval against no event by the last one, laid out
    as those of `DiscreteHazard`.

    Parameters
    ----------
    outcome : Survival or CompetingRisks
        Of the training patients, without entry times: the likelihood has none for them.
    n_intervals : int
        Intervals between quantiles of the event times.
    ranking : float
        Weight of the ranking loss beside the mean log-likelihood.
    sigma : float
        Difference of incidence at which a pair's ranking loss falls to 1/e.

    References
    ----------
    Lee et al., DeepHit, AAAI 2018, eq. 3 to 5; the ranking loss is averaged over pairs.
    """

    separable = False

    def __init__(
        self,
        outcome: Survival | CompetingRisks,
        n_intervals: int,
        *,
        ranking: float,
        sigma: float,
    ) -> None:
        if outcome.entry_months is not None:
            raise TrainingError("DeepHit cannot use entry times (left truncation)")
        self.grid = TimeGrid.fit(outcome, n_intervals)
        self._n_causes, self._ranking, self._sigma = n_causes_of(outcome), ranking, sigma
        self._placed, self._time = self.grid.place(outcome), outcome.time_months
        self._cause = causes_of(outcome)
        self._n_pairs = max(self._count_pairs(), 1)
        self.n_outputs = self._n_causes * self.grid.n_intervals
        self.shared = np.zeros(self.n_outputs, dtype=np.bool_)
        self.n_branches = self._n_causes
        self.branch = self._cause - 1

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Mean negative log-likelihood plus weighted mean ranking loss, and the gradient."""
        log_p = self._log_probabilities(outputs)
        p = np.exp(log_p)
        n = len(outputs)
        allowed = self._allowed(self._placed.interval, self._placed.cause)
        log_mass = logsumexp(np.where(allowed, log_p, -np.inf), axis=1)
        inside = np.exp(np.where(allowed, log_p - log_mass[:, None], -np.inf))
        gradient = (p - inside) / n
        loss = -log_mass.mean()
        if self._ranking:
            order, by_incidence = self._order_loss(self._incidence(p))
            loss += self._ranking * order
            # An incidence sums the probabilities up to its interval; softmax makes them compete.
            by_p = np.cumsum(by_incidence[:, :, ::-1], axis=2)[:, :, ::-1].reshape(n, -1)
            by_p = np.hstack([np.zeros((n, 1)), by_p])
            centred = by_p - (p * by_p).sum(axis=1, keepdims=True)
            gradient += self._ranking * p * centred
        return float(loss), gradient[:, 1:]

    def start(self) -> Floats:
        """Shares of patients with each cause in each interval, shape (n_outputs,)."""
        events = self._placed.events(self._n_causes, self.grid.n_intervals).sum(axis=0)
        none = (self._placed.cause == 0).sum()
        return np.asarray(np.log((events + 0.5) / (none + 0.5)).ravel())

    def held_out(self, outcome: Outcome, outputs: Floats) -> float:
        """Log-likelihood of patients who were not trained on, summed; no ranking in it."""
        assert isinstance(outcome, Survival | CompetingRisks)
        placed = self.grid.place(outcome)
        log_p = self._log_probabilities(outputs)
        allowed = self._allowed(placed.interval, placed.cause)
        return float(logsumexp(np.where(allowed, log_p, -np.inf), axis=1).sum())

    def readout(self, _outputs: Floats, horizons_months: tuple[float, ...]) -> IntervalReadout:
        """From probabilities to incidences; nothing more is learned for it."""
        return IntervalReadout("deephit", self.grid, self._n_causes, horizons_months)

    def _log_probabilities(self, outputs: Floats) -> Floats:
        """Of no event (first), then of each cause and interval."""
        return np.asarray(log_softmax(np.hstack([np.zeros((len(outputs), 1)), outputs]), axis=1))

    def _incidence(self, p: Floats) -> Floats:
        shape = (len(p), self._n_causes, self.grid.n_intervals)
        return np.asarray(p[:, 1:].reshape(shape).cumsum(axis=2))

    def _allowed(self, interval: Ints, cause: Ints) -> NDArray[np.bool_]:
        """Outcomes that agree with what was seen, (n_patients, 1 + n_outputs)."""
        n_intervals = self.grid.n_intervals
        at = np.arange(n_intervals)
        later = np.tile(at[None, :] >= interval[:, None], (1, self._n_causes))
        exact = np.zeros((len(cause), self._n_causes * n_intervals), dtype=np.bool_)
        rows = np.flatnonzero(cause)
        exact[rows, (cause[rows] - 1) * n_intervals + interval[rows]] = True
        censored = (cause == 0)[:, None]
        return np.hstack([censored, np.where(censored, later, exact)])

    def _count_pairs(self) -> int:
        return sum(int(later.sum()) for _, _, later in self._pairs())

    def _pairs(self) -> list[tuple[int, Ints, NDArray[np.bool_]]]:
        """Cause, some patients with its event, and whom each of them failed before."""
        blocks = []
        step = max(1, _PAIR_CELLS // len(self._time))
        for cause in range(1, self._n_causes + 1):
            failed = np.flatnonzero(self._placed.cause == cause)
            for start in range(0, len(failed), step):
                rows = failed[start : start + step]
                later = self._time[None, :] > self._time[rows, None]
                # Who is censored in the month of an event was seen without it in that month.
                later |= (self._time[None, :] == self._time[rows, None]) & (self._cause == 0)
                blocks.append((cause, rows, later))
        return blocks

    def _order_loss(self, incidence: Floats) -> tuple[float, Floats]:
        """Mean over pairs of exp(-(difference of incidence) / sigma), and its gradient."""
        total = 0.0
        gradient = np.zeros_like(incidence)
        for cause, rows, later in self._pairs():
            of_cause = incidence[:, cause - 1]
            interval = self._placed.interval[rows]
            own = of_cause[rows, interval]
            theirs = of_cause[:, interval].T
            terms = np.where(later, np.exp((theirs - own[:, None]) / self._sigma), 0.0)
            total += float(terms.sum())
            np.add.at(gradient[:, cause - 1], (rows, interval), -terms.sum(axis=1) / self._sigma)
            by_theirs = np.zeros((self.grid.n_intervals, len(of_cause)))
            np.add.at(by_theirs, interval, terms / self._sigma)
            gradient[:, cause - 1] += by_theirs.T
        return total / self._n_pairs, gradient / self._n_pairs
