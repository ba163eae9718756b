"""Survival curves that are steps, as survival forests predict: how they are judged and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from storm_clinic.cohort.outcome import Outcome, Survival
from storm_clinic.heads.contract import ModelOutput
from storm_clinic.heads.horizons import check_horizon, horizon_risks
from storm_clinic.heads.survival import CoxLikelihood

Floats = NDArray[np.float64]

_INTERVALS = 10
_EVEN = 0.01  # share of every prediction that is spread evenly over the intervals when judged
_ALMOST = 1e-12  # mean incidences closer to 0 or 1 than this are told apart no more


class StepsObjective:
    """Log-likelihood of coarse times, under survival curves predicted as steps.

    A step function has no density, and patients who fail between two steps would have the
    likelihood 0. Times are therefore told apart only by the interval they fall into, between
    deciles of the training events: an event counts with the probability of its interval, a
    censored patient as having lived to the last cut before. One percent of each prediction is
    spread evenly over the intervals, so that no event is impossible. The cuts depend on the
    training outcomes alone, so that the number compares settings of one head, all of it proper:
    apart from that percent, nothing scores better than the true probabilities.

    Parameters
    ----------
    outcome : Survival
        Of the training patients.

    Raises
    ------
    TrainingError
        If no event happened.
    """

    def __init__(self, outcome: Survival) -> None:
        CoxLikelihood(outcome)  # refuses outcomes without an event
        self._outcome = outcome
        self._times = np.unique(outcome.time_months)
        deciles = np.linspace(0, 1, _INTERVALS + 1)[1:]
        of_events = outcome.time_months[outcome.event]
        self._cuts = np.unique(np.quantile(of_events, deciles, method="inverted_cdf"))

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """Negative log-likelihood of a training patient; trees do not follow its gradient, 0."""
        return -self.held_out(self._outcome, outputs) / len(outputs), np.zeros_like(outputs)

    def held_out(self, outcome: Outcome, outputs: Floats) -> float:
        """Log-likelihood of these patients' intervals, summed."""
        assert isinstance(outcome, Survival)
        survival = _with_start(outputs)[:, np.searchsorted(self._times, self._cuts, side="right")]
        survival = np.column_stack([np.ones(len(outputs)), survival])
        n_intervals = survival.shape[1]  # the last is after the last cut
        even = 1 - np.arange(n_intervals) / n_intervals
        survival = (1 - _EVEN) * survival + _EVEN * even
        rows = np.arange(len(outputs))
        # An interval includes its end: who fails at a cut fails in the interval before it.
        of_event = np.searchsorted(self._cuts, outcome.time_months, side="left")
        lived_to = np.searchsorted(self._cuts, outcome.time_months, side="right")
        after = np.column_stack([survival[:, 1:], np.zeros(len(outputs))])
        mass = survival[rows, of_event] - after[rows, of_event]
        return float(np.log(np.where(outcome.event, mass, survival[rows, lived_to])).sum())

    def readout(self, outputs: Floats, horizons_months: tuple[float, ...]) -> StepReadout:  # noqa: ARG002
        """The times of the steps; nothing more is learned for it."""
        last_event = float(self._cuts[-1])
        return StepReadout(self._times, last_event, horizons_months)


@dataclass(frozen=True, eq=False)
class StepReadout:
    """From survival at each of a number of times to risks.

    Attributes
    ----------
    time_months : float64 array, shape (n_times,)
        From each of these times on the survival is the output of that position. The last is the
        longest follow-up in training; nothing is known beyond it.
    last_event_months : float
        Last event in training.
    horizons_months : tuple of float
    """

    time_months: Floats
    last_event_months: float
    horizons_months: tuple[float, ...]

    def __post_init__(self) -> None:
        for months in self.horizons_months:
            check_horizon(months, self._last_months)

    def read(self, outputs: Floats, notes: tuple[str, ...] = ()) -> ModelOutput:
        """Risks and probabilities; the risk is the log-odds of the share of time that is lost.

        Curves may cross, so that no single number orders patients at every horizon. The mean
        probability of the event up to the last event of training is the time lost to it, over
        that whole time.
        """
        up_to = np.append(self.time_months[self.time_months < self.last_event_months], np.nan)
        up_to[-1] = self.last_event_months
        lengths = np.diff(np.concatenate([[0.0], up_to]))
        lost = ((1 - _with_start(outputs)[:, : len(lengths)]) * lengths).sum(axis=1)
        share = np.clip(lost / self.last_event_months, _ALMOST, 1 - _ALMOST)
        probabilities = horizon_risks(self.incidence, outputs, self.horizons_months)
        return ModelOutput(np.asarray(logit(share)), probabilities, notes)

    def incidence(self, outputs: Floats, months: Sequence[float]) -> Floats:
        """Probability of the event by each time, shape (1, n_patients, n_times).

        Raises
        ------
        StatisticsError
            If a time does not lie within the training follow-up.
        """
        for time in months:
            check_horizon(time, self._last_months)
        at = np.searchsorted(self.time_months, np.asarray(months, np.float64), side="right")
        return np.clip(1 - _with_start(outputs)[:, at], 0.0, 1.0)[None]

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays = {
            "time_months": self.time_months,
            "last_event_months": np.array([self.last_event_months]),
        }
        return arrays, {"kind": "steps", "horizons_months": list(self.horizons_months)}

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> StepReadout:
        """The same, from what was stored."""
        return cls(
            time_months=arrays["time_months"],
            last_event_months=float(arrays["last_event_months"][0]),
            horizons_months=tuple(float(months) for months in settings["horizons_months"]),
        )

    @property
    def _last_months(self) -> float:
        return float(self.time_months[-1])


def _with_start(outputs: Floats) -> Floats:
    """Survival curves with the 1 from which they start."""
    return np.column_stack([np.ones(len(outputs)), outputs])
