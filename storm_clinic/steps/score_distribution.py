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
    not_compared = []
    if "clinical" in inputs and data.clinical is not None:
        covariates = _covariates(fitted)
        if covariates is None:
            not_compared.append("covariates (unknown to this head)")
        else:
            _compare_levels(covariates, data.clinical, unlike)
            # The bundle does not hold from where to where development's numbers went.
            not_compared += [f"range of {c.name}" for c in covariates.columns if not c.levels]
    if "image" in inputs and not _compare_tiles(bundle, data.tiles("image"), unlike):
        not_compared.append("image (the bundle has no reference)")
    not_compared += [name for name in inputs if kind_of(name) == "table"]
    told = [f"not compared: {', '.join(not_compared)}"] if not_compared else []
    like: bool | None = None if not_compared else False
    return Distribution(
        tuple(True if found else like for found in unlike),
        tuple("; ".join([*found, *told]) for found in unlike),
    )


def _compare_tiles(bundle: Bundle, bags: Bags, unlike: list[list[str]]) -> bool:
    """Hold mean embeddings against the bundle's reference; whether it has one."""
    reference = getattr(bundle, "reference", None)
    if reference is None:
        return False
    distances = reference.distance(bags.pooled_mean())
    for at in np.flatnonzero(distances > reference.threshold):
        unlike[at].append(
            f"image: distance {distances[at]:.3g} from development, "
            f"99% of which lies within {reference.threshold:.3g}"
        )
    return True


def _covariates(fitted: FittedModel) -> Covariates | None:
    if isinstance(fitted, DesignModel):
        return fitted.design.covariates
    return fitted.inputs.covariates if isinstance(fitted, NetworkModel) else None


def _compare_levels(
    covariates: Covariates, clinical: pd.DataFrame, unlike: list[list[str]]
) -> None:
    """Declared levels that nobody in training had."""
    for column in covariates.columns:
        if column.kind == "continuous":
            continue
        values = clinical[column.name]
        for at in np.flatnonzero(values.notna() & ~values.astype(object).isin(column.seen)):
            unlike[at].append(f"{column.name}: nobody in development was {values.iloc[at]!r}")
