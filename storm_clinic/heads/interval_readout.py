"""From a discrete-time model's outputs to risks and cumulative incidences at any month."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logit

from storm_clinic.heads.contract import ModelOutput
from storm_clinic.heads.horizons import check_horizon, horizon_risks
from storm_clinic.heads.intervals import TimeGrid

Floats = NDArray[np.float64]

_ALMOST = 1e-12  # mean incidences closer to 0 or 1 than this are told apart no more


@dataclass(frozen=True, eq=False)
class IntervalReadout:
    """What the outputs of a discrete-time model say.

    Attributes
    ----------
    kind : "discrete-hazard" or "deephit"
        Whether outputs are hazards of each interval, whose hazard is then constant inside it, or
        probabilities of it, whose density is then constant inside it.
    grid : TimeGrid
    n_causes : int
    horizons_months : tuple of float
    """

    kind: Literal["discrete-hazard", "deephit"]
    grid: TimeGrid
    n_causes: int
    horizons_months: tuple[float, ...]

    def __post_init__(self) -> None:
        for months in self.horizons_months:
            check_horizon(months, self.grid.last_months)

    def read(self, outputs: Floats, notes: tuple[str, ...] = ()) -> ModelOutput:
        """Risks and probabilities; the risk is the log-odds of the share of time that is lost.

        Hazards may cross, so that no single number orders patients at every horizon. The mean
        incidence of the first cause up to the last event of training is the time lost to it,
        over that whole time.
        """
        of_first = self._at_cuts(outputs)[0]
        edges = np.concatenate([[0.0], self.grid.cuts])
        padded = np.hstack([np.zeros((len(outputs), 1)), of_first])
        lost = np.trapezoid(padded, edges, axis=1) / edges[-1]
        risk = logit(np.clip(lost, _ALMOST, 1 - _ALMOST))
        probabilities = horizon_risks(self.incidence, outputs, self.horizons_months)
        return ModelOutput(np.asarray(risk), probabilities, notes)

    def incidence(self, outputs: Floats, months: Sequence[float]) -> Floats:
        """Cumulative incidence, shape (n_causes, n_patients, n_times).

        Raises
        ------
        StatisticsError
            If a time does not lie within the training follow-up.
        """
        found = []
        at_cuts = self._at_cuts(outputs)
        before = np.concatenate([np.zeros((*at_cuts.shape[:2], 1)), at_cuts], axis=2)
        edges = np.concatenate([[0.0], self.grid.cuts])
        for time in months:
            check_horizon(time, self.grid.last_months)
            at = int(np.searchsorted(self.grid.cuts, time, side="left"))
            if at == self.grid.n_intervals:  # nothing happened after the last event of training
                found.append(before[..., -1])
                continue
            share = (time - edges[at]) / (edges[at + 1] - edges[at])
            step = before[..., at + 1] - before[..., at]
            if self.kind == "discrete-hazard":
                share = self._of_constant_hazard(before[..., at], step, share)
            found.append(before[..., at] + share * step)
        return np.stack(found, axis=-1)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays = {"cuts": self.grid.cuts, "last_months": np.array([self.grid.last_months])}
        settings = {
            "kind": self.kind,
            "n_causes": self.n_causes,
            "horizons_months": list(self.horizons_months),
        }
        return arrays, settings

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> IntervalReadout:
        """The same, from what was stored."""
        return cls(
            kind=settings["kind"],
            grid=TimeGrid(arrays["cuts"], float(arrays["last_months"][0])),
            n_causes=int(settings["n_causes"]),
            horizons_months=tuple(float(months) for months in settings["horizons_months"]),
        )

    @staticmethod
    def _of_constant_hazard(before: Floats, step: Floats, share: float) -> Floats:
        """Share of an interval's incidence that has come after a share of its time."""
        survived = 1 - before.sum(axis=0)
        hazard = np.divide(
            step.sum(axis=0), survived, where=survived > 0, out=np.ones_like(survived)
        )
        hazard = np.clip(hazard, 0.0, 1.0)
        # expm1 and log1p keep the digits of small hazards; a certain one comes at once.
        with np.errstate(divide="ignore"):
            lived = -np.expm1(share * np.log1p(-hazard))
        ratio = np.divide(lived, hazard, where=hazard > 0, out=np.full_like(hazard, share))
        return np.asarray(ratio)[None]

    def _at_cuts(self, outputs: Floats) -> Floats:
        """Incidence at the end of each interval, (n_causes, n_patients, n_intervals)."""
        n, n_intervals = len(outputs), self.grid.n_intervals
        shape = (n, self.n_causes, n_intervals)
        if self.kind == "deephit":
            p = np.exp(log_softmax(np.hstack([np.zeros((n, 1)), outputs]), axis=1))
            incidence = p[:, 1:].reshape(shape).cumsum(axis=2)
        else:
            none = np.zeros((n, 1, n_intervals))
            log_p = log_softmax(np.concatenate([none, outputs.reshape(shape)], axis=1), axis=1)
            survival = np.exp(np.cumsum(log_p[:, 0], axis=1))
            before = np.hstack([np.ones((n, 1)), survival[:, :-1]])
            incidence = (before[:, None] * np.exp(log_p[:, 1:])).cumsum(axis=2)
        return np.asarray(np.minimum(incidence, 1.0).transpose(1, 0, 2))
