"""Do predicted probabilities come true? Observed/expected, slopes, intercept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Floats, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.competing import Lingering
from storm_clinic.metrics.incidence import Incidence
from storm_clinic.metrics.inputs import (
    Timed,
    as_probability,
    as_risk,
    binary_event,
    require_whole_follow_up,
    required_horizon,
)
from storm_clinic.metrics.regression import CoxSlope, IncidenceShift, LogisticLine
from storm_clinic.metrics.uncertainty import Statistic


def observed_expected(
    outcome: Timed | Classes,
    probability: ArrayLike,
    *,
    horizon_months: float | None = None,
) -> Statistic:
    """Observed over expected probability of the event: 1 is right on average, above 1 too low.

    Observed is 1 - Kaplan-Meier at the horizon, with competing risks the Aalen-Johansen estimate
    for the cause of interest, or the share with the event; expected is the mean prediction.
    Intervals are on the log scale, with the normal quantile: there they hold with few events too.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes, length n_patients
        Times without entry times, or two classes of which the second is the event.
    probability : float array, shape (n_patients,)
        Of the event (by the horizon).
    horizon_months : float
        Not for classes; from the first event to the last follow-up.

    Raises
    ------
    StatisticsError
        If a probability lies outside [0, 1] or all are 0, the horizon outside the follow-up (with
        the legal range), or there are entry times.

    References
    ----------
    Debray et al., BMJ 356 (2017) i6460. McLernon et al., Ann. Intern. Med. 176 (2023) 105-114.
    """
    p = as_probability(probability, outcome)
    if not p.any():
        raise StatisticsError("every predicted probability is 0: nothing is expected")
    if isinstance(outcome, Classes):
        event = binary_event(outcome)
        observed, own_influence = event.mean(), (event - event.mean()) / len(event)

        def share(weights: Floats) -> Floats:
            return np.asarray(weights @ event / weights.sum(axis=1))

        what = "observed/expected"
    else:
        horizon = required_horizon(
            outcome, horizon_months, "observed/expected", followed_beyond=False
        )
        incidence = Incidence(outcome)

        def share(weights: Floats) -> Floats:
            return incidence.by(weights, horizon)

        observed = share(np.ones((1, len(p))))[0]
        own_influence = incidence.influence(np.ones((1, len(p))), horizon)[0]
        what = f"observed/expected at {horizon:g} months"

    def under(weights: Floats) -> Floats:
        expected = weights @ p / weights.sum(axis=1)
        return np.asarray(
            np.divide(
                share(weights), expected, where=expected > 0, out=np.full(len(weights), np.nan)
            )
        )

    expected = p.mean()
    influence = own_influence / expected - observed / expected**2 * (p - expected) / len(p)
    return Statistic.of(outcome, under, what, influence=influence, scale="log")


def calibration_slope(
    outcome: Timed | Classes,
    linear_predictor: ArrayLike,
    *,
    horizon_months: float | None = None,
) -> Statistic:
    """Slope of what happened on what was predicted: 1 is right, below 1 too extreme.

    Survival: the coefficient of a Cox model (Efron's ties) with the prediction as only covariate,
    follow-up ended at the horizon. Competing risks: the same in Fine and Gray's model of the cause
    of interest, where patients stay at risk after a competing event with the weight G(t-)/G(T-).
    Two classes: that of a logistic regression with intercept.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes (two), length n_patients
        Entry times are honoured, but for competing risks, where they are refused.
    linear_predictor : float array, shape (n_patients,)
        On the log-hazard or log-odds scale: a Cox model's own linear predictor,
        `complementary_log_log` of the predicted probability at the horizon, or `log_odds`.
    horizon_months : float, optional
        Not for classes; later events are counted as censored here.

    Returns
    -------
    Statistic
        With the sandwich standard error (R's ``coxph(robust = TRUE)``; ``sandwich`` HC0), for
        competing risks including that G is estimated (``cmprsk::crr``).

    Raises
    ------
    StatisticsError
        If the prediction does not vary, there is no event, or the likelihood has no maximum.

    References
    ----------
    Cox, Biometrika 45 (1958) 562-565. van Houwelingen, Stat. Med. 19 (2000) 3401-3415. Fine & Gray,
    JASA 94 (1999) 496-509. Austin et al., Diagn. Progn. Res. 6 (2022) 2.
    """
    x = as_risk(linear_predictor, outcome)
    if x.std() == 0:
        raise StatisticsError("every patient has the same prediction: it has no slope")
    if isinstance(outcome, Classes):
        line = LogisticLine(binary_event(outcome), x)
        slope = Statistic.of(outcome, line.slope, "calibration slope (logistic)")
        fewer = min(outcome.n_events, outcome.n_patients - outcome.n_events)
        return replace(slope, influence=line.slope_influence(), degrees=fewer - 1)
    ended, upto = outcome, ""
    if horizon_months is not None:
        ended, upto = _ended(outcome, horizon_months), f" up to {horizon_months:g} months"
    if not ended.n_events:
        raise StatisticsError(f"no event among {outcome.n_patients} patients{upto}")
    if isinstance(ended, CompetingRisks):
        return _fine_gray_slope(ended, x, upto)
    cox = CoxSlope(ended, x)
    start = float(np.nan_to_num(cox.fit(np.ones((1, len(x))))[0]))
    slope = Statistic.of(
        outcome, lambda weights: cox.fit(weights, start), f"calibration slope (Cox){upto}"
    )
    return replace(slope, influence=cox.influence(slope.value), degrees=ended.n_events - 1)


def _fine_gray_slope(ended: CompetingRisks, x: Floats, upto: str) -> Statistic:
    require_whole_follow_up(ended, "a Fine-Gray slope")
    cox = CoxSlope(ended.cause_specific(), x, Lingering(ended))
    start = float(np.nan_to_num(cox.fit(np.ones((1, len(x))))[0]))
    method = f"calibration slope (Fine-Gray, {ended.causes[0]}){upto}"
    slope = Statistic.of(ended, lambda weights: cox.fit(weights, start), method)
    return replace(slope, influence=cox.influence(slope.value), degrees=ended.n_events - 1)


def calibration_intercept(
    outcome: Timed | Classes, probability: ArrayLike, *, horizon_months: float | None = None
) -> Statistic:
    """Calibration in the large: how far all predictions must move to be right on average, 0 is now.

    Two classes: the intercept of a logistic regression with the log-odds of the prediction as
    offset. Timed outcomes: the same on the scale of log(-log(1 - p)), so that the mean prediction
    equals 1 - Kaplan-Meier (with competing risks Aalen-Johansen) at the horizon; its exponential is
    the observed over the predicted cumulative hazard.

    Parameters
    ----------
    outcome : Survival, CompetingRisks or Classes (two), length n_patients
        Times without entry times; the second of two classes is the event.
    probability : float array, shape (n_patients,)
        Of the event (by the horizon), strictly between 0 and 1.
    horizon_months : float
        Not for classes; from the first event to the last follow-up.

    Raises
    ------
    StatisticsError
        If a probability is 0 or 1, not both classes occur, the horizon lies outside the follow-up
        (with the legal range), everybody has the event by it, or there are entry times.

    References
    ----------
    Cox, Biometrika 45 (1958) 562-565. van Geloven et al., BMJ 377 (2022) e069249.
    """
    p = as_probability(probability, outcome)
    if isinstance(outcome, Classes):
        line = LogisticLine(binary_event(outcome), log_odds(p))
        found = Statistic.of(outcome, line.in_the_large, "calibration in the large (logistic)")
        return replace(found, influence=line.in_the_large_influence(found.value))
    horizon = required_horizon(
        outcome, horizon_months, "calibration in the large", followed_beyond=False
    )
    incidence, shift = Incidence(outcome), IncidenceShift(complementary_log_log(p))
    found = Statistic.of(
        outcome,
        lambda weights: shift.fit(weights, incidence.by(weights, horizon)),
        f"calibration in the large (complementary log-log) at {horizon:g} months",
    )
    own = incidence.influence(np.ones((1, len(p))), horizon)[0]
    return replace(found, influence=shift.influence(found.value, own))


def complementary_log_log(probability: ArrayLike) -> Floats:
    """log(-log(1 - p)): a Cox model's linear predictor but for a constant.

    Raises
    ------
    StatisticsError
        If a probability is 0 or 1, where it is infinite.
    """
    p = _inside(probability)
    return np.asarray(np.log(-np.log1p(-p)), dtype=np.float64)


def log_odds(probability: ArrayLike) -> Floats:
    """log(p / (1 - p)).

    Raises
    ------
    StatisticsError
        If a probability is 0 or 1, where it is infinite.
    """
    p = _inside(probability)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def _inside(probability: ArrayLike) -> Floats:
    p = np.asarray(probability, dtype=np.float64)
    outside = ~((p > 0) & (p < 1))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise StatisticsError(
            f"{int(outside.sum())} predicted probabilities are not between 0 and 1, the first at "
            f"row {row} ({p[row]:g}): on the log scale they are infinite",
            fix="A prediction of exactly 0 or 1 claims certainty; no slope can be given.",
        )
    return p


def _ended(outcome: Timed, horizon_months: float) -> Timed:
    """Follow-up ended at the horizon; who enters later has none and keeps no event.

    Their time stays after their entry, behind every event that counts.
    """
    time = np.minimum(outcome.time_months, horizon_months)
    seen = outcome.time_months <= horizon_months
    if outcome.entry_months is not None:
        time = np.where(outcome.entry_months < horizon_months, time, outcome.time_months)
    if isinstance(outcome, CompetingRisks):
        cause = np.where(seen, outcome.cause, 0)
        return CompetingRisks(time, cause, outcome.causes, outcome.entry_months)
    return Survival(time, outcome.event & seen, outcome.entry_months)
