"""Ranking and error over a stretch of follow-up instead of at one horizon."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Floats, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.censoring import GSlope, Uncensored
from storm_clinic.metrics.horizon_losses import HorizonLosses
from storm_clinic.metrics.inputs import Timed, as_probability, as_risk, required_horizon
from storm_clinic.metrics.pairs import ComparablePairs
from storm_clinic.metrics.risk_sets import RiskSets, with_start
from storm_clinic.metrics.uncertainty import Statistic


def integrated_brier(
    outcome: Timed,
    probabilities: ArrayLike,
    times_months: ArrayLike,
    *,
    censoring: Survival | None = None,
) -> Statistic:
    """Mean Brier score over a stretch of time, by the trapezoidal rule between the given times.

    As scikit-survival's ``integrated_brier_score``: the area under the straight lines between the
    scores, divided by the last time less the first.

    Parameters
    ----------
    outcome : Survival or CompetingRisks, length n_patients
        Without entry times.
    probabilities : float array, shape (n_patients, n_times)
        Of the event (of interest) by each of the times.
    times_months : float array, shape (n_times,)
        Two or more, ascending, each a legal horizon of `storm_clinic.metrics.overall.brier`.
    censoring : Survival, optional
        Patients from whom G is estimated; by default the evaluated ones, anew in each resample.

    Raises
    ------
    StatisticsError
        As `storm_clinic.metrics.overall.brier`, and if the times do not ascend or do not fit the
        probabilities.

    References
    ----------
    Graf et al., Stat. Med. 18 (1999) 2529-2545.
    """
    times, p = np.asarray(times_months, dtype=np.float64), np.asarray(probabilities)
    if times.ndim != 1 or len(times) < 2 or not (np.diff(times) > 0).all():
        raise StatisticsError(
            f"times {times.tolist()}", fix="Two or more are needed, in ascending order."
        )
    if p.shape != (outcome.n_patients, len(times)):
        raise StatisticsError(
            f"probabilities of shape {p.shape} for {outcome.n_patients} patients and "
            f"{len(times)} times"
        )
    gaps = np.diff(times)
    share = (np.append(gaps, 0.0) + np.append(0.0, gaps)) / 2 / (times[-1] - times[0])
    columns = [as_probability(column, outcome) for column in p.T]
    losses = [HorizonLosses(outcome, float(t), censoring, "a Brier score") for t in times]
    parts = list(zip(share, losses, columns, strict=True))

    def under(weights: Floats) -> Floats:
        return np.asarray(sum(s * at.mean(weights, (1 - q) ** 2, q**2) for s, at, q in parts))

    influence = np.sum([s * at.influence((1 - q) ** 2, q**2) for s, at, q in parts], axis=0)
    source = "" if censoring is None else ", censoring weights from other patients"
    return Statistic.of(
        outcome,
        under,
        f"Brier score integrated from {times[0]:g} to {times[-1]:g} months over {len(times)} "
        f"times{source}",
        influence=influence,
        scale="log",
        degrees=losses[-1].degrees,
    )


def integrated_auc(
    outcome: Survival,
    risk: ArrayLike,
    *,
    tau_months: float,
    censoring: Survival | None = None,
) -> Statistic:
    """Mean of the cumulative/dynamic AUC over the event times up to tau.

    Each event time counts by the drop of the Kaplan-Meier curve at it, as in scikit-survival's
    ``cumulative_dynamic_auc`` at these times.

    Parameters
    ----------
    outcome : Survival, length n_patients
        Without entry times.
    risk : float array, shape (n_patients,)
        Higher means worse; one risk for all times.
    tau_months : float
        From the first event to before the last follow-up; included.
    censoring : Survival, optional
        Patients from whom G is estimated; by default the evaluated ones, anew in each resample.

    Raises
    ------
    StatisticsError
        If tau lies outside the follow-up, with the legal range; if there are entry times.

    References
    ----------
    Uno et al., JASA 102 (2007) 527-537. Lambert & Chevret, Stat. Methods Med. Res. 25 (2016)
    2088-2102.
    """
    values = as_risk(risk, outcome)
    required_horizon(outcome, tau_months, "an integrated AUC", followed_beyond=True)
    area = _AreaOverTime(outcome, values, tau_months, censoring)
    source = "" if censoring is None else ", censoring weights from other patients"
    value, influence = area.value_and_influence()
    return Statistic(
        value,
        outcome.n_patients,
        outcome.n_events,
        f"cumulative/dynamic AUC averaged over event times up to {tau_months:g} months{source}",
        area.mean,
        influence if area.n_cases > 1 else None,  # one case has no variance
        "logit",
        area.n_cases - 1,
    )


class _AreaOverTime:
    """AUC at all event times up to tau from one set of pairs.

    Going from one time to the next, the pairs of a patient who left are lost as those of a
    control, and those of one who had the event are won as those of a case.
    """

    def __init__(
        self, outcome: Survival, risk: Floats, tau_months: float, censoring: Survival | None
    ) -> None:
        self._time, self._sets = outcome.time_months, RiskSets(outcome)
        self._case = outcome.event & (self._time <= tau_months)
        self.n_cases = int(self._case.sum())
        stratum = np.zeros(outcome.n_patients, dtype=np.int64)
        self._pairs = ComparablePairs(outcome, risk, self._case, stratum)
        self._last = int(self._sets.up_to(tau_months))
        self._uncensored = Uncensored(outcome, censoring)
        self._uncensored.require_positive(self._time[self._case])
        self._by_time = np.argsort(self._sets.slot, kind="stable")
        slots = self._sets.slot[self._by_time]
        self._starts = np.searchsorted(slots, np.arange(len(self._sets.times)))

    def mean(self, weights: Floats) -> Floats:
        """Weighted mean of the AUC, (n_resamples,); NaN where nobody is left to be a control."""
        cases = self._cases(weights)
        won, lost = self._pairs.resampled_roles(weights, cases)
        credit = np.cumsum(self._at_times(cases * won - weights * lost), axis=1)
        return self._averaged(credit, cases, weights)[0]

    def _averaged(self, credit: Floats, cases: Floats, weights: Floats) -> tuple[Floats, ...]:
        """Mean AUC, and by time: AUC, Kaplan-Meier drop, weight of cases and of controls."""
        n_cases = np.cumsum(self._at_times(cases), axis=1)[:, : self._last]
        left = np.cumsum(self._at_times(weights), axis=1)
        n_controls = (left[:, -1:] - left)[:, : self._last]
        free = with_start(self._sets.event_free(weights))[:, : self._last + 1]
        drop = free[:, :-1] - free[:, 1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            auc = credit[:, : self._last] / (n_cases * n_controls)
            auc = np.where(drop > 0, auc, 0.0)
            mean = (drop * auc).sum(axis=1) / drop.sum(axis=1)
        return np.where(np.isfinite(mean), mean, np.nan), auc, drop, n_cases, n_controls

    def value_and_influence(self) -> tuple[float, Floats]:
        """That mean, and how far each patient moves it, with every weight 1."""
        ones, slot = np.ones((1, len(self._time))), self._sets.slot
        cases = self._cases(ones)[0]
        plain = self._pairs.sums(cases)
        credit = cases * (plain.opened + plain.opened_pairs) / 2
        credit = credit - (plain.waited + plain.waited_pairs) / 2
        mean, auc, drop, n_cases, n_controls = (
            part[0]
            for part in self._averaged(
                np.cumsum(self._at_times(credit[None]), axis=1), cases[None], ones
            )
        )
        value = np.divide(drop, n_cases * n_controls, out=np.zeros_like(drop), where=drop > 0)
        by_case = np.divide(drop * auc, n_cases, out=np.zeros_like(drop), where=drop > 0)
        before = np.minimum(slot, self._last)
        reached, lost_case, lost_control = (
            np.append(0.0, np.cumsum(part))
            for part in (value, by_case, drop * auc / np.where(drop > 0, n_controls, 1.0))
        )
        # What a pair counts: the value of the times from the event until the other leaves.
        valued = self._pairs.sums(cases * reached[before], reached[before])
        won = (valued.opened + valued.opened_pairs) / 2
        won -= reached[before] * (plain.opened + plain.opened_pairs) / 2
        as_case = cases * (won - (lost_case[-1] - lost_case[before]))
        waited = reached[before] * (plain.waited + plain.waited_pairs) / 2
        waited -= (valued.waited + valued.waited_pairs) / 2
        as_control = waited - lost_control[before]
        through_g = self._uncensored.influence(GSlope(self._time, -as_case))
        total = as_case + as_control + through_g + self._through_drops(auc - mean)
        return float(mean), np.asarray(total / drop.sum(), dtype=np.float64)

    def _through_drops(self, excess: Floats) -> Floats:
        """How patients move the drops by which the times count."""
        free = with_start(self._sets.event_free(np.ones((1, len(self._time)))))[0]
        slope = np.zeros(len(free))
        slope[: self._last] += excess
        slope[1 : self._last + 1] -= excess
        return self._sets.event_free_influence(slope * free)

    def _cases(self, weights: Floats) -> Floats:
        g = self._uncensored.just_before(self._uncensored.curve(weights), self._time)
        inverse = np.divide(1.0, g, out=np.zeros_like(g), where=g > 0)
        return weights * inverse * self._case

    def _at_times(self, values: Floats) -> Floats:
        """Sums over the patients of each distinct time."""
        return np.add.reduceat(values[:, self._by_time], self._starts, axis=1)
