"""How precisely patients with censored times show C, observed/expected and slope of a model.

There is no closed form for all of it; what is used instead, and what it assumes:

- C: the mean standard error over simulated validations (`survival_c_error`), in which predictions
  are right and events and censorings come as often as observed. Newcombe's formula (`c_error`)
  counts no pairs of two events and is up to a third too wide; it serves where no prediction is on
  the log-hazard scale.
- Observed/expected at a horizon: the error of Kaplan-Meier or Aalen-Johansen of these patients
  over its value. It is observed, not assumed.
- Slope: the information of Cox's partial likelihood at slope 1, from predictions, event times and
  risk sets, where Riley et al. (2022) simulate.

An error shrinks with the square root of the number of patients, which gives the sizes.

References
----------
Riley et al., Stat. Med. 41 (2022) 1280-1295. Gönen & Heller, Biometrika 92 (2005) 965-970 (C that
predictions promise).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Floats, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.sample_size_validation import as_predictor
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.discrimination import concordance
from storm_clinic.metrics.incidence import cumulative_incidence
from storm_clinic.metrics.inputs import Timed, require_whole_follow_up, required_horizon
from storm_clinic.metrics.risk_sets import RiskSets, suffix_sums

_MOST = 2000  # patients whose pairs are all compared; beyond it as many quantiles of them


def cox_slope_error(outcome: Survival, linear_predictor: ArrayLike) -> float:
    """Standard error of the calibration slope (Cox), if the predictions are right.

    Parameters
    ----------
    outcome : Survival, length n_patients
        Entry times are honoured. Which patients had the events matters to none of its terms but
        through the times at which events were seen.
    linear_predictor : float array, shape (n_patients,)
        On the log-hazard scale, e.g. ``complementary_log_log`` of predicted risks.

    Raises
    ------
    StatisticsError
        If there is no event, or no prediction varies among those at risk.
    """
    x = as_predictor(linear_predictor)
    if x.shape != (outcome.n_patients,):
        raise StatisticsError(f"{len(x)} predictions for {outcome.n_patients} patients")
    if not outcome.n_events:
        raise StatisticsError(f"no event among {outcome.n_patients} patients: no slope")
    information = float(_variances(outcome, x).sum())
    if information <= 0:
        raise StatisticsError("at each event all patients at risk have the same prediction")
    return 1 / math.sqrt(information)


def survival_c_error(
    outcome: Survival,
    linear_predictor: ArrayLike,
    *,
    tau_months: float | None = None,
    within: ArrayLike | None = None,
    draws: int = 40,
    seed: int,
) -> float:
    """Standard error of Harrell's C that such patients give, if the predictions are right.

    Each draw gives every patient a new event time from proportional hazards at slope 1, with
    Breslow's baseline, and a new end of follow-up from the censoring curve; the root mean square of
    the jackknife errors is what is returned. Which patient had the event is not looked at.

    Parameters
    ----------
    outcome : Survival, length n_patients
        Without entry times.
    linear_predictor : float array, shape (n_patients,)
        On the log-hazard scale.
    tau_months, within
        As in `concordance`.
    draws : int
        Simulated validations.
    seed : int
        Equal seeds give equal errors.

    Raises
    ------
    StatisticsError
        If there is no event, there are entry times, or a draw has no comparable pair.

    References
    ----------
    Riley et al., Stat. Med. 41 (2022) 1280-1295.
    """
    require_whole_follow_up(outcome, "a simulated validation")
    x = as_predictor(linear_predictor)
    if not outcome.n_events:
        raise StatisticsError(f"no event among {outcome.n_patients} patients: no C")
    sets, ones = RiskSets(outcome), np.ones((1, outcome.n_patients))
    hazard = np.exp(x - x.max())
    events = sets.counts(ones)[0][0]
    baseline = np.cumsum(events / sets.counts(hazard[None])[2][0])
    left = 1 - sets.uncensored(ones)[0]
    rng = np.random.default_rng(seed)
    variances = []
    for _ in range(draws):
        event = np.searchsorted(baseline, rng.exponential(size=len(x)) / hazard)
        end = np.minimum(np.searchsorted(left, rng.random(len(x)), "right"), len(sets.times) - 1)
        again = Survival(sets.times[np.minimum(event, end)], event <= end)
        found = concordance(again, x, tau_months=tau_months, within=within)
        variances.append((found.se or 0.0) ** 2)
    return math.sqrt(float(np.mean(variances)))


def horizon_risk(outcome: Timed, horizon_months: float) -> tuple[float, float]:
    """Observed share with the event by a horizon, and its standard error.

    Raises
    ------
    StatisticsError
        If the horizon lies outside the follow-up, or there are entry times.
    """
    horizon = required_horizon(outcome, horizon_months, "observed risk", followed_beyond=False)
    if isinstance(outcome, CompetingRisks):
        curve = cumulative_incidence(outcome)
        at = int(np.searchsorted(curve.times_months, horizon, side="right")) - 1
        return float(curve.incidence[at]), float(curve.se[at])
    found = kaplan_meier(outcome).at(horizon)
    return 1 - found.value, found.se or 0.0


def expected_survival_c(linear_predictor: ArrayLike) -> float:
    """C that predictions on the log-hazard scale promise, if they are right.

    Gönen & Heller's concordance probability under proportional hazards; no outcome is looked at,
    and no patient is censored.
    """
    x = as_predictor(linear_predictor)
    if len(x) > _MOST:
        x = np.quantile(x, (np.arange(_MOST) + 0.5) / _MOST)
    apart = np.abs(x[:, None] - x)[np.triu_indices(len(x), 1)]
    return float(expit(apart[apart > 0]).mean())


def known_by(outcome: Timed, horizon_months: float) -> tuple[int, int]:
    """Patients whose state at the horizon is known, and those of them with the event."""
    seen = outcome.time_months <= horizon_months
    happened = outcome.event if isinstance(outcome, Survival) else outcome.cause == 1
    ended = outcome.event if isinstance(outcome, Survival) else outcome.cause > 0
    cases = int((seen & happened).sum())
    return cases + int((seen & ended & ~happened).sum() + (~seen).sum()), cases


def size_for(error: float, target: float, n_patients: int) -> int:
    """Patients at which an error reaches a target, if ``n_patients`` of the kind give ``error``."""
    return math.ceil(n_patients * (error / target) ** 2 - 1e-9)


def event_share(outcome: Timed | Classes) -> float:
    """Share of patients with the event (of the cause of interest).

    Raises
    ------
    StatisticsError
        If nobody or everybody had it.
    """
    share = outcome.n_events / outcome.n_patients
    if not 0 < share < 1:
        raise StatisticsError(
            f"{outcome.n_events} of {outcome.n_patients} patients had the event",
            fix="Some must have it, and some not.",
        )
    return share


def _variances(outcome: Survival, x: Floats) -> Floats:
    """Variance of the prediction in the risk set of each event, weighted by exp(prediction)."""
    order = np.argsort(outcome.time_months, kind="stable")
    time, event = outcome.time_months[order], outcome.event[order]
    centred = x[order] - x.mean()
    hazard = np.exp(centred - centred.max())
    at = time[event]
    first = np.searchsorted(time, at, side="left")
    moments = np.stack([hazard * centred**power for power in range(3)])
    total = suffix_sums(moments)[:, first]
    if outcome.entry_months is not None:
        entry = outcome.entry_months[order]
        late = np.argsort(entry, kind="stable")
        total = total - suffix_sums(moments[:, late])[:, np.searchsorted(entry[late], at, "left")]
    mean = total[1] / total[0]
    return np.asarray(np.maximum(total[2] / total[0] - mean**2, 0))
