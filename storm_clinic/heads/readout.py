"""From a model's raw outputs to risks and probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from storm_clinic.errors import InputError, StatisticsError
from storm_clinic.heads.baseline_hazard import BaselineHazard
from storm_clinic.heads.causes import CausesReadout
from storm_clinic.heads.contract import ModelOutput
from storm_clinic.heads.horizons import horizon_risks
from storm_clinic.heads.interval_readout import IntervalReadout
from storm_clinic.heads.survival_steps import StepReadout
from storm_clinic.heads.weibull import WeibullReadout

Floats = NDArray[np.float64]


class Readout(Protocol):
    """What turns raw outputs of shape (n_patients, n_outputs) into a `ModelOutput`."""

    def read(self, outputs: Floats, notes: tuple[str, ...] = ()) -> ModelOutput:
        """Risks and probabilities."""

    def incidence(self, outputs: Floats, months: Sequence[float]) -> Floats:
        """Probability of each cause's event by any time, (n_causes, n_patients, n_times)."""

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""


@dataclass(frozen=True, eq=False)
class HazardReadout:
    """Log-hazards, and the probability of the event by each horizon."""

    baseline: BaselineHazard
    horizons_months: tuple[float, ...]

    def __post_init__(self) -> None:
        for months in self.horizons_months:
            self.baseline.check_horizon(months)

    def read(self, outputs: Floats, notes: tuple[str, ...] = ()) -> ModelOutput:
        """The first output is the log-hazard."""
        probabilities = horizon_risks(self.incidence, outputs, self.horizons_months)
        return ModelOutput(outputs[:, 0], probabilities, notes)

    def incidence(self, outputs: Floats, months: Sequence[float]) -> Floats:
        """Probability of the event by each time, shape (1, n_patients, n_times)."""
        risks = [self.baseline.risk_at(outputs[:, 0], time) for time in months]
        return np.stack(risks, axis=-1)[None]

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        settings = {"kind": "hazard", "horizons_months": list(self.horizons_months)}
        return dict(self.baseline.arrays()), settings


@dataclass(frozen=True)
class ClassReadout:
    """Class probabilities; outputs are log-odds of each level against the first.

    Attributes
    ----------
    levels : tuple of str
    offsets : tuple of float
        Taken from the outputs first, one each: what weights of classes put into them.
    """

    levels: tuple[str, ...]
    offsets: tuple[float, ...] = ()

    def read(self, outputs: Floats, notes: tuple[str, ...] = ()) -> ModelOutput:
        """Probabilities by softmax; the risk is the log-odds of the last level."""
        log_p = class_log_probabilities(outputs - np.array(self.offsets or 0.0))
        risk = log_p[:, -1] - logsumexp(log_p[:, :-1], axis=1)
        probabilities = {f"p_{level}": np.exp(log_p[:, at]) for at, level in enumerate(self.levels)}
        return ModelOutput(np.asarray(risk), probabilities, notes)

    def incidence(self, _outputs: Floats, _months: Sequence[float]) -> Floats:
        """Refused: classes have no times."""
        raise StatisticsError("a model of classes says nothing about times")

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        settings = {"kind": "classes", "levels": list(self.levels), "offsets": list(self.offsets)}
        return {}, settings


def class_log_probabilities(outputs: Floats) -> Floats:
    """Log-probabilities, (n_patients, n_levels), of log-odds against the first level."""
    against_first = np.hstack([np.zeros((len(outputs), 1)), outputs])
    return np.asarray(log_softmax(against_first, axis=1))


def restore_readout(arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Readout:
    """The readout whose state this was."""
    kind = settings["kind"]
    if kind == "hazard":
        horizons = tuple(float(months) for months in settings["horizons_months"])
        return HazardReadout(BaselineHazard.from_arrays(arrays), horizons)
    if kind == "classes":
        return ClassReadout(tuple(settings["levels"]), tuple(settings["offsets"]))
    if kind in ("discrete-hazard", "deephit"):
        return IntervalReadout.from_state(arrays, settings)
    if kind == "causes":
        return CausesReadout.from_state(arrays, settings)
    if kind == "steps":
        return StepReadout.from_state(arrays, settings)
    if kind == "weibull":
        return WeibullReadout.from_state(arrays, settings)
    raise InputError(f"unknown readout {kind!r}", where="model settings")
