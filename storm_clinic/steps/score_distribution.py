"""Whether patients are like those a model was developed on, as far as its bundle can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.bundle import Bundle
from storm_clinic.heads.contract import FittedModel, PatientData
from storm_clinic.heads.covariates import Covariates
from storm_clinic.heads.design_head import DesignModel
from storm_clinic.heads.network_head import NetworkModel
from storm_clinic.study import IMPUTED, TILES, kind_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """Of some patients, in their order.

    Attributes
    ----------
    outside : tuple of bool or None
        True where something of the patient is unlike development; False where everything was
        compared and is like it; None where something could not be compared.
    reasons : tuple of str
        What is unlike development, and what was not compared.
    """

    outside: tuple[bool | None, ...]
    reasons: tuple[str, ...]


def compare_with_development(
    bundle: Bundle, fitted: FittedModel, data: PatientData, inputs: Sequence[str]
) -> Distribution:
    """Compare covariates, means of tiles, and imputed expression with those of development.

    Parameters
    ----------
    bundle : Bundle
        Holds what is known of development.
    fitted : FittedModel
        The model, which knows the levels that occurred in training.
    data : PatientData
        The patients.
    inputs : sequence of str
        What the model sees.
    """
    unlike: list[list[str]] = [[] for _ in range(len(data))]
    untold: list[list[str]] = [[] for _ in range(len(data))]
    not_compared: list[str] = []
    if "clinical" in inputs and data.clinical is not None:
        not_compared += _compare_ranges(bundle, data.clinical, unlike)
        not_compared += _compare_levels(_covariates(fitted), data.clinical, unlike)
    for name in (name for name in TILES if name in inputs):
        not_compared += _compare_means(bundle, name, data.tiles(name).pooled_mean(), unlike)
    if IMPUTED in inputs:
        values = data.table(IMPUTED).to_numpy(np.float64)
        lacking = np.isnan(values).sum(axis=1)
        for at in np.flatnonzero((lacking > 0) & (lacking < values.shape[1])):
            untold[at].append(f"{IMPUTED} ({lacking[at]} genes are not known)")
        not_compared += _compare_means(bundle, IMPUTED, values, unlike)
    not_compared += [name for name in inputs if kind_of(name) == "table" and name != IMPUTED]
    missed = [[*not_compared, *of] for of in untold]
    told = [[f"not compared: {', '.join(names)}"] if names else [] for names in missed]
    return Distribution(
        tuple(
            True if found else (None if names else False)
            for found, names in zip(unlike, missed, strict=True)
        ),
        tuple("; ".join([*found, *of]) for found, of in zip(unlike, told, strict=True)),
    )


# Each of these adds what is unlike to its patients, and returns what could not be compared.


def _compare_means(bundle: Bundle, name: str, means: Floats, unlike: list[list[str]]) -> list[str]:
    """Mean embeddings, or imputed expression, against the bundle's reference; NaN is not far."""
    reference = bundle.references.get(name)
    if reference is None:
        why = bundle.manifest.without_reference.get(name, "the bundle has no reference")
        return [f"{name} ({why})"]
    distances = reference.distance(means)
    for at in np.flatnonzero(distances > reference.threshold):
        unlike[at].append(
            f"{name}: distance {distances[at]:.3g} from development, "
            f"99% of which lies within {reference.threshold:.3g}"
        )
    return []


def _compare_ranges(bundle: Bundle, clinical: pd.DataFrame, unlike: list[list[str]]) -> list[str]:
    """Numbers against the range they had in development."""
    not_compared = []
    for column in bundle.manifest.clinical:
        if column.kind != "continuous":
            continue
        if column.observed is None:
            not_compared.append(f"range of {column.name}")
            continue
        values = clinical[column.name].to_numpy(np.float64)
        for at in np.flatnonzero(column.observed.is_outside(values)):
            unlike[at].append(
                f"{column.name}: {values[at]:g} lies outside development's "
                f"{column.observed.lowest:g} to {column.observed.highest:g}"
            )
    return not_compared


def _covariates(fitted: FittedModel) -> Covariates | None:
    if isinstance(fitted, DesignModel):
        return fitted.design.covariates
    return fitted.inputs.covariates if isinstance(fitted, NetworkModel) else None


def _compare_levels(
    covariates: Covariates | None, clinical: pd.DataFrame, unlike: list[list[str]]
) -> list[str]:
    """Declared levels that nobody in training had."""
    if covariates is None:
        return ["levels (this head does not say which it has seen)"]
    for column in covariates.columns:
        if column.kind == "continuous":
            continue
        values = clinical[column.name]
        for at in np.flatnonzero(values.notna() & ~values.astype(object).isin(column.seen)):
            unlike[at].append(f"{column.name}: nobody in development was {values.iloc[at]!r}")
    return []
