"""Competing risks from one Cox model a cause: likelihood, and cumulative incidence at any month."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import CompetingRisks, Outcome
from storm_clinic.heads.contract import ModelOutput
from storm_clinic.heads.horizons import check_horizon, horizon_risks
from storm_clinic.heads.survival import CoxLikelihood, Ties

Floats = NDArray[np.float64]

_LOG_CERTAIN = 50.0  # a hazard of e^50 is certainty; e^710 would overflow


class CausesObjective:
    """Cox partial likelihood of every cause, each with the others counted as censoring.

    Outputs are log-hazards, one a cause. A cause of which nobody had an event has no hazard; only
    the first needs events.

    Parameters
    ----------
    outcome : CompetingRisks
        Of the training patients; entry times are used.
    ties : "efron" or "breslow"

    Raises
    ------
    TrainingError
        If nobody had an event of the first cause.

    References
    ----------
    Prentice et al., Biometrics 34 (1978) 541-554.
    """

    def __init__(self, outcome: CompetingRisks, ties: Ties = "efron") -> None:
        CoxLikelihood(outcome.cause_specific(1), ties)  # refuses outcomes without an event
        self._outcome, self._ties = outcome, ties
        self._likelihoods = _likelihoods(outcome, ties)

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Negative log partial likelihood per event of any cause, and its gradient."""
        n_events = sum(likelihood.n_events for likelihood in self._likelihoods.values())
        total, gradient = 0.0, np.zeros(outputs.shape)
        for at, likelihood in self._likelihoods.items():
            loss, by_risk = likelihood.loss(outputs[:, at])
            total += loss * likelihood.n_events / n_events
            gradient[:, at] = by_risk * likelihood.n_events / n_events
        return total, gradient

    def held_out(self, outcome: Outcome, outputs: Floats) -> float:
        """Log partial likelihoods of these patients, summed over causes that happened to them."""
        assert isinstance(outcome, CompetingRisks)
        return sum(
            likelihood.log_likelihood(outputs[:, at])
            for at, likelihood in _likelihoods(outcome, self._ties).items()
        )

    def readout(self, outputs: Floats, horizons_months: tuple[float, ...]) -> CausesReadout:
        """Baseline hazards of all causes, on the times of all events."""
        cause = self._outcome.cause
        times = np.unique(self._outcome.time_months[cause > 0])
        log_steps = np.full((len(self._outcome.causes), len(times)), -np.inf)
        for at, likelihood in self._likelihoods.items():
            columns = np.searchsorted(times, likelihood.event_times)
            log_steps[at, columns] = likelihood.log_hazard_steps(outputs[:, at])
        last_months = float(self._outcome.time_months.max())
        return CausesReadout(times, log_steps, last_months, horizons_months)


def _likelihoods(outcome: CompetingRisks, ties: Ties) -> dict[int, CoxLikelihood]:
    """By position among the causes, for those of which there is an event."""
    return {
        at: CoxLikelihood(outcome.cause_specific(at + 1), ties)
        for at in range(len(outcome.causes))
        if (outcome.cause == at + 1).any()
    }


@dataclass(frozen=True, eq=False)
class CausesReadout:
    """From log-hazards of all causes to cumulative incidences.

    At each event time a patient who is still free of events leaves to the causes in the
    proportions of their hazards, and stays with probability ``exp(-sum of hazards)``: the product
    of the matrix exponentials of the hazards' increments, as R's ``survfit`` of a multi-state Cox
    model. Unlike one minus the sum of hazards it cannot become negative for a patient at high
    risk; for a single cause it is ``1 - exp(-cumulative hazard)``.

    Attributes
    ----------
    time_months : float64 array, shape (n_times,)
        Times of events of any cause in training, ascending.
    log_steps : float64 array, shape (n_causes, n_times)
        Logarithm of each baseline hazard's step; -inf where there is none.
    last_months : float
        Longest follow-up in training; nothing is known beyond it.
    horizons_months : tuple of float

    References
    ----------
    Aalen and Johansen, Scand. J. Stat. 5 (1978) 141-150. Therneau and Grambsch, Modeling Survival
    Data (2000), ch. 8 and 10.
    """

    time_months: Floats
    log_steps: Floats
    last_months: float
    horizons_months: tuple[float, ...]

    def __post_init__(self) -> None:
        for months in self.horizons_months:
            check_horizon(months, self.last_months)

    def read(self, outputs: Floats, notes: tuple[str, ...] = ()) -> ModelOutput:
        """The risk is the log-hazard of the first cause; probabilities are its incidence."""
        probabilities = horizon_risks(self.incidence, outputs, self.horizons_months)
        return ModelOutput(outputs[:, 0].copy(), probabilities, notes)

    def incidence(self, outputs: Floats, months: Sequence[float]) -> Floats:
        """Cumulative incidence, shape (n_causes, n_patients, n_times).

        Raises
        ------
        StatisticsError
            If a time does not lie within the training follow-up.
        """
        for time in months:
            check_horizon(time, self.last_months)
        log_hazard = self.log_steps[:, None, :] + outputs.T[:, :, None]
        hazard = np.exp(np.minimum(log_hazard, _LOG_CERTAIN))
        total = hazard.sum(axis=0)
        before = np.zeros_like(total)
        before[:, 1:] = np.cumsum(total, axis=1)[:, :-1]
        left = np.exp(-before) * -np.expm1(-total)
        share = np.divide(hazard, total, where=total > 0, out=np.zeros_like(hazard))
        cumulative = np.zeros((*hazard.shape[:2], hazard.shape[2] + 1))
        cumulative[:, :, 1:] = np.cumsum(left * share, axis=2)
        at = np.searchsorted(self.time_months, np.asarray(months, np.float64), side="right")
        return np.minimum(cumulative[:, :, at], 1.0)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays = {
            "time_months": self.time_months,
            "log_steps": self.log_steps,
            "last_months": np.array([self.last_months]),
        }
        return arrays, {"kind": "causes", "horizons_months": list(self.horizons_months)}

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> CausesReadout:
        """The same, from what was stored."""
        return cls(
            time_months=arrays["time_months"],
            log_steps=arrays["log_steps"],
            last_months=float(arrays["last_months"][0]),
            horizons_months=tuple(float(months) for months in settings["horizons_months"]),
        )
