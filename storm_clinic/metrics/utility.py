"""Is acting on the prediction better than treating everybody or nobody? Net benefit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from storm_clinic.cohort.outcome import Bools, Classes, Floats, Ints, Outcome
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.inputs import as_probability, required_horizon
from storm_clinic.metrics.treated import Treated
from storm_clinic.metrics.uncertainty import Statistic


def net_benefit(
    outcome: Outcome,
    probability: ArrayLike,
    thresholds: ArrayLike,
    *,
    horizon_months: float | None = None,
) -> Statistic:
    """Net benefit of treating those at or above a threshold, averaged over some thresholds.

    At threshold t: P(above) [P(event | above) - P(no event | above) t / (1 - t)]. P(event | above)
    is 1 - Kaplan-Meier at the horizon among those above; with competing risks the Aalen-Johansen
    share of the cause of interest, so that whoever died of another cause counts as treated without
    need. Where their follow-up ends before the horizon the curve's last value is carried on, which
    understates the benefit; R's dcurves gives NA there, and `decision_curve` stops.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes, length n_patients
        Times without entry times, or two classes of which the second is the event.
    probability : float array, shape (n_patients,)
        Of the event (by the horizon).
    thresholds : float or float array, shape (n_thresholds,)
        Strictly between 0 and 1; their plain mean is taken.
    horizon_months : float
        Not for classes; from the first event to the last follow-up.

    Returns
    -------
    Statistic
        With an infinitesimal-jackknife standard error; the difference of two is the gain of one
        model over another, with the pairing of the patients kept.

    Raises
    ------
    StatisticsError
        If a threshold or probability is out of range, the horizon outside the follow-up (with the
        legal range), or there are entry times.

    References
    ----------
    Vickers & Elkin, Med. Decis. Making 26 (2006) 565-574. Vickers et al., BMC Med. Inform. Decis.
    Mak. 8 (2008) 53.
    """
    benefit = NetBenefit(outcome, probability, thresholds, horizon_months=horizon_months)
    return benefit.mean()


def net_benefit_treat_all(
    outcome: Outcome, thresholds: ArrayLike, *, horizon_months: float | None = None
) -> Statistic:
    """Net benefit of treating everybody; parameters and errors as `net_benefit`."""
    everybody = np.ones(outcome.n_patients)
    benefit = NetBenefit(outcome, everybody, thresholds, horizon_months=horizon_months)
    return benefit.mean(", treat all")


class NetBenefit:
    """Net benefit at each of several thresholds, under many case weights.

    Parameters and errors as `net_benefit`.

    Attributes
    ----------
    thresholds : float64 array, shape (n_thresholds,)
    n_above : int64 array, shape (n_thresholds,)
        Patients at or above each threshold.
    followed : bool array, shape (n_thresholds,)
        Whether those above are followed to the horizon, or all had an event before it; where
        nobody is above there is nothing to follow.
    """

    def __init__(
        self,
        outcome: Outcome,
        probability: ArrayLike,
        thresholds: ArrayLike,
        *,
        horizon_months: float | None = None,
    ) -> None:
        values = as_probability(probability, outcome)
        self.thresholds = _legal_thresholds(thresholds)
        self._outcome = outcome
        self._odds = self.thresholds / (1 - self.thresholds)
        # Patients above a threshold are nested: as many are the same ones.
        above = [np.flatnonzero(values >= cut) for cut in self.thresholds]
        self.n_above: Ints = np.array([len(patients) for patients in above], dtype=np.int64)
        self._sets = {len(patients): patients for patients in above}
        self._row = np.searchsorted(sorted(self._sets), self.n_above)
        self._horizon = (
            None
            if isinstance(outcome, Classes)
            else required_horizon(outcome, horizon_months, "net benefit", followed_beyond=False)
        )
        self._treated = Treated(outcome, self._horizon)
        followed = {n: self._treated.followed(patients) for n, patients in self._sets.items()}
        self.followed: Bools = np.array([followed[int(n)] for n in self.n_above])
        self.label = "net benefit" + (
            "" if self._horizon is None else f" at {self._horizon:g} months"
        )

    def curve(self, weights: Floats) -> Floats:
        """Net benefit at each threshold, (n_resamples, n_thresholds)."""
        total = weights.sum(axis=1)
        sets = [self._sets[n] for n in sorted(self._sets)]
        share = np.stack([weights[:, patients].sum(axis=1) / total for patients in sets], axis=1)
        risk = np.stack([self._treated.risk(weights, patients) for patients in sets], axis=1)
        p, r = share[:, self._row], risk[:, self._row]
        return np.asarray(p * (r - (1 - r) * self._odds), dtype=np.float64)

    @cached_property
    def value(self) -> Floats:
        """Net benefit at each threshold, (n_thresholds,)."""
        return np.asarray(self.n_above / self._outcome.n_patients * self._worth)

    @cached_property
    def influence(self) -> Floats:
        """How far each patient moves the net benefit at each threshold.

        The infinitesimal jackknife, (n_thresholds, n_patients).
        """
        n_patients = self._outcome.n_patients
        masks = self._masks
        moved = self._treated.influence_among(masks)[self._row]
        share = self.n_above[:, None] / n_patients
        own = (masks[self._row] - share) * self._worth[:, None] / n_patients
        return np.asarray(own + share * (1 + self._odds)[:, None] * moved, dtype=np.float64)

    @cached_property
    def _worth(self) -> Floats:
        """Gain of each patient treated, (n_thresholds,)."""
        risk = self._treated.risk_among(self._masks)[self._row]
        return np.asarray(risk - (1 - risk) * self._odds, dtype=np.float64)

    @cached_property
    def _masks(self) -> Floats:
        """1 for each patient of a distinct set of treated, (n_sets, n_patients)."""
        masks = np.zeros((len(self._sets), self._outcome.n_patients))
        for row, n in enumerate(sorted(self._sets)):
            masks[row, self._sets[n]] = 1
        return masks

    def mean(self, policy: str = "") -> Statistic:
        """The plain mean over the thresholds."""
        cuts = self.thresholds
        over = (
            f"threshold {cuts[0]:g}"
            if len(cuts) == 1
            else f"mean over {len(cuts)} thresholds from {cuts.min():g} to {cuts.max():g}"
        )
        return Statistic.of(
            self._outcome,
            lambda weights: self.curve(weights).mean(axis=1),
            f"{self.label}, {over}{policy}",
            influence=self.influence.mean(axis=0),
        )


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit over thresholds; treating nobody has net benefit 0.

    Attributes
    ----------
    thresholds, net_benefit, se, lower, upper, treat_all : float64 arrays, shape (n_thresholds,)
    gain, gain_se, gain_lower, gain_upper : float64 arrays, shape (n_thresholds,), or None
        Over the comparator, with the pairing of the patients kept; None without one.
    n_above : int64 array, shape (n_thresholds,)
        Patients at or above each threshold (of several repeats, the fewest).
    followed : bool array, shape (n_thresholds,)
        Whether those above (and treated by the comparator) are followed to the horizon: where
        they are not, the last value of their curve is carried on and understates the benefit.
    gain_followed : bool array, shape (n_thresholds,)
        The same of the comparator; all True without one.
    method : str
    """

    thresholds: Floats
    net_benefit: Floats
    se: Floats
    lower: Floats
    upper: Floats
    treat_all: Floats
    gain: Floats | None
    gain_se: Floats | None
    gain_lower: Floats | None
    gain_upper: Floats | None
    n_above: Ints
    followed: Bools
    gain_followed: Bools
    method: str


