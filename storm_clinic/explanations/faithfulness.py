"""Can a map be believed? Deletion curves: the risk as tiles go, the most weighty first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import StatisticsError
from storm_clinic.explanations.occlusion import risks_of_parts
from storm_clinic.heads.contract import FittedModel, PatientData

Floats = NDArray[np.float64]

STEPS = 10
_RANDOM_ORDERS = 5
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class DeletionCurve:
    """How far one patient's risk has moved after each share of tiles is gone.

    Attributes
    ----------
    share : float64 array, shape (n_steps + 1,)
        Of tiles that are gone, from 0; the last tile stays.
    highest, lowest, random : float64 arrays, shape (n_steps + 1,)
        Change of the risk since all tiles were there: the highest scores first, the lowest first,
        and the mean over random orders.
    """

    share: Floats
    highest: Floats
    lowest: Floats
    random: Floats

    @property
    def gain(self) -> float:
        """Area between the random and the highest-first curve.

        Positive where taking away what the map calls important lowers the risk sooner than chance.
        """
        return float(np.trapezoid(self.random - self.highest, self.share))


@dataclass(frozen=True)
class Faithfulness:
    """What deletion curves of several patients say of a map.

    Attributes
    ----------
    gain, lower, upper : float
        Mean area and its 95% interval over resampled patients.
    n_patients : int
    """

    gain: float
    lower: float
    upper: float
    n_patients: int

    @property
    def sentence(self) -> str:
        """In words that do not outrun the interval."""
        if self.lower > 0:
            return "Taking away the tiles that the map marks lowers the risk sooner than chance."
        if self.upper < 0:
            return (
                "Taking away the tiles that the map marks lowers the risk later than chance: "
                "the map marks what speaks against the event, or nothing that matters."
            )
        return "The map is not shown to be more faithful than tiles drawn at random."


def deletion_curve(
    model: FittedModel,
    patient: PatientData,
    scores: Floats,
    *,
    seed: int,
    input_name: str = "image",
) -> DeletionCurve:
    """Take a patient's tiles away by their scores, and at random.

    Parameters
    ----------
    model : FittedModel
        Whose weights are asked.
    patient : PatientData
        Of one patient with at least two tiles of that input.
    scores : float array, shape (n_tiles,)
        What the map says of each tile.
    seed : int
        Of the random orders.
    input_name : str
        An input of tiles that the model sees; tiles of other inputs stay.

    Raises
    ------
    StatisticsError
        If there is only one tile.

    References
    ----------
    Petsiuk, Das and Saenko, RISE, BMVC 2018 (the deletion metric).
    """
    n = len(scores)
    if n < 2:
        raise StatisticsError("a deletion curve needs at least two tiles")
    gone = np.unique(np.floor(np.linspace(0, n - 1, STEPS + 1)).astype(np.int64))
    rng = np.random.default_rng(seed)
    highest = np.argsort(-scores, kind="stable")
    orders = [highest, highest[::-1], *(rng.permutation(n) for _ in range(_RANDOM_ORDERS))]
    parts = [np.sort(order[k:]) for order in orders for k in gone]
    risks = risks_of_parts(model, patient, parts, input_name=input_name)
    risks = risks.reshape(len(orders), len(gone))
    moved = risks - risks[:, :1]
    return DeletionCurve(gone / n, moved[0], moved[1], moved[2:].mean(axis=0))


def judge(curves: list[DeletionCurve], *, seed: int) -> Faithfulness:
    """Mean area over patients, with a bootstrap interval of patients.

    Raises
    ------
    StatisticsError
        If there is no curve.
    """
    if not curves:
        raise StatisticsError("no patient has two tiles")
    gains = np.array([curve.gain for curve in curves])
    rng = np.random.default_rng(seed)
    means = gains[rng.integers(0, len(gains), (_RESAMPLES, len(gains)))].mean(axis=1)
    lower, upper = np.quantile(means, [0.025, 0.975])
    return Faithfulness(float(gains.mean()), float(lower), float(upper), len(gains))
