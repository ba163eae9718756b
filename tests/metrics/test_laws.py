"""Laws that hold for every metric of a survival outcome, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storm_clinic.cohort.outcome import DAYS_PER_MONTH, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.calibration import (
    calibration_intercept,
    calibration_slope,
    complementary_log_log,
    observed_expected,
)
from storm_clinic.metrics.discrimination import concordance, dynamic_auc, uno_concordance
from storm_clinic.metrics.integrated import integrated_auc, integrated_brier
from storm_clinic.metrics.overall import brier, brier_scaled, log_score
from storm_clinic.metrics.smoothing import calibration_error
from storm_clinic.metrics.utility import net_benefit

METRICS = {
    "c_index": lambda o, p, h: concordance(o, p, tau_months=h),
    "c_index_uno": lambda o, p, h: uno_concordance(o, p, tau_months=h),
    "auc": dynamic_auc,
    "brier": lambda o, p, h: brier(o, p, horizon_months=h),
    "brier_scaled": lambda o, p, h: brier_scaled(o, p, horizon_months=h),
    "o_e": lambda o, p, h: observed_expected(o, p, horizon_months=h),
    "calibration_slope": lambda o, p, h: calibration_slope(
        o, complementary_log_log(p), horizon_months=h
    ),
    "calibration_intercept": lambda o, p, h: calibration_intercept(o, p, horizon_months=h),
    "auc_integrated": lambda o, p, h: integrated_auc(o, p, tau_months=h),
    "brier_integrated": lambda o, p, h: integrated_brier(
        o, np.stack([0.8 * p, p], axis=1), [0.8 * h, h]
    ),
    "log_score": lambda o, p, h: log_score(o, p, horizon_months=h),
    "ici": lambda o, p, h: calibration_error(o, p, horizon_months=h),
    "net_benefit": lambda o, p, h: net_benefit(o, p, [0.2, 0.4, 0.6], horizon_months=h),
}


def every_metric_but(*names: str):
    kept = {name: metric for name, metric in METRICS.items() if name not in names}
    return pytest.mark.parametrize("metric", kept.values(), ids=kept)


every_metric = every_metric_but()
seeds = st.integers(0, 10_000)
few = settings(max_examples=15, deadline=None)


def drawn(random_cohort, seed: int) -> tuple[Survival, np.ndarray]:
    outcome, risk = random_cohort(seed, 80)
    return outcome, 1 / (1 + np.exp(-risk))


@every_metric
@few
@given(seed=seeds)
def test_the_order_of_patients_does_not_matter(random_cohort, metric, seed):
    outcome, p = drawn(random_cohort, seed)
    moved = np.random.default_rng(seed).permutation(80)
    expected = metric(outcome, p, 12).value
    assert metric(outcome.take(moved), p[moved], 12).value == pytest.approx(expected, abs=1e-9)


@every_metric
@few
@given(seed=seeds)
def test_the_unit_of_time_does_not_matter(random_cohort, metric, seed):
    outcome, p = drawn(random_cohort, seed)
    in_days = Survival(outcome.time_months * DAYS_PER_MONTH, outcome.event)
    expected = metric(outcome, p, 12).value
    assert metric(in_days, p, 12 * DAYS_PER_MONTH).value == pytest.approx(expected, abs=1e-9)


@every_metric
@few
@given(seed=seeds)
def test_a_common_weight_does_not_matter(random_cohort, metric, seed):
    outcome, p = drawn(random_cohort, seed)
    statistic = metric(outcome, p, 12)
    weighted = statistic.under(np.full((2, 80), [[3.0], [0.7]]))
    assert weighted == pytest.approx(statistic.value, abs=1e-8)


@every_metric_but("ici")  # whose bandwidths are those of the whole sample
@few
@given(seed=seeds)
def test_a_patient_of_weight_zero_might_as_well_not_be_there(random_cohort, metric, seed):
    outcome, p = drawn(random_cohort, seed)
    statistic = metric(outcome, p, 12)
    present = np.random.default_rng(seed).random(80) < 0.8
    alone = metric(outcome.take(present), p[present], 12).value
    weighted = statistic.under(present[None].astype(float))[0]
    assert weighted == pytest.approx(alone, abs=1e-8)


@every_metric
@few
@given(seed=seeds)
def test_an_influence_sums_to_nothing(random_cohort, metric, seed):
    # A common change of all weights moves no metric.
    statistic = metric(*drawn(random_cohort, seed), 12)
    if statistic.influence is not None:
        assert statistic.influence.sum() == pytest.approx(0, abs=1e-9)


@every_metric_but("calibration_slope", "ici", "net_benefit")
@few
@given(seed=seeds)
def test_twice_as_many_of_the_same_patients_divide_the_error_by_root_two(
    random_cohort, metric, seed
):
    # Not so for Efron's ties (the copies tie) nor for loess.
    outcome, p = drawn(random_cohort, seed)
    twice = np.tile(np.arange(80), 2)
    once, double = metric(outcome, p, 12), metric(outcome.take(twice), p[twice], 12)
    assert double.value == pytest.approx(once.value, abs=1e-9)
    assert double.se == pytest.approx(once.se / np.sqrt(2), rel=1e-6)


RANKINGS = {name: METRICS[name] for name in ("c_index", "c_index_uno", "auc", "auc_integrated")}
every_ranking = pytest.mark.parametrize("metric", RANKINGS.values(), ids=RANKINGS)


@every_ranking
@few
@given(seed=seeds)
def test_only_the_order_of_risks_matters_to_a_ranking_and_its_error(random_cohort, metric, seed):
    outcome, p = drawn(random_cohort, seed)
    plain, moved = metric(outcome, p, 12), metric(outcome, np.log(p) - 3, 12)
    assert (moved.value, moved.se) == pytest.approx((plain.value, plain.se), abs=1e-9)


@every_ranking
@few
@given(seed=seeds)
def test_a_ranking_turned_round_is_its_complement_with_the_same_error(random_cohort, metric, seed):
    outcome, p = drawn(random_cohort, seed)
    there, back = metric(outcome, p, 12), metric(outcome, -p, 12)
    assert there.value + back.value == pytest.approx(1, abs=1e-9)
    assert there.se == pytest.approx(back.se, abs=1e-9)


@every_metric_but("ici", "net_benefit")
@few
@given(seed=seeds)
def test_an_interval_lies_where_the_number_can_lie_and_holds_it(random_cohort, metric, seed):
    statistic = metric(*drawn(random_cohort, seed), 12)
    interval = statistic.interval()
    assert interval.lower <= statistic.value <= interval.upper
    shares = [*RANKINGS.values()]
    errors = [METRICS[name] for name in ("brier", "brier_integrated", "log_score", "o_e")]
    if metric in shares:
        assert 0 <= interval.lower <= interval.upper <= 1
    elif metric in errors:
        assert interval.lower > 0
    elif metric is METRICS["brier_scaled"]:
        assert interval.upper < 1


@every_metric_but("c_index", "calibration_slope")
def test_entry_times_are_refused_where_they_are_not_honoured(random_cohort, metric):
    outcome, p = drawn(random_cohort, 3)
    late = Survival(outcome.time_months, outcome.event, np.full(80, 0.25))
    with pytest.raises(StatisticsError, match="entry times"):
        metric(late, p, 12)


@every_metric
def test_without_any_event_there_is_no_number_but_a_reason(metric):
    nothing = Survival.from_arrays(np.arange(1.0, 41.0), np.zeros(40))
    with pytest.raises(StatisticsError, match="no event"):
        metric(nothing, np.linspace(0.1, 0.9, 40), 12)


@every_metric_but("ici", "net_benefit", "o_e", "calibration_intercept")
def test_a_single_event_gives_no_interval(random_cohort, metric):
    event = np.arange(40) == 7
    outcome = Survival.from_arrays(np.arange(1.0, 41.0), event)
    p = np.where(event, 0.5, np.linspace(0.1, 0.9, 40))
    with pytest.raises(StatisticsError, match=r"single event|no formula"):
        metric(outcome, p, 12).interval()


@every_metric
def test_a_resample_without_any_event_gives_no_number_or_an_honest_one(random_cohort, metric):
    outcome, p = drawn(random_cohort, 1)
    only_censored = (~outcome.event).astype(float)[None]
    value = metric(outcome, p, 12).under(only_censored)[0]
    # Without events nothing ranks or scales; what is observed, wrong or gained is still defined.
    defined = {"brier", "brier_integrated", "log_score", "o_e", "ici", "net_benefit"}
    assert np.isfinite(value) == (metric in [METRICS[name] for name in defined])


@every_metric_but("o_e", "net_benefit")  # defined, and as uncertain as their n says
def test_one_patient_cannot_be_ranked_scaled_or_smoothed(metric):
    with pytest.raises(StatisticsError):
        metric(Survival.from_arrays([5.0], [1]), np.array([0.5]), 5)