def decision_curve(
    outcome: Outcome,
    probability: ArrayLike,
    thresholds: ArrayLike,
    *,
    horizon_months: float | None = None,
    over: ArrayLike | None = None,
    level: float = 0.95,
) -> DecisionCurve:
    """Net benefit at each threshold with a pointwise interval, beside treating everybody.

    Parameters
    ----------
    outcome, thresholds, horizon_months
        As `net_benefit`; errors too.
    probability : float array, shape (n_patients,) or (n_repeats, n_patients)
        Of the event (by the horizon). Of several repeats of cross-validation, net benefits are
        averaged, and not predictions.
    over : float array, shaped as ``probability`` may be, optional
        Of the comparator, whose net benefit is subtracted.
    level : float
        Pointwise coverage of the Wald intervals.
    """
    if not 0 < level < 1:
        raise StatisticsError(f"level {level:g}", fix="Legal are values between 0 and 1.")
    model = _Repeats(outcome, probability, thresholds, horizon_months)
    everybody = NetBenefit(
        outcome, np.ones(outcome.n_patients), thresholds, horizon_months=horizon_months
    )
    z = float(norm.ppf(0.5 + level / 2))
    se = np.sqrt((model.influence**2).sum(axis=1))
    gain = gain_se = gain_lower = gain_upper = None
    followed_too = np.ones_like(model.followed)
    if over is not None:
        other = _Repeats(outcome, over, thresholds, horizon_months)
        gain = model.value - other.value
        gain_se = np.sqrt(((model.influence - other.influence) ** 2).sum(axis=1))
        gain_lower, gain_upper = gain - z * gain_se, gain + z * gain_se
        followed_too = other.followed
    return DecisionCurve(
        thresholds=model.first.thresholds,
        net_benefit=model.value,
        se=se,
        lower=model.value - z * se,
        upper=model.value + z * se,
        treat_all=everybody.value,
        gain=gain,
        gain_se=gain_se,
        gain_lower=gain_lower,
        gain_upper=gain_upper,
        n_above=model.n_above,
        followed=model.followed,
        gain_followed=followed_too,
        method=f"{model.first.label}{model.averaged}; {level:.0%} pointwise Wald interval, "
        "infinitesimal jackknife",
    )


class _Repeats:
    """Net benefit averaged over the repeats of a cross-validation."""

    def __init__(
        self,
        outcome: Outcome,
        probability: ArrayLike,
        thresholds: ArrayLike,
        horizon_months: float | None,
    ) -> None:
        rows = np.atleast_2d(np.asarray(probability, dtype=np.float64))
        each = [NetBenefit(outcome, p, thresholds, horizon_months=horizon_months) for p in rows]
        self.first = each[0]
        self.value: Floats = np.mean([benefit.value for benefit in each], axis=0)
        self.influence: Floats = np.mean([benefit.influence for benefit in each], axis=0)
        self.n_above: Ints = np.min([benefit.n_above for benefit in each], axis=0)
        self.followed: Bools = np.all([benefit.followed for benefit in each], axis=0)
        self.averaged = f", mean of {len(each)} repeats" if len(each) > 1 else ""


def _legal_thresholds(thresholds: ArrayLike) -> Floats:
    values = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if not len(values) or not ((values > 0) & (values < 1)).all():
        raise StatisticsError(
            f"thresholds {np.round(values, 4).tolist()}",
            fix="Legal are probabilities strictly between 0 and 1.",
        )
    return values
