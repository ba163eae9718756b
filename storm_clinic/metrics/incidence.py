"""How many had the event of interest by when: 1 - Kaplan-Meier, or Aalen-Johansen.

Where other causes can come first, 1 - Kaplan-Meier of one cause is no share of anybody: it speaks
of a world in which nobody dies of the others. The Aalen-Johansen estimate is the share of these
patients in whom the cause of interest came first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from storm_clinic.cohort.outcome import CompetingRisks, Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.inputs import Timed, all_causes
from storm_clinic.metrics.risk_sets import RiskSets, event_influence, with_start
from storm_clinic.metrics.uncertainty import Interval


class Incidence:
    """Share with the event (of the cause of interest) by a month, under many case weights.

    Parameters
    ----------
    outcome : Survival or CompetingRisks
        Entry times are honoured; by `influence` with competing risks only.
    cause : int
        Of competing risks; 1 is the cause of interest.
    """

    def __init__(self, outcome: Timed, cause: int = 1) -> None:
        self._outcome = outcome
        self._any = RiskSets(all_causes(outcome))
        self._one: RiskSets | None = None
        if isinstance(outcome, CompetingRisks):
            self._one = RiskSets(outcome.cause_specific(cause))
            self._cause = cause

    @property
    def times(self) -> Floats:
        """Distinct times in months, ascending."""
        return np.asarray(self._any.times, dtype=np.float64)

    def by(self, weights: Floats, months: float) -> Floats:
        """The share at one time, (n_resamples,)."""
        at = int(self._any.up_to(months))
        if self._one is None:
            return np.asarray(1 - with_start(self._any.event_free(weights))[:, at])
        return self._from_zero(self.curve(weights))[:, at]

    def curve(self, weights: Floats) -> Floats:
        """The share at each of ``times``, (n_resamples, n_times)."""
        if self._one is None:
            return np.asarray(1 - self._any.event_free(weights))
        free_before, hazard, _ = self._steps(weights)
        return np.cumsum(free_before * hazard, axis=1)

    def influence(self, weights: Floats, months: float) -> Floats:
        """How far each patient moves the share at one time, (n_resamples, n_patients).

        The infinitesimal jackknife, per unit of weight, as ``survfit(..., influence = TRUE)``.
        """
        if self._one is None or not isinstance(self._outcome, CompetingRisks):
            return event_influence(self._any, all_causes(self._outcome), months, weights)
        return self._influence(weights, months, np.ones(len(self.times)))

    def lost(self, weights: Floats, tau_months: float) -> Floats:
        """Mean months lost to the event up to a time: the area under the share, (n_resamples,)."""
        steps = np.diff(self._from_zero(self.curve(weights)), axis=1)
        return np.asarray(steps @ np.maximum(tau_months - self.times, 0))

    def lost_influence(self, weights: Floats, tau_months: float) -> Floats:
        """How far each patient moves `lost`, (n_resamples, n_patients); competing risks only."""
        return self._influence(weights, tau_months, np.maximum(tau_months - self.times, 0))

    def _influence(self, weights: Floats, months: float, worth: Floats) -> Floats:
        """Influence on the sum of the curve's steps up to a time, each times its worth."""
        assert isinstance(self._outcome, CompetingRisks)
        last = int(self._any.up_to(months))
        events, _, at_risk = self._any.counts(weights)
        free_before, hazard, _ = self._steps(weights)
        value = free_before * worth
        reached_by = np.cumsum(value * hazard, axis=1)
        reached = self._from_zero(reached_by)[:, [last]]
        inverse = _inverse(at_risk)
        # Leaving at a time lowers all later shares; where everybody leaves there are none.
        later = (reached - reached_by) * _inverse(at_risk - events)
        exposed = np.cumsum(inverse * (later * events - value * hazard), axis=1)
        slot = self._any.slot
        seen = slot < last
        own = (self._outcome.cause == self._cause) & seen
        left = (self._outcome.cause > 0) & seen
        gained = own * (value * inverse)[:, slot] - left * later[:, slot]
        upto = self._from_zero(exposed)
        at_risk_for = upto[:, np.minimum(slot + 1, last)]
        if self._outcome.entry_months is not None:
            entered = np.minimum(self._any.up_to(self._outcome.entry_months), last)
            at_risk_for = at_risk_for - upto[:, entered]
        return np.asarray(gained + at_risk_for, dtype=np.float64)

    def _steps(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """At each time: free of any event just before, hazard of this cause, patients at risk."""
        assert self._one is not None
        events, _, at_risk = self._one.counts(weights)
        free_before = with_start(self._any.event_free(weights))[:, :-1]
        return free_before, events * _inverse(at_risk), at_risk

    @staticmethod
    def _from_zero(curve: Floats) -> Floats:
        return np.concatenate([np.zeros((len(curve), 1)), curve], axis=1)


def _inverse(values: Floats) -> Floats:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


@dataclass(frozen=True, eq=False)
class CumulativeIncidence:
    """Share in whom one cause came first, as steps: each value holds from its time to the next.

    Attributes
    ----------
    times_months : float64 array, shape (n_times,)
        Distinct times, ascending.
    at_risk, events, competing, censored : float64 arrays, shape (n_times,)
        Patients at risk, events of this cause and of the others, and censorings at each time.
    incidence, se, lower, upper : float64 arrays, shape (n_times,)
        The curve, its infinitesimal-jackknife standard error, and the pointwise band: symmetric on
        the scale of log(-log(1 - incidence)), [0, 0] before the first event, and
        [the bound before, 1] where the curve has reached 1.
    n_patients, n_events : int
        Events of this cause.
    cause : str
    """

    times_months: Floats
    at_risk: Floats
    events: Floats
    competing: Floats
    censored: Floats
    incidence: Floats
    se: Floats
    lower: Floats
    upper: Floats
    n_patients: int
    n_events: int
    cause: str

    def at(self, months: float) -> tuple[float, float, float]:
        """Share at one time and its band.

        Raises
        ------
        StatisticsError
            If nobody is followed that long (and some were event-free at the end of follow-up).
        """
        ended = bool(self.censored[-1] == 0)
        _require_followed(months, float(self.times_months[-1]), all_ended=ended)
        k = int(np.searchsorted(self.times_months, months, side="right")) - 1
        if k < 0:
            return 0.0, 0.0, 0.0
        return float(self.incidence[k]), float(self.lower[k]), float(self.upper[k])


def cumulative_incidence(
    outcome: CompetingRisks, *, cause: int = 1, level: float = 0.95
) -> CumulativeIncidence:
    """Aalen-Johansen estimate of the share in whom one cause came first, with a pointwise band.

    As R's ``survfit(Surv(time, factor(status)) ~ 1)``; events come before censorings at one time,
    and events of several causes at one time share the patients at risk.

    Parameters
    ----------
    outcome : CompetingRisks
        Entry times are honoured: patients count from their entry on.
    cause : int
        Whose share; 1 is the cause of interest.
    level : float
        Pointwise coverage.

    References
    ----------
    Aalen & Johansen, Scand. J. Stat. 5 (1978) 141-150. Putter, Fiocco & Geskus, Stat. Med. 26
    (2007) 2389-2430.
    """
    ones = np.ones((1, outcome.n_patients))
    one, other = RiskSets(outcome.cause_specific(cause)), RiskSets(all_causes(outcome))
    events, _, at_risk = (counts[0] for counts in one.counts(ones))
    all_events, censored, _ = (counts[0] for counts in other.counts(ones))
    share = Incidence(outcome, cause)
    incidence = share.curve(ones)[0]
    se = _errors(share, events, ones)
    lower, upper = _band(incidence, se, float(norm.ppf(0.5 + level / 2)))
    return CumulativeIncidence(
        share.times,
        at_risk,
        events,
        all_events - events,
        censored,
        incidence,
        se,
        lower,
        upper,
        outcome.n_patients,
        int((outcome.cause == cause).sum()),
        outcome.causes[cause - 1],
    )


def incidence_at(outcome: CompetingRisks, months: float, *, level: float = 0.95) -> Interval:
    """Share in whom the cause of interest came first by one time, with its interval.

    The same numbers as ``cumulative_incidence(outcome).at(months)``, without the whole curve.

    Parameters
    ----------
    outcome : CompetingRisks
        Entry times are honoured.
    months : float
        From 0 to the last follow-up.
    level : float
        Coverage.

    Raises
    ------
    StatisticsError
        If nobody is followed that long (and some were event-free at the end of follow-up).
    """
    last, ended = outcome.time_months.max(), outcome.cause > 0
    _require_followed(months, last, all_ended=bool(ended[outcome.time_months == last].all()))
    share, ones = Incidence(outcome), np.ones((1, outcome.n_patients))
    value = share.by(ones, months)
    se = np.sqrt((share.influence(ones, months) ** 2).sum(axis=1))
    if value[0] >= 1:  # its lower bound is that of the step before
        value[0], lower, upper = cumulative_incidence(outcome, level=level).at(months)
    else:
        bounds = _band(value, se, float(norm.ppf(0.5 + level / 2)))
        lower, upper = float(bounds[0][0]), float(bounds[1][0])
    return Interval(
        float(value[0]),
        float(se[0]),
        lower,
        upper,
        outcome.n_patients,
        outcome.n_events,
        f"Aalen-Johansen at {months:g} months, interval on the scale of log(-log(1 - incidence))",
    )


def _require_followed(months: float, last: float, *, all_ended: bool) -> None:
    if not months >= 0 or (months > last and not all_ended):
        raise StatisticsError(
            f"{months:g} months lies outside the follow-up", fix=f"Legal: [0, {last:g}]."
        )


def _errors(share: Incidence, events: Floats, ones: Floats) -> Floats:
    """Standard error at each time; level, as the curve is, between events of this cause."""
    se = np.zeros(len(events))
    for k in np.flatnonzero(events > 0):
        se[k] = np.sqrt((share.influence(ones, share.times[k]) ** 2).sum())
    last = np.maximum.accumulate(np.where(events > 0, np.arange(len(se)), -1))
    return np.where(last >= 0, se[last], 0.0)


def _band(incidence: Floats, se: Floats, z: float) -> tuple[Floats, Floats]:
    lower, upper = np.where(incidence < 1, incidence, np.nan), incidence.copy()
    inside = (incidence > 0) & (incidence < 1)
    free = 1 - incidence[inside]
    reach = z * se[inside] / (free * np.log(free))
    lower[inside], upper[inside] = 1 - free ** np.exp(reach), 1 - free ** np.exp(-reach)
    # Nobody knows less after the last event than before it: carry the lower bound on.
    last = np.maximum.accumulate(np.where(np.isnan(lower), 0, np.arange(len(lower))))
    return np.nan_to_num(lower[last], nan=0.0), upper
