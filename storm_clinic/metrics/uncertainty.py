"""Numbers with their uncertainty: statistics under case weights, intervals, the patient bootstrap.

A `Statistic` is what every metric of this room returns: the value on the patients at hand, and the
same number under any case weights. A bootstrap resample is a row of weights (how often each patient
was drawn), so that hundreds of resamples are one matrix; the difference of two statistics is a
statistic on the same resamples, which is what a paired comparison needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

from storm_clinic.cohort.outcome import Floats, Ints, Outcome
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.resampling import label_codes, resample
from storm_clinic.metrics.scales import Scale, wald

_MAX_LOST = 0.05  # share of resamples that may fail before an interval would mislead


@dataclass(frozen=True)
class Interval:
    """A value and its interval.

    Attributes
    ----------
    value : float
    se : float or None
        Standard error on the value's own scale; None where only resampling gave the interval.
    lower, upper : float
        Ends of the interval.
    n_patients, n_events : int
        What the value rests on.
    method : str
        The estimator and how the interval was made.
    """

    value: float
    se: float | None
    lower: float
    upper: float
    n_patients: int
    n_events: int
    method: str


@dataclass(frozen=True, eq=False)
class Statistic:
    """A number these patients give, as they are and under any case weights.

    Attributes
    ----------
    value : float
        With every weight 1.
    n_patients, n_events : int
        What it rests on.
    method : str
        The estimator, in words.
    under : callable
        (n_resamples, n_patients) weights to (n_resamples,) values; NaN where a resample cannot
        give the number.
    influence : float64 array, shape (n_patients,), optional
        How far each patient moves the value (infinitesimal jackknife); None where no formula is
        implemented.
    scale : {"identity", "log", "logit", "complement"}
        Scale on which the value is nearest to normal, used by `interval`; "complement" is
        log(1 - value).
    degrees : int, optional
        Degrees of freedom of Student's quantile in `interval`: the events that carry the number
        (or, if fewer, the patients without one) less 1. None: the normal quantile.
    """

    value: float
    n_patients: int
    n_events: int
    method: str
    under: Callable[[Floats], Floats]
    influence: Floats | None = None
    scale: Scale = "identity"
    degrees: int | None = None

    @classmethod
    def of(
        cls,
        outcome: Outcome,
        under: Callable[[Floats], Floats],
        method: str,
        *,
        influence: Floats | None = None,
        scale: Scale = "identity",
        degrees: int | None = None,
    ) -> Statistic:
        """Evaluate ``under`` with every weight 1 and keep it.

        Raises
        ------
        StatisticsError
            If these patients do not give the number.
        """
        value = float(under(np.ones((1, outcome.n_patients)))[0])
        if not np.isfinite(value):
            raise StatisticsError(
                f"{method} is not defined on {outcome.n_patients} patients with "
                f"{outcome.n_events} events"
            )
        n, events = outcome.n_patients, outcome.n_events
        return cls(value, n, events, method, under, influence, scale, degrees)

    @property
    def se(self) -> float | None:
        """Infinitesimal-jackknife standard error, where there is a formula."""
        return None if self.influence is None else float(np.sqrt(np.sum(self.influence**2)))

    def __sub__(self, other: Statistic) -> Statistic:
        """The gain of this statistic over another on the same patients, pairing kept."""
        if (self.n_patients, self.n_events) != (other.n_patients, other.n_events):
            raise StatisticsError(
                f"a difference needs the same patients: {self.n_patients} patients with "
                f"{self.n_events} events against {other.n_patients} with {other.n_events}"
            )
        influence = (
            None
            if self.influence is None or other.influence is None
            else self.influence - other.influence
        )
        return Statistic(
            self.value - other.value,
            self.n_patients,
            self.n_events,
            f"difference in {self.method}"
            if self.method == other.method
            else f"{self.method} less {other.method}",
            lambda weights: self.under(weights) - other.under(weights),
            influence,
            degrees=_fewest(self.degrees, other.degrees),
        )

    def interval(self, *, level: float = 0.95, clusters: ArrayLike | None = None) -> Interval:
        """Wald interval from the infinitesimal jackknife, on the statistic's own scale.

        Parameters
        ----------
        level : float
            Coverage aimed at, between 0 and 1.
        clusters : array, shape (n_patients,), optional
            Site (or other cluster) of each patient; influences are summed inside clusters first,
            and there are fewer degrees of freedom than clusters.

        Raises
        ------
        StatisticsError
            If this statistic has no such standard error (`bootstrap` it), or rests on one event.
        """
        if self.influence is None:
            raise StatisticsError(
                f"no formula for the standard error of {self.method}", fix="Use bootstrap()."
            )
        influence, degrees, by = self.influence, self.degrees, ""
        if clusters is not None:
            codes = label_codes(clusters, self.n_patients, "clusters")
            influence = np.bincount(codes, weights=influence).astype(np.float64)
            degrees, by = _fewest(degrees, len(influence) - 1), f", {len(influence)} clusters"
        if degrees is not None and degrees < 1:
            raise StatisticsError(
                f"{self.method} rests on a single event (or a single patient without one)",
                fix="An interval needs at least two.",
            )
        se = float(np.sqrt(np.sum(influence**2)))
        quantile = float((norm if degrees is None else t(degrees)).ppf(0.5 + level / 2))
        lower, upper, name = wald(self.value, quantile * se, self.scale)
        return Interval(
            self.value,
            se,
            lower,
            upper,
            self.n_patients,
            self.n_events,
            f"{self.method}; {level:.0%} Wald interval{f' on {name}' if name else ''}, "
            f"infinitesimal jackknife{by}"
            f"{'' if degrees is None else f', {degrees} degrees of freedom'}",
        )


def _fewest(*degrees: int | None) -> int | None:
    return min((d for d in degrees if d is not None), default=None)


def average(statistics: Sequence[Statistic]) -> Statistic:
    """Mean of several statistics on the same patients, e.g. over repeats of cross-validation.

    Resampled together: one draw of patients serves all of them.
    """
    first = statistics[0]
    if any((s.n_patients, s.n_events) != (first.n_patients, first.n_events) for s in statistics):
        raise StatisticsError("an average needs statistics on the same patients")
    influences = [s.influence for s in statistics if s.influence is not None]
    return Statistic(
        float(np.mean([s.value for s in statistics])),
        first.n_patients,
        first.n_events,
        first.method if len(statistics) == 1 else f"{first.method}, mean of {len(statistics)}",
        lambda weights: np.mean([s.under(weights) for s in statistics], axis=0),
        np.mean(influences, axis=0) if len(influences) == len(statistics) else None,
        first.scale,
        _fewest(*(s.degrees for s in statistics)),
    )


def bootstrap(
    statistic: Statistic,
    *,
    n: int = 1000,
    seed: int,
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """Percentile interval from resampling patients with replacement.

    Parameters
    ----------
    statistic : Statistic
        For a gain, the difference of two: ``bootstrap(concordance(o, a) - concordance(o, b), …)``.
    n : int
        Resamples.
    seed : int
        Equal seeds, sizes and strata give equal resamples, whatever the statistic.
    strata : array, shape (n_patients,), optional
        Resample inside each stratum, keeping its size.
    clusters : array, shape (n_patients,), optional
        Resample whole clusters (sites) instead of patients.
    level : float
        Coverage aimed at, between 0 and 1.

    Raises
    ------
    StatisticsError
        If more than 5% of the resamples cannot give the number (too few events): leaving them
        out would make the interval too short.

    References
    ----------
    Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 13.
    """
    draws = resample(
        statistic.under, statistic.n_patients, n=n, seed=seed, strata=strata, clusters=clusters
    )
    lower, upper, lost = _percentiles(draws, level, statistic.method)
    unit = "patients" if clusters is None else "clusters"
    within = "" if strata is None else " within strata"
    missing = f" ({int(lost)} of them without a value)" if lost else ""
    return Interval(
        statistic.value,
        None,
        float(lower),
        float(upper),
        statistic.n_patients,
        statistic.n_events,
        f"{statistic.method}; {level:.0%} percentile interval, {n} bootstrap resamples of "
        f"{unit}{within}{missing}",
    )


def bootstrap_band(
    curve: Callable[[Floats], Floats],
    n_patients: int,
    *,
    n: int = 1000,
    seed: int,
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> tuple[Floats, Floats]:
    """Pointwise percentile band of a curve; ``curve`` maps (b, n_patients) to (b, n_points)."""
    draws = resample(curve, n_patients, n=n, seed=seed, strata=strata, clusters=clusters)
    lower, upper, _ = _percentiles(draws, level, "the curve")
    return lower, upper


def one_by_one(outcome: Outcome, compute: Callable[[Ints], float], method: str) -> Statistic:
    """Turn any function of patient positions into a statistic, one resample at a time.

    ``compute`` gets the drawn positions (repeats included) and may raise `StatisticsError` on a
    resample that cannot give the number. For metrics from elsewhere; ours are vectorised.
    """

    def under(weights: Floats) -> Floats:
        values = np.empty(len(weights))
        for row, counts in enumerate(weights):
            try:
                values[row] = compute(np.repeat(np.arange(len(counts)), counts.astype(np.int64)))
            except StatisticsError:
                values[row] = np.nan
        return values

    return Statistic.of(outcome, under, method)


def _percentiles(draws: Floats, level: float, what: str) -> tuple[Floats, Floats, int]:
    if not 0 < level < 1:
        raise StatisticsError(f"level {level:g}", fix="Legal are values between 0 and 1.")
    lost = np.isnan(draws).sum(axis=0)
    if lost.max() > _MAX_LOST * len(draws):
        raise StatisticsError(
            f"{int(lost.max())} of {len(draws)} resamples cannot give {what}: "
            "there are too few patients or events for an interval"
        )
    lower, upper = np.nanquantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return lower, upper, int(lost.max())
