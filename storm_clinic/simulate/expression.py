"""Simulated expression: a few genes follow the hidden score, a few each other, most nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GENES = tuple(f"SIM{number:02d}" for number in range(1, 41))
SCORE_GENES = GENES[:5]
SCORE_LOADING = 0.7  # rise of each of these a unit of the score; what else varies has deviation 1
SHARED_GENES = GENES[5:15]
SHARED_LOADING = 1.0  # rise of each of these a unit of one more hidden factor, which means nothing
_LEVELS = np.linspace(3.0, 9.0, len(GENES))  # mean of each gene


def simulate_expression(
    patient_ids: list[str], score: Floats, rng: np.random.Generator
) -> pd.DataFrame:
    """Draw the expression of two patients in three; who is not measured is chosen by chance alone.

    Parameters
    ----------
    patient_ids : list of str, length n_patients
        All patients.
    score : float64 array, shape (n_patients,)
        Their hidden score.
    rng : Generator
        Source of randomness.

    Returns
    -------
    DataFrame of str
        ``patient`` and `GENES`, a row a measured patient, in the order of ``patient_ids``.
    """
    n = len(patient_ids)
    values = _LEVELS + rng.standard_normal((n, len(GENES)))
    values[:, : len(SCORE_GENES)] += SCORE_LOADING * score[:, None]
    shared = slice(len(SCORE_GENES), len(SCORE_GENES) + len(SHARED_GENES))
    values[:, shared] += SHARED_LOADING * rng.standard_normal((n, 1))
    measured = np.sort(rng.permutation(n)[: n - n // 3])
    cells = {
        gene: [f"{value:.3f}" for value in values[measured, k]] for k, gene in enumerate(GENES)
    }
    return pd.DataFrame({"patient": [patient_ids[i] for i in measured], **cells}, dtype=str)
