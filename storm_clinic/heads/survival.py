"""Cox partial likelihood with Efron or Breslow ties: value, gradient, information, in float64.

Everything is computed from logarithms of sums, so that log-hazards of any size stay finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import TrainingError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ties = Literal["efron", "breslow"]

_BLOCK_CELLS = 4_000_000  # patients x event times looked at together: 32 MB of float64


class CoxLikelihood:
    """Log partial likelihood of log-hazards, given who failed when.

    At an event time with d deaths Efron's approximation uses d denominators, from which 0 to
    d - 1 shares of the deaths' own hazard are taken away; Breslow's takes nothing away. A patient
    is at risk at t where ``entry < t <= time``.

    Parameters
    ----------
    outcome : Survival
        Right-censored times, with entry times or without.
    ties : "efron" or "breslow"

    Raises
    ------
    TrainingError
        If no event happened: the likelihood is then constant.

    References
    ----------
    Efron, JASA 72 (1977) 557-565. Breslow, Biometrics 30 (1974) 89-99. Therneau and Grambsch,
    Modeling Survival Data (2000), ch. 3.
    """

    def __init__(self, outcome: Survival, ties: Ties = "efron") -> None:
        if outcome.n_events == 0:
            raise TrainingError(
                f"none of {outcome.n_patients} patients had the event",
                fix="A survival model needs events; check the endpoint, or use fewer folds.",
            )
        self.n_patients, self.n_events = outcome.n_patients, outcome.n_events
        self._time, self._entry, self._event = (
            outcome.time_months,
            outcome.entry_months,
            outcome.event,
        )
        self._by_time = np.argsort(self._time, kind="stable")
        self._deaths = self._by_time[self._event[self._by_time]]
        self.event_times, first, self._row, self._n_deaths = np.unique(
            self._time[self._deaths], return_index=True, return_inverse=True, return_counts=True
        )
        self._first_death = first
        rank_in_tie = np.arange(self.n_events) - first[self._row]
        self._share = rank_in_tie / self._n_deaths[self._row] * (ties == "efron")
        with np.errstate(divide="ignore"):
            self._log_share = np.log(self._share)
        self._first_at_risk = np.searchsorted(self._time[self._by_time], self.event_times)
        # Position of the last event time a patient lives to see; -1 where there is none.
        self._last_seen = np.searchsorted(self.event_times, self._time, side="right") - 1

    def log_likelihood(self, risk: Floats) -> float:
        """Log partial likelihood of log-hazards, shape (n_patients,)."""
        _, log_denominators = self._denominators(risk)
        return float(risk[self._event].sum() - log_denominators.sum())

    def loss(self, risk: Floats) -> tuple[float, Floats]:
        """Negative log partial likelihood per event, and its gradient by each patient's risk.

        Parameters
        ----------
        risk : float64 array, shape (n_patients,)
            Log-hazards, up to a constant.

        Returns
        -------
        float
        float64 array, shape (n_patients,)
        """
        _, log_denominators = self._denominators(risk)
        loss = (log_denominators.sum() - risk[self._event].sum()) / self.n_events
        expected = self._expected_events(risk, log_denominators)
        return float(loss), (expected - self._event) / self.n_events

    def information(self, risk: Floats, design: Floats) -> Floats:
        """Observed information of coefficients whose linear predictor is ``risk``, per event.

        Parameters
        ----------
        risk : float64 array, shape (n_patients,)
            Log-hazards.
        design : float64 array, shape (n_patients, n_covariates)
            What the coefficients multiply.

        Returns
        -------
        float64 array, shape (n_covariates, n_covariates)
        """
        log_at_risk, log_denominators = self._denominators(risk)
        expected = self._expected_events(risk, log_denominators)
        sums = np.empty((len(self.event_times), design.shape[1]))
        for block, at_risk in self._blocks():
            share = np.where(at_risk, risk[None, :] - log_at_risk[block, None], -np.inf)
            sums[block] = np.exp(share) @ design
        row, deaths = self._row, self._deaths
        of_deaths = np.exp(risk[deaths] - log_at_risk[row])[:, None] * design[deaths]
        sums_of_deaths = np.add.reduceat(of_deaths, self._first_death, axis=0)
        means = sums[row] - self._share[:, None] * sums_of_deaths[row]
        means *= np.exp(log_at_risk[row] - log_denominators)[:, None]
        second = (design * expected[:, None]).T @ design
        return np.asarray((second - means.T @ means) / self.n_events)

    def log_hazard_steps(self, risk: Floats) -> Floats:
        """Logarithm of the baseline hazard's step at each of ``event_times``."""
        _, log_denominators = self._denominators(risk)
        return np.asarray(np.logaddexp.reduceat(-log_denominators, self._first_death))

    def _denominators(self, risk: Floats) -> tuple[Floats, Floats]:
        """Logs of the hazard at risk, per event time, and of Efron's denominators, per event."""
        log_at_risk = self._log_at_risk(risk)
        log_of_deaths = np.logaddexp.reduceat(risk[self._deaths], self._first_death)
        # The deaths are among those at risk; rounding must not say otherwise.
        ratio = np.exp(np.minimum(log_of_deaths - log_at_risk, 0.0))
        return log_at_risk, log_at_risk[self._row] + np.log1p(-self._share * ratio[self._row])

    def _log_at_risk(self, risk: Floats) -> Floats:
        if self._entry is None:
            later = np.logaddexp.accumulate(risk[self._by_time][::-1])[::-1]
            return np.asarray(later[self._first_at_risk])
        # Subtracting those not yet entered would cancel digits; each risk set is summed afresh.
        log_at_risk = np.empty(len(self.event_times))
        for block, at_risk in self._blocks():
            log_at_risk[block] = _log_sum(np.where(at_risk, risk[None, :], -np.inf), axis=1)
        return log_at_risk

    def _expected_events(self, risk: Floats, log_denominators: Floats) -> Floats:
        """Events each patient would have had under these hazards: their sum is n_events."""
        log_steps = np.logaddexp.reduceat(-log_denominators, self._first_death)
        expected = np.zeros(self.n_patients)
        if self._entry is None:
            seen = self._last_seen >= 0
            cumulative = np.logaddexp.accumulate(log_steps)
            expected[seen] = np.exp(risk[seen] + cumulative[self._last_seen[seen]])
        else:
            for block, at_risk in self._blocks():
                terms = np.where(at_risk, risk[None, :] + log_steps[block, None], -np.inf)
                expected += np.exp(terms).sum(axis=0)
        # At its own event time a death counts only with what Efron's denominators left of it.
        log_taken = np.logaddexp.reduceat(self._log_share - log_denominators, self._first_death)
        expected[self._deaths] -= np.exp(risk[self._deaths] + log_taken[self._row])
        return expected

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """Who is at risk, (event times, patients), some event times at once."""
        step = max(1, _BLOCK_CELLS // self.n_patients)
        for start in range(0, len(self.event_times), step):
            times = self.event_times[start : start + step, None]
            at_risk = self._time[None, :] >= times
            if self._entry is not None:
                at_risk &= self._entry[None, :] < times
            yield slice(start, start + len(times)), at_risk


def _log_sum(values: Floats, axis: int) -> Floats:
    top = values.max(axis=axis, keepdims=True)
    return np.asarray(np.log(np.exp(values - top).sum(axis=axis)) + np.squeeze(top, axis))
