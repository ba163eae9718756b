"""Weibull accelerated failure time: one log-scale a patient, one shape for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from storm_clinic.cohort.outcome import Outcome, Survival
from storm_clinic.errors import TrainingError
from storm_clinic.heads.contract import ModelOutput
from storm_clinic.heads.horizons import check_horizon, horizon_risks
from storm_clinic.heads.intervals import require_events

Floats = NDArray[np.float64]

_LARGEST = 500.0  # of a log cumulative hazard: its exponential is still finite
# Of log sigma. Deaths at a single time have their maximum at a spike, which this keeps finite.
_SHARPEST, _FLATTEST = -5.0, 20.0


class WeibullObjective:
    """Log-likelihood of ``log T = mu + sigma * W``, where W has the extreme value distribution.

    Outputs are ``mu`` (months, logarithm) and ``log sigma``; the second is shared by all patients,
    so that hazards are proportional and the model is R's ``survreg(dist = "weibull")``.

    Parameters
    ----------
    outcome : Survival
        Of the training patients; entry times condition on having lived so long.

    References
    ----------
    Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data (2002), ch. 2 and 3.
    """

    n_outputs = 2
    n_branches = 1
    separable = True

    def __init__(self, outcome: Survival) -> None:
        require_events(outcome)
        self._outcome = outcome
        self.shared = np.array([False, True])
        self.branch = outcome.event.astype(np.int64) - 1

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Mean negative log-likelihood of a patient, and its gradient."""
        value, gradient = _log_likelihood(self._outcome, outputs)
        return float(-value.mean()), -gradient / len(outputs)

    def start(self) -> Floats:
        """Scale and shape of everybody together, by maximum likelihood.

        Raises
        ------
        TrainingError
            If the likelihood has no maximum.
        """
        ones = np.ones((len(self._outcome), 1))
        follow_up = self._outcome.time_months.sum()
        first = np.array([np.log(follow_up / self._outcome.n_events), 0.0])

        def objective(theta: Floats) -> tuple[float, Floats]:
            loss, gradient = self.loss(ones * theta)
            return loss, gradient.sum(axis=0)

        found = minimize(
            objective, first, jac=True, method="L-BFGS-B", bounds=[(None, None), (_SHARPEST, 5)]
        )
        if not np.isfinite(found.fun):
            raise TrainingError("the Weibull likelihood of these times has no maximum")
        return np.asarray(found.x)

    def held_out(self, outcome: Outcome, outputs: Floats) -> float:
        """Log-likelihood of patients who were not trained on, summed."""
        assert isinstance(outcome, Survival)
        return float(_log_likelihood(outcome, outputs)[0].sum())

    def readout(self, _outputs: Floats, horizons_months: tuple[float, ...]) -> WeibullReadout:
        """From scale and shape to risks; nothing more is learned for it."""
        return WeibullReadout(float(self._outcome.time_months.max()), horizons_months)


@dataclass(frozen=True)
class WeibullReadout:
    """What ``mu`` and ``log sigma`` say.

    Attributes
    ----------
    last_months : float
        Longest follow-up in training; nothing is extrapolated beyond it.
    horizons_months : tuple of float
    """

    last_months: float
    horizons_months: tuple[float, ...]

    def __post_init__(self) -> None:
        for months in self.horizons_months:
            check_horizon(months, self.last_months)

    def read(self, outputs: Floats, notes: tuple[str, ...] = ()) -> ModelOutput:
        """Risks and probabilities; the risk is the log-hazard but for a constant, -mu / sigma."""
        risk = -outputs[:, 0] * _by_sigma(outputs)
        probabilities = horizon_risks(self.incidence, outputs, self.horizons_months)
        return ModelOutput(np.asarray(risk), probabilities, notes)

    def incidence(self, outputs: Floats, months: Sequence[float]) -> Floats:
        """Probability of the event by each time, shape (1, n_patients, n_times)."""
        for time in months:
            check_horizon(time, self.last_months)
        log_time = np.log(np.asarray(months, dtype=np.float64))
        log_hazard = (log_time[None, :] - outputs[:, :1]) * _by_sigma(outputs)[:, None]
        return np.asarray(-np.expm1(-np.exp(np.minimum(log_hazard, _LARGEST))))[None]

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        settings = {"kind": "weibull", "horizons_months": list(self.horizons_months)}
        return {"last_months": np.array([self.last_months])}, settings

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> WeibullReadout:
        """The same, from what was stored."""
        horizons = tuple(float(months) for months in settings["horizons_months"])
        return cls(float(arrays["last_months"][0]), horizons)


def _log_likelihood(outcome: Survival, outputs: Floats) -> tuple[Floats, Floats]:
    """Of each patient, shape (n_patients,), and its gradient by both outputs, (n_patients, 2)."""
    by_sigma = _by_sigma(outputs)
    log_time = np.log(outcome.time_months)
    z = (log_time - outputs[:, 0]) * by_sigma
    hazard = np.exp(np.minimum(z, _LARGEST))
    event = outcome.event.astype(np.float64)
    value = event * (z + np.log(by_sigma) - log_time) - hazard
    by_z = event - hazard
    gradient = np.column_stack([-by_z * by_sigma, -by_z * z - event])
    if outcome.entry_months is not None:
        late = outcome.entry_months > 0
        z0 = (np.log(outcome.entry_months[late]) - outputs[late, 0]) * by_sigma[late]
        lived = np.exp(np.minimum(z0, _LARGEST))
        value[late] += lived
        gradient[late] += np.column_stack([-lived * by_sigma[late], -lived * z0])
    gradient[(outputs[:, 1] < _SHARPEST) | (outputs[:, 1] > _FLATTEST), 1] = 0.0
    return value, gradient


def _by_sigma(outputs: Floats) -> Floats:
    return np.asarray(np.exp(-np.clip(outputs[:, 1], _SHARPEST, _FLATTEST)))
