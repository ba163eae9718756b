"""Competing risks: against R, by brute force, and against survival where there is one cause."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import NoComparablePairs, StatisticsError
from storm_clinic.metrics.calibration import (
    calibration_intercept,
    calibration_slope,
    complementary_log_log,
    observed_expected,
)
from storm_clinic.metrics.competing import wolbers_concordance
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.discrimination import concordance, dynamic_auc, uno_concordance
from storm_clinic.metrics.incidence import Incidence, cumulative_incidence
from storm_clinic.metrics.integrated import integrated_brier
from storm_clinic.metrics.overall import brier, brier_scaled, log_score
from storm_clinic.metrics.smoothing import calibration_error, pseudo_observations
from storm_clinic.metrics.uncertainty import bootstrap

_GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_SPEC = importlib.util.spec_from_file_location("competing_cases", _GOLDEN / "competing_cases.py")
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _MODULE
_SPEC.loader.exec_module(_MODULE)
_R = json.loads((_GOLDEN / "competing.json").read_text())

few = settings(max_examples=10, deadline=None)
all_cases = pytest.mark.parametrize("name", _MODULE.CASES)
whole_follow_up = pytest.mark.parametrize("name", [n for n in _MODULE.CASES if "wolbers" in _R[n]])

METRICS = {
    "c_index": lambda o, p, h: wolbers_concordance(o, p, tau_months=h),
    "c_index_uno": lambda o, p, h: wolbers_concordance(o, p, tau_months=h, uncensored=True),
    "auc": dynamic_auc,
    "brier": lambda o, p, h: brier(o, p, horizon_months=h),
    "brier_scaled": lambda o, p, h: brier_scaled(o, p, horizon_months=h),
    "o_e": lambda o, p, h: observed_expected(o, p, horizon_months=h),
    "calibration_slope": lambda o, p, h: calibration_slope(
        o, complementary_log_log(p), horizon_months=h
    ),
    "calibration_intercept": lambda o, p, h: calibration_intercept(o, p, horizon_months=h),
    "brier_integrated": lambda o, p, h: integrated_brier(
        o, np.stack([0.8 * p, p], axis=1), [0.8 * h, h]
    ),
    "log_score": lambda o, p, h: log_score(o, p, horizon_months=h),
    "ici": lambda o, p, h: calibration_error(o, p, horizon_months=h),
}
# The same numbers where there is one cause.
SURVIVAL = METRICS | {
    "c_index": lambda o, p, h: concordance(o, p, tau_months=h),
    "c_index_uno": lambda o, p, h: uno_concordance(o, p, tau_months=h),
}
every_metric = pytest.mark.parametrize("metric", METRICS)


def case(name: str):
    return _MODULE.CASES[name]()


def drawn(seed: int, n: int = 90) -> tuple[CompetingRisks, np.ndarray]:
    """Simulated in whole months: two causes of which the first depends on the risk, ties."""
    rng = np.random.default_rng(seed)
    risk = np.round(rng.normal(size=n), 1)
    times = np.stack(
        [
            rng.exponential(24 * np.exp(-0.8 * risk)),
            rng.exponential(40, n),
            rng.uniform(3, 70, n),
        ]
    )
    cause = np.array([1, 2, 0])[times.argmin(axis=0)]
    outcome = CompetingRisks(np.ceil(times.min(axis=0) + 0.01), cause, ("relapse", "death"))
    return outcome, 1 / (1 + np.exp(-risk))


@all_cases
@pytest.mark.parametrize("cause", [1, 2])
def test_the_incidence_and_its_error_are_those_of_survfit(name, cause):
    found, r = cumulative_incidence(case(name).outcome, cause=cause), _R[name]["incidence"]
    column = {1: "one", 2: "two"}[cause]
    at = np.searchsorted(found.times_months, np.array(r["time"]) - 1e-9)
    np.testing.assert_allclose(found.incidence[at], r[column], atol=1e-12)
    np.testing.assert_allclose(found.se[at], r[f"{column}_se"], atol=1e-12)


@whole_follow_up
def test_the_incidence_is_that_of_cmprsk(name):
    given = case(name)
    share, _, _ = cumulative_incidence(given.outcome).at(given.horizon)
    assert share == pytest.approx(_R[name]["cuminc"]["value"], abs=1e-12)


@whole_follow_up
@pytest.mark.parametrize(("tau", "key"), [(False, "c"), (True, "c_tau")])
def test_wolbers_c_is_the_concordance_on_fine_and_grays_data(name, tau, key):
    given = case(name)
    until = given.tau if tau else None
    found = wolbers_concordance(given.outcome, given.table["risk"], tau_months=until)
    assert found.value == pytest.approx(_R[name]["fine_gray"][key], abs=1e-12)


@whole_follow_up
def test_wolbers_c_without_censoring_weights_all_pairs_as_published(name):
    given = case(name)
    found = wolbers_concordance(
        given.outcome, given.table["risk"], tau_months=given.tau, uncensored=True
    )
    assert found.value == pytest.approx(_R[name]["wolbers"], abs=1e-12)


@whole_follow_up
def test_the_slope_is_that_of_finegray_and_coxph(name):
    given = case(name)
    lp = complementary_log_log(given.table["probability"])
    found = calibration_slope(given.outcome, lp, horizon_months=given.horizon)
    assert found.value == pytest.approx(_R[name]["fine_gray"]["slope"], abs=1e-9)


@whole_follow_up
def test_numbers_at_a_horizon_are_those_of_risk_regression_and_survfit(name):
    given, r = case(name), _R[name]["horizon"]
    p, at = given.table["probability"], given.horizon
    assert dynamic_auc(given.outcome, given.table["risk"], at).value == pytest.approx(r["auc"])
    assert brier(given.outcome, p, horizon_months=at).value == pytest.approx(r["brier"])
    scaled = brier_scaled(given.outcome, p, horizon_months=at)
    assert scaled.value == pytest.approx(r["brier_scaled"], abs=1e-12)
    assert observed_expected(given.outcome, p, horizon_months=at).value == pytest.approx(r["o_e"])
    np.testing.assert_allclose(pseudo_observations(given.outcome, at), r["pseudo"], atol=1e-12)


@every_metric
@pytest.mark.parametrize("seed", range(3))
def test_without_competing_events_every_number_is_the_survival_one(metric, seed):
    outcome, p = drawn(seed)
    lone = CompetingRisks(outcome.time_months, np.minimum(outcome.cause % 2, 1), outcome.causes)
    same = Survival(lone.time_months, lone.cause == 1)
    expected, found = SURVIVAL[metric](same, p, 24), METRICS[metric](lone, p, 24)
    assert found.value == pytest.approx(expected.value, abs=1e-10)
    weights = np.random.default_rng(seed).poisson(1, (20, len(p))).astype(float)
    np.testing.assert_allclose(found.under(weights), expected.under(weights), atol=1e-9)


def test_without_competing_events_the_incidence_is_one_less_kaplan_meier_band_included():
    outcome, _ = drawn(1)
    same = Survival(outcome.time_months, outcome.cause == 1)
    curve = kaplan_meier(same)
    lone = CompetingRisks(same.time_months, same.event.astype(np.int64), outcome.causes)
    found = cumulative_incidence(lone)
    np.testing.assert_allclose(found.incidence, 1 - curve.survival, atol=1e-12)
    # Greenwood's error and the jackknife's agree in large samples only.
    inside = (found.incidence > 0.05) & (found.incidence < 0.9)
    np.testing.assert_allclose(found.upper[inside], 1 - curve.lower[inside], atol=0.02)


@every_metric
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_as_so_many_patients(metric, seed):
    outcome, p = drawn(seed)
    copies = np.random.default_rng(seed).integers(0, 3, len(p))
    if metric in ("calibration_slope", "ici"):
        copies = np.minimum(copies, 1)  # ties and bandwidths are those of whole patients
    at = np.repeat(np.arange(len(p)), copies)
    repeated = METRICS[metric](outcome.take(at), p[at], 24).value
    weighted = METRICS[metric](outcome, p, 24).under(copies[None].astype(float))[0]
    tolerance = 0.02 if metric == "ici" else 1e-9
    assert weighted == pytest.approx(repeated, abs=tolerance)


@every_metric
def test_a_common_weight_changes_nothing(metric):
    outcome, p = drawn(4)
    found = METRICS[metric](outcome, p, 24)
    np.testing.assert_allclose(found.under(np.full((1, len(p)), 3.0)), found.value, atol=1e-9)


@every_metric
def test_neither_the_order_of_patients_nor_which_other_cause_it_was_matters(metric):
    outcome, p = drawn(5)
    moved = np.random.default_rng(5).permutation(len(p))
    cause = np.where((outcome.cause == 2) & (np.arange(len(p)) % 2 == 0), 3, outcome.cause)
    finer = CompetingRisks(outcome.time_months, cause, ("relapse", "death", "second cancer"))
    expected = METRICS[metric](outcome, p, 24).value
    assert METRICS[metric](finer.take(moved), p[moved], 24).value == pytest.approx(
        expected, abs=1e-9
    )


def test_the_incidences_of_all_causes_and_the_event_free_are_everybody():
    outcome, _ = drawn(6)
    ones = np.ones((1, len(outcome)))
    shares = sum(Incidence(outcome, cause).curve(ones)[0] for cause in (1, 2))
    free = kaplan_meier(Survival(outcome.time_months, outcome.cause > 0)).survival
    np.testing.assert_allclose(shares + free, 1, atol=1e-12)


def test_without_censoring_the_incidence_is_a_plain_share():
    outcome, _ = drawn(7)
    everybody = CompetingRisks(outcome.time_months, np.maximum(outcome.cause, 1), outcome.causes)
    share, lower, upper = cumulative_incidence(everybody).at(20)
    seen = (everybody.cause == 1) & (everybody.time_months <= 20)
    assert share == pytest.approx(seen.mean())
    assert lower < share < upper
    np.testing.assert_allclose(pseudo_observations(everybody, 20), seen, atol=1e-12)


def test_where_all_had_an_event_the_incidence_stays_and_else_ends_with_follow_up():
    time = np.array([1.0, 2.0, 3.0])
    over = CompetingRisks(time, np.array([1, 0, 2]), ("a", "b"))
    assert cumulative_incidence(over).at(99)[0] == pytest.approx(1 / 3)
    going_on = CompetingRisks(time, np.array([1, 2, 0]), ("a", "b"))
    with pytest.raises(StatisticsError, match=r"Legal: \[0, 3\]"):
        cumulative_incidence(going_on).at(99)


def test_the_jackknife_is_the_derivative_of_the_incidence():
    outcome, _ = drawn(8)
    share, n, step = Incidence(outcome), len(outcome), 1e-6
    nudged = np.ones((n, n)) + step * np.eye(n)
    slope = (share.by(nudged, 24) - share.by(np.ones((1, n)), 24)) / step
    np.testing.assert_allclose(share.influence(np.ones((1, n)), 24)[0], slope, atol=1e-6)


def test_late_entry_counts_only_from_then_on():
    # Of three, the second enters at 2: one of two has the event at 1, one of two at 3.
    outcome = CompetingRisks(
        np.array([1.0, 3.0, 5.0]), np.array([1, 1, 0]), ("a", "b"), np.array([0.0, 2.0, 0.0])
    )
    np.testing.assert_allclose(cumulative_incidence(outcome).incidence, [0.5, 0.75, 0.75])


@pytest.mark.parametrize("seed", range(3))
def test_within_folds_wolbers_c_compares_patients_of_one_fold_only(seed):
    outcome, risk = drawn(seed)
    fold = np.arange(len(risk)) % 3
    followed = censoring_curve(outcome)
    credit = pairs = 0.0
    for i in np.flatnonzero((outcome.cause == 1) & (outcome.time_months < 24)):
        for j in range(len(risk)):
            weight = pair_weight(outcome, followed, i, j) * (fold[i] == fold[j])
            pairs += weight
            credit += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    # Scales of their own would mislead a comparison across folds.
    found = wolbers_concordance(outcome, risk + 9.0 * fold, tau_months=24, within=fold)
    assert found.value == pytest.approx(credit / pairs, abs=1e-12)


def censoring_curve(outcome: CompetingRisks):
    """G(t-) by its definition: events at a time have left before those censored at it."""

    def before(t: float) -> float:
        product = 1.0
        for time in np.unique(outcome.time_months[outcome.time_months < t]):
            here = outcome.time_months == time
            at_risk = (outcome.time_months >= time).sum() - (here & (outcome.cause > 0)).sum()
            product *= 1 - (here & (outcome.cause == 0)).sum() / max(at_risk, 1)
        return product

    return before


def pair_weight(outcome: CompetingRisks, followed, i: int, j: int) -> float:
    own, other = outcome.time_months[i], outcome.time_months[j]
    if i == j or (outcome.cause[j] == 1 and other <= own):
        return 0.0
    if outcome.cause[j] == 2 and other <= own:
        return followed(own) / followed(other)
    return float(other > own or (other == own and outcome.cause[j] == 0))


def test_only_wolbers_c_sees_that_a_model_predicts_just_any_event():
    # Who dies of something else first never relapses.
    time = np.arange(1.0, 81.0)
    outcome = CompetingRisks(time, 1 + np.arange(80, dtype=np.int64) % 2, ("relapse", "death"))
    any_event, relapse = -time, np.where(outcome.cause == 1, 100 - time, 0)
    assert wolbers_concordance(outcome, relapse).value == 1.0
    assert concordance(outcome.cause_specific(), any_event).value == 1.0
    # Relapse k of 40 (from 0) has 79 - 2k patients after it and k deaths before it.
    credit, pairs = sum(79 - 2 * k for k in range(40)), sum(79 - k for k in range(40))
    assert wolbers_concordance(outcome, any_event).value == pytest.approx(credit / pairs)


@pytest.mark.parametrize("metric", ["c_index", "auc", "brier_scaled", "calibration_slope"])
def test_the_formula_and_the_bootstrap_give_intervals_of_one_width(metric):
    outcome, p = drawn(9, 200)
    statistic = METRICS[metric](outcome, p, 24)
    resampled, formula = bootstrap(statistic, n=1000, seed=1), statistic.interval()
    assert formula.upper - formula.lower == pytest.approx(
        resampled.upper - resampled.lower, rel=0.12
    )


def test_an_interval_says_which_cause_and_until_when():
    outcome, p = drawn(9, 200)
    interval = wolbers_concordance(outcome, p, tau_months=24).interval()
    assert 0.5 < interval.lower < interval.value < interval.upper < 1
    assert "Wolbers' C for relapse, events before 24 months" in interval.method


@few
@given(seed=st.integers(0, 10_000))
def test_wolbers_c_knows_only_the_order_of_risks_and_turns_round_with_it(seed):
    outcome, p = drawn(seed)
    plain, moved, back = (
        wolbers_concordance(outcome, risk, tau_months=24) for risk in (p, np.log(p), -p)
    )
    assert (moved.value, moved.se) == pytest.approx((plain.value, plain.se), abs=1e-9)
    assert plain.value + back.value == pytest.approx(1, abs=1e-9)
    assert plain.se == pytest.approx(back.se, abs=1e-9)


@pytest.mark.parametrize("metric", [m for m in METRICS if m not in ("calibration_slope", "ici")])
@few
@given(seed=st.integers(0, 10_000))
def test_twice_as_many_of_the_same_patients_divide_the_error_by_root_two(metric, seed):
    outcome, p = drawn(seed)
    twice = np.tile(np.arange(len(p)), 2)
    once = METRICS[metric](outcome, p, 24)
    double = METRICS[metric](outcome.take(twice), p[twice], 24)
    assert double.value == pytest.approx(once.value, abs=1e-9)
    assert double.se == pytest.approx(once.se / np.sqrt(2), rel=1e-6)


@every_metric
def test_late_entry_is_refused_where_it_is_not_defined(metric):
    outcome, p = drawn(2)
    late = CompetingRisks(
        outcome.time_months, outcome.cause, outcome.causes, np.full(len(p), 0.005)
    )
    with pytest.raises(StatisticsError, match="entry times"):
        METRICS[metric](late, p, 24)


def test_no_event_of_the_cause_of_interest_is_said_by_name():
    outcome = CompetingRisks(np.arange(1.0, 9.0), np.full(8, 2), ("relapse", "death"))
    with pytest.raises(NoComparablePairs, match="0 events of 'relapse'"):
        wolbers_concordance(outcome, np.arange(8.0))
    with pytest.raises(StatisticsError, match="no event"):
        brier(outcome, np.full(8, 0.5), horizon_months=4)
