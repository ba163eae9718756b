"""P values of a family of tests, adjusted for how many there are: Holm, Benjamini-Hochberg."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError


def holm(p: ArrayLike) -> Floats:
    """P values that keep the chance of any false rejection in the family; R's ``p.adjust``.

    Parameters
    ----------
    p : float array, shape (n_tests,)
        From 0 to 1, in any order.

    Returns
    -------
    float64 array, shape (n_tests,)
        Never below ``p``, never above 1, in the order of ``p``.

    Raises
    ------
    StatisticsError
        If a value is missing or outside [0, 1].

    References
    ----------
    Holm, Scand. J. Stat. 6 (1979) 65-70.
    """
    values = _checked(p)
    order = np.argsort(values, kind="stable")
    stepped = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """P values that keep the expected share of false rejections among all; R's "BH".

    Parameters, result and errors as `holm`.

    References
    ----------
    Benjamini & Hochberg, J. R. Stat. Soc. B 57 (1995) 289-300.
    """
    values = _checked(p)
    if not len(values):
        return values
    return np.asarray(false_discovery_control(values, method="bh"), dtype=np.float64)


def _checked(p: ArrayLike) -> Floats:
    values = np.asarray(p, dtype=np.float64)
    bad = ~((values >= 0) & (values <= 1))
    if values.ndim != 1 or bad.any():
        raise StatisticsError(
            f"p values of shape {values.shape}, {int(bad.sum())} of them missing or outside [0, 1]",
            fix="Give one list of the tests that could be made; leave out those without a p value.",
        )
    return values
