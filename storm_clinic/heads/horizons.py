"""Months at which a model may be asked, and what its answers are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import StatisticsError

Floats = NDArray[np.float64]
Incidence = Callable[[Floats, Sequence[float]], Floats]


def check_horizon(months: float, last_months: float) -> None:
    """Refuse a horizon that no training patient was followed to.

    Raises
    ------
    StatisticsError
        If it does not lie within the training follow-up.
    """
    if not 0 < months <= last_months:
        raise StatisticsError(
            f"the horizon {months:g} months lies outside the training follow-up, "
            f"which ends at {last_months:.1f} months",
            fix="Choose earlier horizons, or data with longer follow-up.",
        )


def horizon_risks(
    incidence: Incidence, outputs: Floats, horizons_months: tuple[float, ...]
) -> dict[str, Floats]:
    """Probability of the first cause's event by each horizon, as ``risk_at_<months>m``."""
    if not horizons_months:
        return {}
    of_first = incidence(outputs, horizons_months)[0]
    return {f"risk_at_{m:g}m": of_first[:, at].copy() for at, m in enumerate(horizons_months)}
