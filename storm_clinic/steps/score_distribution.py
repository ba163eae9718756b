"""Whether patients are like those a model was developed on, as far as its bundle can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from storm_clinic.bundle import Bundle
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import FittedModel, PatientData
from storm_clinic.heads.covariates import Covariates
from storm_clinic.heads.design_head import DesignModel
from storm_clinic.heads.network_head import NetworkModel
from storm_clinic.study import kind_of


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
    """Compare covariates, and the mean of the tiles, with those of development.

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
    not_compared: list[str] = []
    if "clinical" in inputs and data.clinical is not None:
        not_compared += _compare_ranges(bundle, data.clinical, unlike)
        not_compared += _compare_levels(_covariates(fitted), data.clinical, unlike)
    if "image" in inputs:
        not_compared += _compare_tiles(bundle, data.tiles("image"), unlike)
    not_compared += [name for name in inputs if kind_of(name) == "table"]
    told = [f"not compared: {', '.join(not_compared)}"] if not_compared else []
    like: bool | None = None if not_compared else False
    return Distribution(
        tuple(True if found else like for found in unlike),
        tuple("; ".join([*found, *told]) for found in unlike),
    )


# Each of these adds what is unlike to its patients, and returns what could not be compared.


def _compare_tiles(bundle: Bundle, bags: Bags, unlike: list[list[str]]) -> list[str]:
    """Mean embeddings against the bundle's reference."""
    reference = bundle.reference
    if reference is None:
        why = bundle.manifest.without_reference.get("image", "the bundle has no reference")
        return [f"image ({why})"]
    distances = reference.distance(bags.pooled_mean())
    for at in np.flatnonzero(distances > reference.threshold):
        unlike[at].append(
            f"image: distance {distances[at]:.3g} from development, "
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
