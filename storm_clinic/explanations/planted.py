"""Where the truth is known, because it was simulated: do a map's high tiles lie on it?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from storm_clinic.errors import StatisticsError

Floats = NDArray[np.float64]

_MAJORITY = 0.5  # a tile with this share of it counts as planted; without any as not
_RESAMPLES = 500


@dataclass(frozen=True)
class Landing:
    """How well a map tells planted from other tiles.

    Attributes
    ----------
    auc, lower, upper : float
        Area under the ROC curve over tiles; interval over resampled patients.
    n_planted, n_other, n_mixed, n_patients : int
        Tiles that are mostly planted, not at all, and in between (left out); and patients.
    """

    auc: float
    lower: float
    upper: float
    n_planted: int
    n_other: int
    n_mixed: int
    n_patients: int

    def __str__(self) -> str:
        counted = f"{self.n_planted + self.n_other} tiles of {self.n_patients} patients"
        interval = f"{self.auc:.2f} ({self.lower:.2f} to {self.upper:.2f})"
        return f"{interval}, {counted}; {self.n_mixed} mixed tiles left out"


def land(scores: list[Floats], shares: list[Floats], *, seed: int) -> Landing:
    """Compare a map with the planted share of each tile.

    Parameters
    ----------
    scores : list of float array, shape (n_tiles,)
        One a patient; for attention, times the patient's tiles, so that bags compare.
    shares : list of float array, shape (n_tiles,)
        Planted share of each tile's area.
    seed : int
        Of the resamples.

    Raises
    ------
    StatisticsError
        If there are no planted tiles, or no others.
    """
    values, truth = np.concatenate(scores), np.concatenate(shares)
    patient = np.repeat(np.arange(len(scores)), [len(part) for part in scores])
    planted, other = truth >= _MAJORITY, truth == 0
    if not planted.any() or not other.any():
        raise StatisticsError("tiles are all of one kind; nothing can be told apart")
    kept = planted | other
    values, label, patient = values[kept], planted[kept], patient[kept]
    rows = [np.flatnonzero(patient == number) for number in np.unique(patient)]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(_RESAMPLES):
        again = np.concatenate([rows[at] for at in rng.integers(0, len(rows), len(rows))])
        if 0 < label[again].sum() < len(again):
            drawn.append(roc_auc_score(label[again], values[again]))
    lower, upper = np.quantile(drawn, [0.025, 0.975])
    return Landing(
        auc=float(roc_auc_score(label, values)),
        lower=float(lower),
        upper=float(upper),
        n_planted=int(planted.sum()),
        n_other=int(other.sum()),
        n_mixed=int((~kept).sum()),
        n_patients=len(rows),
    )
