"""Smooth calibration: observed probability as a smooth function of the predicted one, and ICI.

Observed outcomes of censored patients are replaced by pseudo-observations of the event by the
horizon, then smoothed by loess over the predictions, as for a binary outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Classes, Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.incidence import Incidence
from storm_clinic.metrics.inputs import (
    Timed,
    as_probability,
    binary_event,
    required_horizon,
)
from storm_clinic.metrics.uncertainty import Statistic, bootstrap_band

Summary = Literal["ici", "e50", "e90"]

SPAN = 0.75  # share of patients in each local fit, R's default
_FEWEST_DISTINCT = 6
_GRID = 101


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Observed against predicted probability, with a pointwise band.

    Attributes
    ----------
    predicted : float64 array, shape (n_points,)
        Ascending, from the smallest to the largest prediction.
    observed, lower, upper : float64 arrays, shape (n_points,)
        Smoothed, kept inside [0, 1].
    method : str
    """

    predicted: Floats
    observed: Floats
    lower: Floats
    upper: Floats
    method: str


def calibration_curve(
    outcome: Timed | Classes,
    probability: ArrayLike,
    *,
    horizon_months: float | None = None,
    n: int = 500,
    seed: int,
    level: float = 0.95,
) -> CalibrationCurve:
    """Smooth calibration curve with a bootstrap band.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes, length n_patients
        Times without entry times, or two classes of which the second is the event.
    probability : float array, shape (n_patients,)
        Of the event (by the horizon).
    horizon_months : float
        Not for classes; from the first event to the last follow-up.
    n, seed : int
        Resamples of patients behind the band, and their seed.
    level : float
        Pointwise coverage.

    Raises
    ------
    StatisticsError
        If the predictions take fewer than six values, or three quarters of the patients share one:
        nothing can be smoothed; and as `observed_expected`.

    References
    ----------
    Austin & Steyerberg, Stat. Med. 33 (2014) 517-535. Royston, Stata J. 14 (2014) 738-755.
    Andersen & Perme, Stat. Methods Med. Res. 19 (2010) 71-99.
    """
    smooth = _Smooth(outcome, probability, horizon_months)
    lower, upper = bootstrap_band(smooth.curve, len(smooth.p), n=n, seed=seed, level=level)
    observed = smooth.curve(np.ones((1, len(smooth.p))))[0]
    return CalibrationCurve(
        smooth.grid,
        observed,
        lower,
        upper,
        f"{smooth.label}; {level:.0%} percentile band, {n} bootstrap resamples",
    )


def calibration_error(
    outcome: Timed | Classes,
    probability: ArrayLike,
    *,
    horizon_months: float | None = None,
    summary: Summary = "ici",
) -> Statistic:
    """Distance between predicted and smoothly observed probability over the patients.

    ``ici`` is its mean (integrated calibration index), ``e50`` its median, ``e90`` its 90th
    percentile. It cannot be negative, so that chance alone makes it larger than 0, the more so in a
    bootstrap resample: read it with the curve. There is no formula for its error, since a distance
    has no derivative where it is 0; its interval is a bootstrap's. Parameters and errors as
    `calibration_curve`.

    References
    ----------
    Austin & Steyerberg, Stat. Med. 38 (2019) 4051-4065. Austin, Harrell & van Klaveren, Stat. Med.
    39 (2020) 2714-2742.
    """
    smooth = _Smooth(outcome, probability, horizon_months)
    shares = {"e50": 0.5, "e90": 0.9}
    if summary != "ici" and summary not in shares:
        raise StatisticsError(f"no summary {summary!r}", fix="Choose ici, e50 or e90.")

    def under(weights: Floats) -> Floats:
        distance = np.abs(smooth.at_patients(smooth.curve(weights)) - smooth.p)
        if summary == "ici":
            return np.asarray((weights * distance).sum(axis=1) / weights.sum(axis=1))
        return _weighted_quantile(distance, weights, shares[summary])

    name = {"ici": "ICI", "e50": "E50", "e90": "E90"}[summary]
    return Statistic.of(outcome, under, f"{name}: {smooth.label}")


def pseudo_observations(
    outcome: Timed, horizon_months: float, weights: Floats | None = None
) -> Floats:
    """What each patient contributes to the share with the event by the horizon.

    That share is 1 - Kaplan-Meier, with competing risks the Aalen-Johansen estimate for the cause
    of interest.

    The estimate plus n times the patient's influence on it (infinitesimal jackknife), as
    ``survival::pseudo`` in R; without censoring simply 0 or 1.

    Parameters
    ----------
    outcome : Survival or CompetingRisks, length n_patients
        Without entry times.
    horizon_months : float
        From the first event to the last follow-up.
    weights : float64 array, shape (n_resamples, n_patients), optional
        Case weights; all 1 by default.

    Returns
    -------
    float64 array, shape (n_patients,), or (n_resamples, n_patients) with weights
    """
    required_horizon(outcome, horizon_months, "a pseudo-observation", followed_beyond=False)
    incidence = Incidence(outcome)
    w = np.ones((1, outcome.n_patients)) if weights is None else weights
    risk = incidence.by(w, horizon_months)[:, None]
    influence = incidence.influence(w, horizon_months)
    values = risk + w.sum(axis=1, keepdims=True) * influence
    return np.asarray(values[0] if weights is None else values, dtype=np.float64)


