"""Pooled embeddings and clinical covariates as one design matrix for linear models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import ContractMismatch, InputError
from storm_clinic.heads.bags import Bags, usable_deviation
from storm_clinic.heads.contract import PatientData
from storm_clinic.heads.covariates import Covariates

Floats = NDArray[np.float64]


def image_of(data: PatientData, width: int | None = None) -> Bags:
    """The bags, refused where there are none or of another width than the model's.

    Raises
    ------
    InputError
        If these patients come without tiles.
    ContractMismatch
        If the embeddings have another width than those that the model was trained on.
    """
    if data.bags is None:
        raise InputError("the model sees the input 'image', and these patients have no bags")
    if width is not None and data.bags.width != width:
        raise ContractMismatch(
            f"embeddings have {data.bags.width} features, the model was trained on {width}",
            fix="Use features of the encoder that the model was trained with.",
        )
    return data.bags


def fit_covariates(data: PatientData, inputs: tuple[str, ...]) -> Covariates | None:
    """Preprocessing of the clinical table, if it is among the inputs."""
    if "clinical" not in inputs:
        return None
    if data.clinical is None or not len(data.clinical.columns):
        raise InputError("the model sees the input 'clinical', and there is no covariate")
    return Covariates.fit(data.clinical)


def encode_clinical(
    covariates: Covariates | None, data: PatientData
) -> tuple[Floats, tuple[str, ...]]:
    """Clinical block, (n_patients, n_covariates), without columns where it is no input."""
    if covariates is None:
        return np.empty((len(data), 0)), ()
    if data.clinical is None:
        raise InputError("the model sees the input 'clinical', and these patients have no table")
    return covariates.encode(data.clinical)


@dataclass(frozen=True, eq=False)
class Design:
    """Standardised mean embedding, then the clinical block.

    Attributes
    ----------
    centre, scale : float64 arrays, shape (width,)
        Of the training patients' mean embeddings; empty where the image is no input.
    covariates : Covariates, optional
    """

    centre: Floats
    scale: Floats
    covariates: Covariates | None

    @classmethod
    def fit(cls, data: PatientData, inputs: tuple[str, ...]) -> Design:
        """Learn from training patients."""
        covariates = fit_covariates(data, inputs)
        if "image" not in inputs:
            return cls(np.empty(0), np.empty(0), covariates)
        pooled = image_of(data).pooled_mean()
        centre = pooled.mean(axis=0)
        return cls(centre, usable_deviation(pooled.std(axis=0), centre), covariates)

    @property
    def n_image(self) -> int:
        """Columns that come from the embedding; the rest are clinical."""
        return len(self.centre)

    def encode(self, data: PatientData) -> tuple[Floats, tuple[str, ...]]:
        """Design matrix, (n_patients, n_columns), and notes on these patients."""
        clinical, notes = encode_clinical(self.covariates, data)
        if not self.n_image:
            return clinical, notes
        pooled = image_of(data, self.n_image).pooled_mean()
        return np.hstack([(pooled - self.centre) / self.scale, clinical]), notes

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays: dict[str, NDArray[Any]] = {"centre": self.centre, "scale": self.scale}
        return with_covariates(arrays, {}, self.covariates)

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Design:
        """The same, from what was stored."""
        return cls(arrays["centre"], arrays["scale"], restore_covariates(arrays, settings))


def with_covariates(
    arrays: dict[str, NDArray[Any]], settings: dict[str, Any], covariates: Covariates | None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """A state, with the clinical preprocessing's added where there is one."""
    if covariates is None:
        return arrays, {**settings, "covariates": None}
    more, rules = covariates.state()
    return arrays | add_prefix("covariates", more), {**settings, "covariates": rules}


def restore_covariates(
    arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
) -> Covariates | None:
    """The clinical preprocessing of a state, or None."""
    if settings["covariates"] is None:
        return None
    return Covariates.from_state(drop_prefix("covariates", arrays), settings["covariates"])


def add_prefix(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays under ``prefix.name``."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def drop_prefix(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays that are stored under ``prefix.``."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
