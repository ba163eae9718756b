"""Calibration curves, ready for the report: groups of patients and a smooth curve."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics import smoothing
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.incidence import cumulative_incidence
from storm_clinic.metrics.inputs import Timed, of_interest
from storm_clinic.validation.evidence import CalibrationCurve, CalibrationPoint

_EVENTS_PER_GROUP = 10  # fewer make an observed risk too uncertain to draw
_HISTOGRAM_BINS = 25
_UNDRAWN = 9  # predictions at either end of a smooth curve, and at most a twentieth of them
_DRAWN_POINTS = 61  # of a smooth curve: as many as an eye can tell apart
_SUPPORT = 0.02  # of the drawn range: how near a prediction must lie


def calibration_curve(
    outcome: Timed | Classes,
    probability: ArrayLike,
    *,
    cohort: str,
    model: str,
    seed: int,
    horizon_months: float | None = None,
    note: str = "",
    bootstraps: int = 500,
    level: str = "",
) -> CalibrationCurve:
    """Observed against predicted probability: in groups of equal size, and smoothed by loess.

    In a group, observed is 1 - Kaplan-Meier (with competing risks the Aalen-Johansen estimate for
    the first cause) at the horizon with its log-log interval, or the share with the event with
    Wilson's interval. There are as many groups as leave ten events each, from
    two to ten. Where predictions take too few values to be smoothed there is no curve, and the
    note says so.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes (two), length n_patients
        What happened to them.
    probability : float array, shape (n_patients,)
        Of the event (by the horizon).
    cohort, model : str
        What the curve is about.
    seed : int
        Of the resamples behind the smooth curve's band.
    horizon_months : float, optional
        Not for classes.
    note : str
        Where the predictions come from, if it needs saying.
    bootstraps : int
        Resamples of patients behind the band.
    level : str
        Of several classes, the one that is held against the rest.

    Raises
    ------
    StatisticsError
        If nobody is followed beyond the horizon.
    """
    p = np.asarray(probability, dtype=np.float64)
    if not isinstance(outcome, Classes):
        _require_followed(outcome, horizon_months, cohort)
    groups, lost = _groups(outcome, p, horizon_months)
    notes = [note] if note else []
    if lost:
        are = "one group is" if lost == 1 else f"{lost} groups are"
        notes.append(f"{are} not followed to {horizon_months or 0:g} months and not drawn")
    method = f"points: groups of equal size by prediction, {_interval(outcome)} 95% interval"
    smooth: dict[str, tuple[float, ...]] = {}
    try:
        curve = smoothing.calibration_curve(
            outcome, p, horizon_months=horizon_months, n=bootstraps, seed=seed
        )
        smooth = _drawn(curve, p)
        method += "; line: loess, 95% bootstrap band, straight where no prediction lies near"
    except StatisticsError as error:
        notes.append(f"no smooth curve: {error}")
    counts, edges = _histogram(p)
    return CalibrationCurve(
        cohort=cohort,
        model=model,
        horizon_months=horizon_months,
        groups=groups,
        bin_edges=edges,
        bin_counts=counts,
        method=method,
        note="; ".join(notes),
        level=level,
        **smooth,
    )


def _interval(outcome: Timed | Classes) -> str:
    if isinstance(outcome, Classes):
        return "Wilson"
    aalen = isinstance(outcome, CompetingRisks)
    return f"{'Aalen-Johansen' if aalen else 'Kaplan-Meier'}, log-log"


def _require_followed(outcome: Timed, horizon_months: float | None, cohort: str) -> None:
    # A group that died out has a curve for ever; alone beyond follow-up it would mislead.
    longest = float(outcome.time_months.max())
    if horizon_months is None:
        raise StatisticsError("a survival outcome needs horizon_months")
    if horizon_months >= longest:
        raise StatisticsError(
            f"nobody of {cohort} is followed beyond {horizon_months:g} months",
            fix=f"The longest follow-up is {longest:g} months.",
        )


def _groups(
    outcome: Timed | Classes, p: Floats, horizon_months: float | None
) -> tuple[tuple[CalibrationPoint, ...], int]:
    """Groups by prediction that can be drawn, and how many cannot."""
    n_groups = int(np.clip(_events_by(outcome, horizon_months) // _EVENTS_PER_GROUP, 2, 10))
    cuts = np.unique(np.quantile(p, np.arange(1, n_groups) / n_groups))
    codes = np.searchsorted(cuts, p, side="right")
    points, lost = [], 0
    for code in np.unique(codes):
        member = codes == code
        try:
            part = outcome.take(np.flatnonzero(member))
            observed, lower, upper = _observed(part, horizon_months)
        except StatisticsError:
            lost += 1
            continue
        points.append(
            CalibrationPoint(
                predicted=float(p[member].mean()),
                observed=observed,
                lower=lower,
                upper=upper,
                n_patients=int(member.sum()),
            )
        )
    return tuple(points), lost


def _events_by(outcome: Timed | Classes, horizon_months: float | None) -> int:
    if not isinstance(outcome, Classes) and horizon_months is not None:
        return int((of_interest(outcome) & (outcome.time_months <= horizon_months)).sum())
    return outcome.n_events


def _observed(outcome: Timed | Classes, horizon_months: float | None) -> tuple[float, float, float]:
    if isinstance(outcome, Classes) or horizon_months is None:
        return _wilson(outcome.n_events, outcome.n_patients)
    if isinstance(outcome, CompetingRisks):
        observed, lower, upper = cumulative_incidence(outcome).at(horizon_months)
        nobody = observed == 0
    else:
        free = kaplan_meier(outcome).at(horizon_months)
        observed, lower, upper = 1 - free.value, 1 - free.upper, 1 - free.lower
        nobody = free.value == 1
    if nobody:
        # The error is 0 without an event. Of those followed past the horizon none had it: the exact
        # binomial bound of 0 in so many.
        followed = int((outcome.time_months > horizon_months).sum())
        return 0.0, 0.0, float(1 - 0.025 ** (1 / max(followed, 1)))
    return observed, lower, upper


def _wilson(n_events: int, n: int) -> tuple[float, float, float]:
    """A share and its score interval; Wilson, JASA 22 (1927) 209-212."""
    z = float(norm.ppf(0.975))
    share = n_events / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Rounding may put an end a hair outside [0, 1] or past the share itself.
    return share, min(max(middle - reach, 0.0), share), max(min(middle + reach, 1.0), share)


def _drawn(curve: smoothing.CalibrationCurve, p: Floats) -> dict[str, tuple[float, ...]]:
    """Between the tenth smallest and the tenth largest prediction, as R's rms draws effects.

    Beyond, a smooth curve follows a handful of patients and would catch the eye.
    """
    edge = min(_UNDRAWN, len(p) // 20)
    low, high = np.sort(p)[[edge, -1 - edge]]
    inside = np.flatnonzero((curve.predicted >= low) & (curve.predicted <= high))
    # Where nobody has such a prediction a local parabola swings freely: a straight line is drawn.
    away = np.abs(curve.predicted[inside, None] - p).min(axis=1)
    inside = inside[away <= (high - low) * _SUPPORT]
    at = inside[np.unique(np.linspace(0, len(inside) - 1, _DRAWN_POINTS).astype(np.int64))]
    return {
        name: tuple(getattr(curve, name)[at].tolist())
        for name in ("predicted", "observed", "lower", "upper")
    }


def _histogram(p: Floats) -> tuple[tuple[int, ...], tuple[float, ...]]:
    top = max(float(np.ceil(p.max() * 10) / 10), 0.1)
    counts, edges = np.histogram(p, bins=_HISTOGRAM_BINS, range=(0.0, min(top, 1.0)))
    return tuple(counts.tolist()), tuple(edges.tolist())
