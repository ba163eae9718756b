"""Kaplan-Meier curves, numbers at risk, and follow-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from storm_clinic.cohort.outcome import Floats, Ints, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.risk_sets import RiskSets
from storm_clinic.metrics.uncertainty import Interval

Band = Literal["log-log", "log"]


@dataclass(frozen=True, eq=False)
class KaplanMeier:
    """Event-free probability as steps: each value holds from its time to the next.

    Attributes
    ----------
    times_months : float64 array, shape (n_times,)
        Distinct event and censoring times, ascending.
    at_risk, events, censored : float64 arrays, shape (n_times,)
        (Weighted) counts at each time.
    survival, se, lower, upper : float64 arrays, shape (n_times,)
        The curve, Greenwood's standard error on its own scale, and the pointwise band. R gives NA
        for the band where the curve is still 1 and where it is 0; here it is [1, 1], and
        [0, the bound before].
    n_patients, n_events : int
    band : {"log-log", "log"}
    """

    times_months: Floats
    at_risk: Floats
    events: Floats
    censored: Floats
    survival: Floats
    se: Floats
    lower: Floats
    upper: Floats
    n_patients: int
    n_events: int
    band: Band

    def at(self, months: float) -> Interval:
        """Event-free probability at one time.

        Raises
        ------
        StatisticsError
            If nobody is followed that long (and some were event-free at the end of follow-up).
        """
        last = self.times_months[-1]
        if not months >= 0 or (months > last and self.survival[-1] > 0):
            raise StatisticsError(
                f"{months:g} months lies outside the follow-up", fix=f"Legal: [0, {last:g}]."
            )
        k = int(np.searchsorted(self.times_months, months, side="right")) - 1
        values = (
            (1.0, 0.0, 1.0, 1.0)
            if k < 0
            else (self.survival[k], self.se[k], self.lower[k], self.upper[k])
        )
        value, se, lower, upper = map(float, values)
        return Interval(
            value,
            se,
            lower,
            upper,
            self.n_patients,
            self.n_events,
            f"Kaplan-Meier at {months:g} months, {self.band} interval",
        )

    def quantile(self, share: float = 0.5) -> tuple[float | None, float | None, float | None]:
        """Time by which this share had the event, with its interval; None where not reached.

        As R's ``quantile.survfit``: the interval inverts the pointwise band (Brookmeyer & Crowley),
        and a curve that is level at exactly ``1 - share`` gives the middle of that step.
        """
        return (
            self._crossing(self.survival, share),
            self._crossing(self.lower, share),
            self._crossing(self.upper, share),
        )

    def _crossing(self, curve: Floats, share: float) -> float | None:
        tolerance = 1e-9
        below = np.flatnonzero(curve < 1 - share - tolerance)
        level = np.flatnonzero(np.abs(curve - (1 - share)) <= tolerance)
        if len(level):
            end = self.times_months[below[0]] if len(below) else self.times_months[level[-1]]
            return float((self.times_months[level[0]] + end) / 2)
        return float(self.times_months[below[0]]) if len(below) else None


def kaplan_meier(
    outcome: Survival,
    *,
    weights: ArrayLike | None = None,
    band: Band = "log-log",
    level: float = 0.95,
) -> KaplanMeier:
    """Kaplan-Meier curve with a pointwise band, as R's ``survfit``.

    The band is by default that of ``conf.type = "log-log"`` and not R's own default ``"log"``: it
    cannot leave [0, 1], and covers closer to its level where patients are few or censoring is heavy
    (Borgan & Liestol 1990).

    Parameters
    ----------
    outcome : Survival
        Entry times are honoured: patients count from their entry on.
    weights : float array, shape (n_patients,), optional
        Case weights (how many patients each row stands for).
    band : {"log-log", "log"}
        R's ``conf.type``: symmetric on the scale of log(-log S) or of log S.
    level : float
        Pointwise coverage.

    References
    ----------
    Kaplan & Meier, JASA 53 (1958) 457-481. Kalbfleisch & Prentice (2002), ch. 1.4. Borgan &
    Liestol, Scand. J. Stat. 17 (1990) 35-41.
    """
    sets = RiskSets(outcome)
    w = np.ones(outcome.n_patients) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (outcome.n_patients,) or not (np.isfinite(w) & (w >= 0)).all():
        raise StatisticsError("weights must be finite, not negative, and one a patient")
    events, censored, at_risk = (counts[0] for counts in sets.counts(w[None]))
    survival = sets.event_free(w[None])[0]
    surviving = at_risk * (at_risk - events)
    step = np.divide(events, surviving, out=np.zeros_like(events), where=surviving > 0)
    greenwood = np.sqrt(np.cumsum(step))
    lower, upper = _band(survival, greenwood, band, float(norm.ppf(0.5 + level / 2)))
    return KaplanMeier(
        sets.times,
        at_risk,
        events,
        censored,
        survival,
        survival * greenwood,
        lower,
        upper,
        outcome.n_patients,
        outcome.n_events,
        band,
    )


def _band(survival: Floats, greenwood: Floats, band: Band, z: float) -> tuple[Floats, Floats]:
    inside = (survival > 0) & (survival < 1)
    lower, upper = survival.copy(), np.where(survival > 0, survival, np.nan)
    s, se = survival[inside], greenwood[inside]
    if band == "log":
        lower[inside], upper[inside] = s * np.exp(-z * se), np.minimum(1, s * np.exp(z * se))
    elif band == "log-log":
        reach = z * se / np.log(s)
        lower[inside], upper[inside] = s ** np.exp(-reach), s ** np.exp(reach)
    else:
        raise StatisticsError(f"no band {band!r}", fix="Choose 'log-log' or 'log'.")
    # Nobody knows more after the last event than before it: carry the upper bound on.
    last = np.maximum.accumulate(np.where(np.isnan(upper), 0, np.arange(len(upper))))
    return lower, np.nan_to_num(upper[last], nan=1.0)


def at_risk(outcome: Survival, months: ArrayLike, groups: ArrayLike | None = None) -> Ints:
    """Patients under observation just before each of some times, by group.

    At the times of a group's events and censorings the same as ``survfit(...)$n.risk``. Between
    them R gives the number at its next time, which with entry times counts patients who have not
    entered yet; here they are not counted.

    Parameters
    ----------
    outcome : Survival, length n_patients
        Entry times are honoured.
    months : float array, shape (n_times,)
        Times of the table's columns.
    groups : int array, shape (n_patients,), optional
        0, 1, ... ; a single group by default.

    Returns
    -------
    int64 array, shape (n_groups, n_times)
    """
    at = np.asarray(months, dtype=np.float64)
    codes = (
        np.zeros(outcome.n_patients, dtype=np.int64)
        if groups is None
        else np.asarray(groups, dtype=np.int64)
    )
    present = outcome.time_months[:, None] >= at
    if outcome.entry_months is not None:
        entry = outcome.entry_months[:, None]
        present &= (entry < at) | ((entry == 0) & (at == 0))
    table = np.zeros((int(codes.max()) + 1, len(at)), dtype=np.int64)
    np.add.at(table, codes, present.astype(np.int64))
    return table


@dataclass(frozen=True)
class FollowUp:
    """How long patients were followed, in months (reverse Kaplan-Meier).

    ``lower_quartile`` and ``upper_quartile`` are quantiles of follow-up; ``lower`` and ``upper``
    are the 95% interval of the median. None where follow-up does not reach.
    """

    median: float | None
    lower: float | None
    upper: float | None
    lower_quartile: float | None
    upper_quartile: float | None
    longest: float
    n_patients: int
    n_events: int
    method: str = "reverse Kaplan-Meier, log-log interval"


def follow_up(outcome: Survival) -> FollowUp:
    """Potential follow-up: Kaplan-Meier of censoring, events counted as censored.

    As R's ``survfit(Surv(time, status == 0) ~ 1, conf.type = "log-log")``.

    References
    ----------
    Schemper & Smith, Control. Clin. Trials 17 (1996) 343-346.
    """
    curve = kaplan_meier(Survival(outcome.time_months, ~outcome.event, outcome.entry_months))
    median, lower, upper = curve.quantile(0.5)
    return FollowUp(
        median,
        lower,
        upper,
        curve.quantile(0.25)[0],
        curve.quantile(0.75)[0],
        float(outcome.time_months.max()),
        outcome.n_patients,
        outcome.n_events,
    )
