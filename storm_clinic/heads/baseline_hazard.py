"""Baseline cumulative hazard of a Cox model: from log-hazards to risks at a horizon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from storm_clinic.cohort.outcome import Survival
from storm_clinic.heads.horizons import check_horizon
from storm_clinic.heads.survival import CoxLikelihood, Floats, Ties

_LOG_CERTAIN = 50.0  # a cumulative hazard of e^50 is certainty; e^710 would overflow


@dataclass(frozen=True, eq=False)
class BaselineHazard:
    """Step function of the cumulative hazard of a patient whose log-hazard is 0.

    Attributes
    ----------
    time_months : float64 array, shape (n_event_times,)
        Distinct event times of the training data, ascending.
    log_cumulative : float64 array, shape (n_event_times,)
        Logarithm of the cumulative hazard from each of these times on.
    last_months : float
        Longest follow-up in training; nothing is known beyond it.
    """

    time_months: Floats
    log_cumulative: Floats
    last_months: float

    @classmethod
    def fit(cls, outcome: Survival, risk: Floats, ties: Ties = "efron") -> BaselineHazard:
        """Estimate from training outcomes and log-hazards, with ties as in the likelihood.

        Without ties both ways are Breslow's estimator; R's ``basehaz`` gives the same.

        Raises
        ------
        TrainingError
            If no event happened.
        """
        likelihood = CoxLikelihood(outcome, ties)
        log_cumulative = np.logaddexp.accumulate(likelihood.log_hazard_steps(risk))
        return cls(likelihood.event_times, log_cumulative, float(outcome.time_months.max()))

    def risk_at(self, risk: Floats, months: float) -> Floats:
        """Probability of the event by ``months``, for log-hazards of shape (n_patients,).

        Raises
        ------
        StatisticsError
            If the horizon is not within the training data's follow-up.
        """
        self.check_horizon(months)
        step = int(np.searchsorted(self.time_months, months, side="right")) - 1
        if step < 0:
            return np.zeros(len(risk))
        log_hazard = np.minimum(self.log_cumulative[step] + risk, _LOG_CERTAIN)
        return np.asarray(-np.expm1(-np.exp(log_hazard)))

    def check_horizon(self, months: float) -> None:
        """Refuse a horizon that no training patient was followed to."""
        check_horizon(months, self.last_months)

    def arrays(self) -> dict[str, Floats]:
        """What is stored of it."""
        return {
            "time_months": self.time_months,
            "log_cumulative": self.log_cumulative,
            "last_months": np.array([self.last_months]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> BaselineHazard:
        """The same, from what was stored."""
        return cls(arrays["time_months"], arrays["log_cumulative"], float(arrays["last_months"][0]))
