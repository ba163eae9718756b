"""Mean event-free time up to a month, and mean time lost to one of several causes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.incidence import Incidence
from storm_clinic.metrics.inputs import Timed, all_causes
from storm_clinic.metrics.uncertainty import Interval


@dataclass(frozen=True)
class Difference:
    """Difference of two independent groups with its Wald interval and two-sided test.

    ``p`` is None where neither group varies.
    """

    value: float
    se: float
    lower: float
    upper: float
    p: float | None
    method: str


def restricted_mean(outcome: Survival, tau_months: float, *, level: float = 0.95) -> Interval:
    """Mean event-free months up to tau: the area under the Kaplan-Meier curve.

    As ``print(survfit(y ~ 1), rmean = tau)`` in R, with its (Greenwood) standard error. The Wald
    interval is kept between 0 and tau.

    Parameters
    ----------
    outcome : Survival
        Entry times are honoured.
    tau_months : float
        Above 0, up to the last follow-up; any time above 0 where the curve has reached 0.
    level : float
        Coverage.

    Raises
    ------
    StatisticsError
        If tau lies outside that range.

    References
    ----------
    Irwin, J. Hygiene 47 (1949) 188-189. Royston & Parmar, BMC Med. Res. Methodol. 13 (2013) 152.
    """
    curve = kaplan_meier(outcome)
    _require_tau(outcome, tau_months, reached=curve.survival[-1] == 0)
    seen = curve.times_months < tau_months
    times = np.concatenate([[0.0], curve.times_months[seen], [tau_months]])
    pieces = np.concatenate([[1.0], curve.survival[seen]]) * np.diff(times)
    # Area that still lies behind each time.
    behind = pieces.sum() - np.cumsum(pieces)[:-1]
    events, at_risk = curve.events[seen], curve.at_risk[seen]
    surviving = at_risk * (at_risk - events)
    step = np.divide(events, surviving, out=np.zeros_like(events), where=surviving > 0)
    se = float(np.sqrt((behind**2 * step).sum()))
    return _bounded(
        outcome,
        float(pieces.sum()),
        se,
        tau_months,
        level,
        f"restricted mean event-free time up to {tau_months:g} months",
    )


def restricted_time_lost(
    outcome: CompetingRisks, tau_months: float, *, cause: int = 1, level: float = 0.95
) -> Interval:
    """Mean months lost to one cause up to tau: the area under its cumulative incidence.

    As the restricted mean time in that cause's state, ``summary(survfit(Surv(time, state) ~ 1),
    rmean = tau)``. The standard error is the infinitesimal jackknife, the area under
    ``survfit(..., influence = TRUE)$influence.pstate``. The Wald interval is kept between 0 and
    tau.

    Parameters
    ----------
    outcome : CompetingRisks
        Entry times are honoured.
    tau_months : float
        Above 0, up to the last follow-up; any time above 0 where nobody is left event-free.
    cause : int
        1 is the cause of interest.
    level : float
        Coverage.

    Raises
    ------
    StatisticsError
        If tau lies outside that range.

    References
    ----------
    Andersen, Stat. Med. 32 (2013) 5278-5285.
    """
    free = kaplan_meier(all_causes(outcome)).survival[-1]
    _require_tau(outcome, tau_months, reached=free == 0)
    share, ones = Incidence(outcome, cause), np.ones((1, outcome.n_patients))
    return _bounded(
        outcome,
        float(share.lost(ones, tau_months)[0]),
        float(np.sqrt((share.lost_influence(ones, tau_months) ** 2).sum())),
        tau_months,
        level,
        f"restricted mean time lost to {outcome.causes[cause - 1]} up to {tau_months:g} months",
        n_events=int((outcome.cause == cause).sum()),
    )


def difference(first: Interval, second: Interval, *, level: float = 0.95) -> Difference:
    """``first`` less ``second``, of two groups with no patient in common.

    Raises
    ------
    StatisticsError
        If one of them has no standard error.
    """
    if first.se is None or second.se is None:
        raise StatisticsError("a difference needs the standard error of both groups")
    value, se = first.value - second.value, float(np.hypot(first.se, second.se))
    reach = float(norm.ppf(0.5 + level / 2)) * se
    return Difference(
        value,
        se,
        value - reach,
        value + reach,
        float(2 * norm.sf(abs(value) / se)) if se > 0 else None,
        f"difference in {first.method.split(';')[0]}; {level:.0%} Wald interval, independent "
        "groups",
    )


def _require_tau(outcome: Timed, tau_months: float, *, reached: bool) -> None:
    last = float(outcome.time_months.max())
    if not (0 < tau_months < np.inf) or (tau_months > last and not reached):
        raise StatisticsError(
            f"a restricted mean up to {tau_months:g} months lies outside the follow-up of these "
            f"{outcome.n_patients} patients",
            fix=f"Legal: (0, {last:g}] months.",
        )


def _bounded(
    outcome: Timed,
    value: float,
    se: float,
    tau_months: float,
    level: float,
    what: str,
    *,
    n_events: int | None = None,
) -> Interval:
    reach = float(norm.ppf(0.5 + level / 2)) * se
    return Interval(
        value,
        se,
        max(0.0, value - reach),
        min(tau_months, value + reach),
        outcome.n_patients,
        outcome.n_events if n_events is None else n_events,
        f"{what}; {level:.0%} Wald interval",
    )
