"""From a model's raw outputs to risks and probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from storm_clinic.errors import InputError
from storm_clinic.heads.baseline_hazard import BaselineHazard
from storm_clinic.heads.contract import ModelOutput

Floats = NDArray[np.float64]


class Readout(Protocol):
    """What turns raw outputs of shape (n_patients, n_outputs) into a `ModelOutput`."""

    def read(self, outputs: Floats, notes: tuple[str, ...] = ()) -> ModelOutput:
        """Risks and probabilities."""

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
        risk = outputs[:, 0]
        probabilities = {
            f"risk_at_{months:g}m": self.baseline.risk_at(risk, months)
            for months in self.horizons_months
        }
        return ModelOutput(risk, probabilities, notes)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        settings = {"kind": "hazard", "horizons_months": list(self.horizons_months)}
        return dict(self.baseline.arrays()), settings


@dataclass(frozen=True)
class ClassReadout:
    """Class probabilities; outputs are log-odds of each level against the first."""

    levels: tuple[str, ...]

    def read(self, outputs: Floats, notes: tuple[str, ...] = ()) -> ModelOutput:
        """Probabilities by softmax; the risk is the log-odds of the last level."""
        log_p = class_log_probabilities(outputs)
        risk = log_p[:, -1] - logsumexp(log_p[:, :-1], axis=1)
        probabilities = {f"p_{level}": np.exp(log_p[:, at]) for at, level in enumerate(self.levels)}
        return ModelOutput(np.asarray(risk), probabilities, notes)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        return {}, {"kind": "classes", "levels": list(self.levels)}


def class_log_probabilities(outputs: Floats) -> Floats:
    """Log-probabilities, (n_patients, n_levels), of log-odds against the first level."""
    against_first = np.hstack([np.zeros((len(outputs), 1)), outputs])
    return np.asarray(log_softmax(against_first, axis=1))


def restore_readout(
    arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
) -> HazardReadout | ClassReadout:
    """The readout whose state this was."""
    if settings["kind"] == "hazard":
        horizons = tuple(float(months) for months in settings["horizons_months"])
        return HazardReadout(BaselineHazard.from_arrays(arrays), horizons)
    if settings["kind"] == "classes":
        return ClassReadout(tuple(settings["levels"]))
    raise InputError(f"unknown readout {settings['kind']!r}", where="model settings")
