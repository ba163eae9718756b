"""What a model says of one patient, and of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.steps.score_distribution import Distribution

Floats = NDArray[np.float64]

NO_SPREAD = "one model; no spread"


@dataclass(frozen=True)
class Score:
    """What a model says of one patient.

    Attributes
    ----------
    risk : float
        Higher is worse; on the model's own scale.
    probabilities : dict of str to float
        ``risk_at_<months>m`` or ``p_<class>``.
    risk_group : int
        0 is the lowest, by thresholds that were fixed on development data.
    risk_group_label : str
        E.g. ``low``, ``intermediate``, ``high``.
    spread_note : str
        Why there is no interval: a bundle holds one fit of a model, from which none can be had.
    out_of_distribution : bool or None
        Whether the patient is unlike those of development; None where something that the model
        sees could not be compared, and nothing else is unlike.
    out_of_distribution_reason : str
        In what, or what was not compared.
    missing_inputs : tuple of str
        What the model would have used and this patient lacks.
    n_tiles : int
        Tiles with features.
    n_storm_tiles : int
        Tiles of which STORM's embedding or imputed expression was given.
    notices : tuple of str
        What whoever reads the risk has to know of the model: not approved, retired, archived.
    model, state, bundle_digest : str
        Which model, exactly.
    """

    risk: float
    probabilities: Mapping[str, float]
    risk_group: int
    risk_group_label: str
    spread_note: str
    out_of_distribution: bool | None
    out_of_distribution_reason: str
    missing_inputs: tuple[str, ...]
    n_tiles: int
    n_storm_tiles: int
    notices: tuple[str, ...]
    model: str
    state: str
    bundle_digest: str


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model says of some patients, in their order.

    Attributes
    ----------
    risk : float64 array, shape (n_patients,)
    probabilities : dict of str to float64 array, shape (n_patients,)
    risk_group : int64 array, shape (n_patients,)
    distribution : Distribution
    missing_inputs : tuple of tuple of str
    """

    risk: Floats
    probabilities: Mapping[str, Floats]
    risk_group: NDArray[np.int64]
    distribution: Distribution
    missing_inputs: tuple[tuple[str, ...], ...]