class _Smooth:
    def __init__(
        self, outcome: Timed | Classes, probability: ArrayLike, horizon_months: float | None
    ) -> None:
        self.p = as_probability(probability, outcome)
        self._observed = _observed(outcome, horizon_months)
        at = "" if horizon_months is None else f" at {horizon_months:g} months"
        source = "" if isinstance(outcome, Classes) else " of pseudo-observations"
        self.label = f"calibration{at}, loess{source}"
        self.grid = _grid(self.p)
        self._loess = Loess(self.p, self.grid)

    def curve(self, weights: Floats) -> Floats:
        """Observed probability at the grid, (n_resamples, n_points)."""
        return np.clip(self._loess.fit(self._observed(weights), weights), 0, 1)

    def at_patients(self, curves: Floats) -> Floats:
        """Curves at each patient's prediction, linear between grid points."""
        upper = np.clip(np.searchsorted(self.grid, self.p), 1, len(self.grid) - 1)
        width = self.grid[upper] - self.grid[upper - 1]
        share = (self.p - self.grid[upper - 1]) / width
        return np.asarray(curves[:, upper - 1] * (1 - share) + curves[:, upper] * share)


def _observed(outcome: Timed | Classes, horizon_months: float | None) -> Callable[[Floats], Floats]:
    if isinstance(outcome, Classes):
        event = binary_event(outcome)
        return lambda weights: np.broadcast_to(event, weights.shape)
    timed = outcome
    horizon = required_horizon(
        timed, horizon_months, "a smooth calibration curve", followed_beyond=False
    )
    return lambda weights: pseudo_observations(timed, horizon, weights)


def _grid(p: Floats) -> Floats:
    """Percentiles of the predictions, and even steps between their extremes."""
    if len(np.unique(p)) < _FEWEST_DISTINCT:
        raise StatisticsError(
            f"the predictions take {len(np.unique(p))} values",
            fix=f"A smooth curve needs at least {_FEWEST_DISTINCT}.",
        )
    quantiles = np.quantile(p, np.linspace(0, 1, _GRID))
    return np.unique(np.concatenate([quantiles, np.linspace(p.min(), p.max(), _GRID)]))


class Loess:
    """Local quadratic regression with tricube weights, evaluated directly at some points.

    As R's ``loess(y ~ x, span, degree = 2, control = loess.control(surface = "direct"))``. The
    bandwidths are those of the whole sample, also under case weights.

    Parameters
    ----------
    x : float64 array, shape (n,)
    at : float64 array, shape (n_points,)
    span : float
        Share of the points in each local fit, at most 1.

    References
    ----------
    Cleveland & Devlin, JASA 83 (1988) 596-610.
    """

    def __init__(self, x: Floats, at: Floats, span: float = SPAN) -> None:
        near = max(3, int(np.floor(len(x) * span + 1e-5)))
        distance = np.abs(x - at[:, None])
        reach = np.partition(distance, near - 1, axis=1)[:, [near - 1]]
        if (reach <= 0).any():
            raise StatisticsError(
                f"{span:.0%} of the predictions are equal: there is nothing to smooth"
            )
        kernel = np.clip(1 - (distance / reach) ** 3, 0, None) ** 3
        self._scaled = (x - at[:, None]) / reach
        # kernel times powers 0 to 4 of the scaled distance, (5, n_points, n)
        self._moments = np.stack([kernel * self._scaled**power for power in range(5)])

    def fit(self, y: Floats, weights: Floats) -> Floats:
        """Fitted values at the points, (n_resamples, n_points); y as weights, (n_resamples, n)."""
        m = np.stack([weights @ moment.T for moment in self._moments], axis=-1)
        r = np.stack([(weights * y) @ moment.T for moment in self._moments[:3]], axis=-1)
        design = m[..., [[0, 1, 2], [1, 2, 3], [2, 3, 4]]]
        # A pseudo-inverse, as R's: few distinct predictions may leave no curvature to estimate.
        solution = np.linalg.pinv(design, rcond=1e-12, hermitian=True)
        return np.asarray(np.einsum("bpj,bpj->bp", solution[..., 0, :], r), dtype=np.float64)


def _weighted_quantile(values: Floats, weights: Floats, share: float) -> Floats:
    """Quantile by linear interpolation (R's type 7), counts as weights."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    upto = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    position = share * (upto[:, -1:] - 1)
    low, high = np.floor(position), np.ceil(position)
    at_low = np.take_along_axis(ordered, (upto <= low).sum(axis=1, keepdims=True), axis=1)
    at_high = np.take_along_axis(ordered, (upto <= high).sum(axis=1, keepdims=True), axis=1)
    return np.asarray((at_low + (position - low) * (at_high - at_low))[:, 0], dtype=np.float64)
