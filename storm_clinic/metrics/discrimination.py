"""Do patients with the worse outcome get the higher risk? C-indices, AUC, average precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Bools, Classes, Floats, Ints, Outcome, Survival
from storm_clinic.errors import NoComparablePairs
from storm_clinic.metrics.censoring import GSlope, Uncensored
from storm_clinic.metrics.inputs import (
    Timed,
    all_causes,
    as_risk,
    binary_event,
    of_interest,
    required_horizon,
)
from storm_clinic.metrics.pairs import ComparablePairs
from storm_clinic.metrics.precision import PrecisionSteps
from storm_clinic.metrics.ranked_cases import RankedCases, area, area_slopes
from storm_clinic.metrics.resampling import label_codes
from storm_clinic.metrics.uncertainty import Statistic


def concordance(
    outcome: Survival,
    risk: ArrayLike,
    *,
    tau_months: float | None = None,
    within: ArrayLike | None = None,
) -> Statistic:
    """Harrell's C: of two comparable patients, had the one whose event came first the higher risk?

    Pairs tied in risk count one half; pairs with both events at one time are not comparable; a
    censoring at the time of an event comes after it, all as in R's ``survival::concordance``.

    Parameters
    ----------
    outcome : Survival, length n_patients
        Entry times are honoured: a pair needs both patients under observation at the event.
    risk : float array, shape (n_patients,)
        Higher means worse. Survival probabilities must be negated first.
    tau_months : float, optional
        Only events before this time open a pair.
    within : array, shape (n_patients,), optional
        Compare patients of one fold (or stratum) only. Risks from different folds of a
        cross-validation come from different models and have no common scale.

    Returns
    -------
    Statistic
        With R's infinitesimal-jackknife standard error.

    Raises
    ------
    NoComparablePairs
        If no event before ``tau_months`` has somebody at risk after it.

    References
    ----------
    Harrell et al., Stat. Med. 15 (1996) 361-387. Therneau & Watson, The concordance statistic and
    the Cox model, Mayo Clinic technical report 85 (2017).
    """
    values = as_risk(risk, outcome)
    eligible = outcome.event & (
        outcome.time_months < (np.inf if tau_months is None else tau_months)
    )
    pairs = ComparablePairs(outcome, values, eligible, _strata(within, outcome))
    method = (
        f"Harrell's C{_up_to(tau_months)}{', pairs within folds' if within is not None else ''}"
    )
    return _of_pairs(pairs, None, outcome, tau_months, method)


def uno_concordance(
    outcome: Survival,
    risk: ArrayLike,
    *,
    tau_months: float | None = None,
    censoring: Survival | None = None,
) -> Statistic:
    """Uno's C: Harrell's with each pair weighted by 1/G(T-)^2, so that censoring drops out.

    Parameters
    ----------
    outcome : Survival, length n_patients
        Without entry times.
    risk : float array, shape (n_patients,)
        Higher means worse.
    tau_months : float, optional
        Only events before this time open a pair. Without it the few patients with the longest
        follow-up can carry very large weights.
    censoring : Survival, optional
        Patients from whom G is estimated; by default the evaluated ones, as R does.

    Returns
    -------
    Statistic
        With ``censoring``, G is known, and the standard error that of R's
        ``concordance(timewt = "n/G2")``; else error and resamples know that G was estimated.

    Raises
    ------
    NoComparablePairs
        If no event before ``tau_months`` has somebody at risk after it.
    StatisticsError
        If there are entry times, or ``tau_months`` lies where everybody was censored.

    References
    ----------
    Uno et al., Stat. Med. 30 (2011) 1105-1117.
    """
    values = as_risk(risk, outcome)
    time = outcome.time_months
    eligible = outcome.event & (time < (np.inf if tau_months is None else tau_months))
    uncensored = Uncensored(outcome, censoring)
    uncensored.require_positive(time[eligible])
    pairs = ComparablePairs(outcome, values, eligible, _strata(None, outcome))

    method = f"Uno's C{_up_to(tau_months)}{_weighted_by(censoring)}"
    return _of_pairs(pairs, uncensored, outcome, tau_months, method)


def dynamic_auc(
    outcome: Timed,
    risk: ArrayLike,
    horizon_months: float,
    *,
    censoring: Survival | None = None,
    within: ArrayLike | None = None,
) -> Statistic:
    """Cumulative/dynamic AUC: events by the horizon against patients event-free beyond it.

    Cases (event at or before the horizon) are weighted by 1/G(T-), controls (followed beyond it)
    equally, as in R's timeROC and riskRegression; ties in risk count one half. With competing risks
    a case had the cause of interest by the horizon, and whoever had another event by then is a
    control like those who are event-free (Blanche's second definition): neither had the event. Such
    a control is weighted by 1/G(T-), one followed beyond the horizon by 1/G(horizon).

    Parameters
    ----------
    outcome : Survival or CompetingRisks, length n_patients
        Without entry times.
    risk : float array, shape (n_patients,)
        Higher means worse; a linear predictor or the probability of the event by the horizon.
    horizon_months : float
        From the first event to before the last follow-up.
    censoring : Survival, optional
        Patients from whom G is estimated; by default the evaluated ones.
    within : array, shape (n_patients,), optional
        Compare patients of one fold only; G is that of all.

    Raises
    ------
    StatisticsError
        If the horizon lies outside the follow-up, with the legal range; if there are entry times.
    NoComparablePairs
        If no fold has both a case and a control.

    References
    ----------
    Uno et al., JASA 102 (2007) 527-537. Blanche et al., Stat. Med. 32 (2013) 5381-5397.
    """
    values = as_risk(risk, outcome)
    required_horizon(outcome, horizon_months, "an AUC", followed_beyond=True)
    time = outcome.time_months
    case = of_interest(outcome) & (time <= horizon_months)
    other = all_causes(outcome).event & (time <= horizon_months) & ~case
    control = (time > horizon_months) | other
    uncensored = Uncensored(all_causes(outcome), censoring)
    uncensored.require_positive(time[case | other])
    if other.any():
        uncensored.require_positive(time, at=horizon_months)
    strata = _strata(within, outcome)
    _require_cases_and_controls(case, control, strata, f"{horizon_months:g} months")
    ranked = [RankedCases(values, case, control, strata == code) for code in np.unique(strata)]

    def weighted(weights: Floats) -> tuple[Floats, Floats]:
        return _cases_and_controls(weights, uncensored, time, horizon_months, other)

    ones = np.ones((1, outcome.n_patients))
    as_case, as_control = area_slopes(ranked, *(own[0] for own in weighted(ones)))
    through_g = GSlope(
        time, -as_case - other * as_control, horizon_months, float(as_control[other].sum())
    )
    influence = as_case + as_control + uncensored.influence(through_g)
    fewer = int(min(case.sum(), control.sum()))  # a variance needs two of each

    method = (
        f"cumulative/dynamic AUC at {horizon_months:g} months"
        f"{', pairs within folds' if within is not None else ''}{_weighted_by(censoring)}"
    )
    return Statistic.of(
        outcome,
        lambda weights: area(ranked, *weighted(weights)),
        method,
        influence=influence if fewer > 1 else None,
        scale="logit",
        degrees=fewer - 1,
    )


def _cases_and_controls(
    weights: Floats, uncensored: Uncensored, time: Floats, horizon_months: float, other: Bools
) -> tuple[Floats, Floats]:
    """What patients count as cases and as controls, in units of somebody followed beyond."""
    curve = uncensored.curve(weights)
    g = uncensored.just_before(curve, time)
    inverse = np.divide(1.0, g, out=np.zeros_like(g), where=g > 0)
    if not other.any():
        return weights * inverse, weights
    beyond = uncensored.at(curve, horizon_months)
    return weights * inverse, weights * np.where(other, inverse * beyond, 1.0)


def auroc(outcome: Classes, risk: ArrayLike, *, within: ArrayLike | None = None) -> Statistic:
    """Area under the ROC curve of a binary outcome, ties one half, with DeLong's standard error.

    Parameters
    ----------
    outcome : Classes, length n_patients
        Two classes; the second is the event.
    risk : float array, shape (n_patients,)
        Higher means the event is more likely.
    within : array, shape (n_patients,), optional
        Compare patients of one fold only.

    Raises
    ------
    StatisticsError
        If there are not two classes, or one does not occur.
    NoComparablePairs
        If no fold has both classes.

    References
    ----------
    DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988) 837-845.
    """
    values = as_risk(risk, outcome)
    case = binary_event(outcome) > 0
    strata = _strata(within, outcome)
    _require_cases_and_controls(case, ~case, strata, "any time")
    ranked = [RankedCases(values, case, ~case, strata == code) for code in np.unique(strata)]
    ones = np.ones(outcome.n_patients)
    influence: Floats | None = None
    fewer = int(min(case.sum(), (~case).sum()))
    if fewer > 1:  # a variance needs two of each
        plain = np.add(*area_slopes(ranked, ones, ones))
        influence = ranked[0].delong() if within is None else plain
    return Statistic.of(
        outcome,
        lambda weights: area(ranked, weights, weights),
        f"AUROC{', pairs within folds' if within is not None else ''}",
        influence=influence,
        scale="logit",
        degrees=fewer - 1,
    )


def average_precision(outcome: Classes, risk: ArrayLike) -> Statistic:
    """Average precision, the step-wise area under the precision-recall curve.

    Equal risks share one threshold, as in scikit-learn's ``average_precision_score``.

    Parameters
    ----------
    outcome : Classes, length n_patients
        Two classes; the second is the event.
    risk : float array, shape (n_patients,)
        Higher means the event is more likely.

    Raises
    ------
    StatisticsError
        If there are not two classes, or one does not occur.
    """
    event = binary_event(outcome)
    steps = PrecisionSteps(event, as_risk(risk, outcome))
    return Statistic.of(
        outcome,
        steps.average,
        "average precision",
        influence=steps.influence(),
        scale="logit",
        degrees=int(min(event.sum(), (1 - event).sum())) - 1,
    )


def _of_pairs(
    pairs: ComparablePairs,
    uncensored: Uncensored | None,
    outcome: Survival,
    tau_months: float | None,
    method: str,
) -> Statistic:
    """The statistic of some pairs, each counting 1/G(T-)^2 if G is given."""
    time = outcome.time_months

    def opens(weights: Floats) -> Floats:
        if uncensored is None:
            return np.ones((1, len(time)))
        g = uncensored.just_before(uncensored.curve(weights), time)
        # Patients who open no pair in a resample may lie beyond its last censoring.
        return np.divide(1.0, g**2, out=np.zeros_like(g), where=g > 0)

    def under(weights: Floats) -> Floats:
        credit, pairs_met = pairs.resampled(weights, opens(weights))
        with np.errstate(invalid="ignore"):
            return np.asarray(credit / pairs_met, dtype=np.float64)

    own = opens(np.ones((1, len(time))))[0]
    sums = pairs.sums(own)
    total = float(np.sum(own * sums.opened_pairs))
    if not total > 0:
        raise NoComparablePairs(
            f"no two of {outcome.n_patients} patients can be compared: {_why(outcome, tau_months)}"
        )
    somers_d = float(np.sum(own * sums.opened)) / total
    opened = own * (sums.opened - somers_d * sums.opened_pairs) / total / 2
    influence = opened + (sums.waited - somers_d * sums.waited_pairs) / total / 2
    if uncensored is not None:
        influence = influence + uncensored.influence(GSlope(time, -2 * opened))
    return Statistic(
        (1 + somers_d) / 2,
        outcome.n_patients,
        outcome.n_events,
        method,
        under,
        np.asarray(influence, dtype=np.float64),
        "logit",
        pairs.n_openers - 1,
    )


def _why(outcome: Survival, tau_months: float | None) -> str:
    if not outcome.n_events:
        return "there is no event"
    first = outcome.time_months[outcome.event].min()
    if tau_months is not None and tau_months <= first:
        return f"tau_months = {tau_months:g} is not above the first event ({first:g} months)"
    return "no event has anybody of the same stratum at risk after it"


def _require_cases_and_controls(case: Bools, control: Bools, strata: Ints, when: str) -> None:
    both = np.intersect1d(strata[case], strata[control])
    if not len(both):
        raise NoComparablePairs(
            f"no fold has both a case and a control at {when}: {int(np.sum(case))} cases and "
            f"{int(np.sum(control))} controls in all"
        )


def _strata(within: ArrayLike | None, outcome: Outcome) -> Ints:
    if within is None:
        return np.zeros(outcome.n_patients, dtype=np.int64)
    return label_codes(within, outcome.n_patients, "folds")


def _up_to(tau_months: float | None) -> str:
    return "" if tau_months is None else f", events before {tau_months:g} months"


def _weighted_by(censoring: Survival | None) -> str:
    return "" if censoring is None else ", censoring weights from other patients"
