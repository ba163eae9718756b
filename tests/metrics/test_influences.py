"""Every influence is the derivative of the number by one patient's weight, G's estimation included.

The brute force is a central difference: each patient's weight moved a little up and down.
"""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.metrics.calibration import (
    calibration_intercept,
    calibration_slope,
    complementary_log_log,
    log_odds,
    observed_expected,
)
from storm_clinic.metrics.classes import (
    balanced_accuracy,
    macro_auroc,
    multiclass_brier,
    multiclass_brier_scaled,
)
from storm_clinic.metrics.classes import (
    log_score as class_log_score,
)
from storm_clinic.metrics.competing import wolbers_concordance
from storm_clinic.metrics.discrimination import (
    auroc,
    average_precision,
    concordance,
    dynamic_auc,
    uno_concordance,
)
from storm_clinic.metrics.integrated import integrated_auc, integrated_brier
from storm_clinic.metrics.overall import brier, brier_scaled, log_score
from storm_clinic.metrics.uncertainty import Statistic


def first_event(outcome: Survival | CompetingRisks) -> float:
    happened = outcome.event if isinstance(outcome, Survival) else outcome.cause == 1
    return float(outcome.time_months[happened].min())


TIMED = {
    "auc": dynamic_auc,
    "brier": lambda o, p, h: brier(o, p, horizon_months=h),
    "brier_scaled": lambda o, p, h: brier_scaled(o, p, horizon_months=h),
    "log_score": lambda o, p, h: log_score(o, p, horizon_months=h),
    "o_e": lambda o, p, h: observed_expected(o, p, horizon_months=h),
    "calibration_slope": lambda o, p, h: calibration_slope(
        o, complementary_log_log(p), horizon_months=h
    ),
    "calibration_intercept": lambda o, p, h: calibration_intercept(o, p, horizon_months=h),
    "brier_integrated": lambda o, p, h: integrated_brier(
        o, np.stack([0.6 * p, p], axis=1), [max(0.6 * h, first_event(o)), h]
    ),
    "auc within folds": lambda o, p, h: dynamic_auc(o, p, h, within=np.arange(len(p)) % 3),
}
SURVIVAL = TIMED | {
    "c_index": lambda o, p, h: concordance(o, p, tau_months=2 * h),
    "c_index_uno": lambda o, p, h: uno_concordance(o, p, tau_months=2 * h),
    "auc_integrated": lambda o, p, h: integrated_auc(o, p, tau_months=h),
    "c_index within folds": lambda o, p, h: concordance(o, p, within=np.arange(len(p)) % 3),
}
WITH_COMPETING = TIMED | {
    "c_index": lambda o, p, h: wolbers_concordance(o, p, tau_months=2 * h),
    "c_index_uno": lambda o, p, h: wolbers_concordance(o, p, tau_months=2 * h, uncensored=True),
    "c_index within folds": lambda o, p, h: wolbers_concordance(o, p, within=np.arange(len(p)) % 3),
    "c_index_cause": lambda o, p, h: concordance(o.cause_specific(), p, tau_months=2 * h),
}
TWO_CLASSES = {
    "average_precision": average_precision,
    "brier": brier,
    "brier_scaled": brier_scaled,
    "log_score": log_score,
    "o_e": observed_expected,
    "calibration_slope": lambda o, p: calibration_slope(o, log_odds(p)),
    "calibration_intercept": calibration_intercept,
    "auroc within folds": lambda o, p: auroc(o, p, within=np.arange(len(p)) % 3),
}
MORE_CLASSES = {
    "auroc_macro": macro_auroc,
    "auroc_macro within folds": lambda o, p: macro_auroc(o, p, within=np.arange(len(p)) % 2),
    "balanced_accuracy": balanced_accuracy,
    "brier_multiclass": multiclass_brier,
    "brier_scaled": multiclass_brier_scaled,
    "log_score": class_log_score,
}


def assert_is_the_derivative(statistic: Statistic) -> None:
    n, step = statistic.n_patients, 1e-5
    eye = step * np.eye(n)
    slope = (statistic.under(1 + eye) - statistic.under(1 - eye)) / (2 * step)
    assert statistic.influence is not None
    scale = np.abs(slope).max()
    np.testing.assert_allclose(statistic.influence, slope, atol=1e-6 * scale, rtol=0)


@pytest.mark.parametrize("metric", SURVIVAL)
@pytest.mark.parametrize("name", ["lung", "lung_monthly", "veteran", "all_events", "one_event"])
def test_of_a_survival_outcome(cases, name, metric):
    case = cases[name]
    found = SURVIVAL[metric](case.outcome, case.column("probability"), case.horizon_months)
    if name == "one_event" and metric.startswith("auc"):
        assert found.se is None  # one case alone has no variance
    else:
        assert_is_the_derivative(found)


@pytest.mark.parametrize("metric", WITH_COMPETING)
@pytest.mark.parametrize("name", ["bmt", "cgvhd", "lung_monthly", "one_cause"])
def test_with_competing_risks(competing_cases, name, metric):
    case = competing_cases[name]
    p = case.table["probability"].to_numpy()
    assert_is_the_derivative(WITH_COMPETING[metric](case.outcome, p, case.horizon))


@pytest.mark.parametrize("metric", TWO_CLASSES)
def test_of_two_classes(cases, metric):
    case = cases["lung_monthly"]
    outcome = Classes(case.outcome.event.astype(np.int64), ("no", "yes"))
    p = np.round(case.column("probability"), 2)  # ties
    assert_is_the_derivative(TWO_CLASSES[metric](outcome, p))


def test_delongs_influences_are_the_derivatives_but_for_his_small_sample_factors(cases):
    case = cases["lung_monthly"]
    event = case.outcome.event
    found = auroc(Classes(event.astype(np.int64), ("no", "yes")), case.column("probability"))
    n, step = len(event), 1e-5
    up, down = (found.under(1 + sign * step * np.eye(n)) for sign in (1, -1))
    of_its_class = np.where(event, event.sum(), (~event).sum())
    expected = (up - down) / (2 * step) * np.sqrt(of_its_class / (of_its_class - 1))
    np.testing.assert_allclose(found.influence, expected, atol=1e-9)


@pytest.mark.parametrize("metric", MORE_CLASSES)
def test_of_more_classes(metric):
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 80)
    p = np.round(rng.dirichlet([2, 2, 2], 80) * 0.6 + 0.4 * np.eye(3)[label], 2)
    p[:, 2] = 1 - p[:, 0] - p[:, 1]
    p = np.maximum(p, 0.001)
    assert_is_the_derivative(MORE_CLASSES[metric](Classes(label, ("a", "b", "c")), p))


@pytest.mark.parametrize("metric", ["auc", "brier", "brier_scaled", "log_score"])
def test_with_censoring_of_other_patients(cases, metric):
    case, other = cases["lung"], cases["gbsg2"].outcome
    call = {
        "auc": dynamic_auc,
        "brier": brier,
        "brier_scaled": brier_scaled,
        "log_score": log_score,
    }
    found = call[metric](
        case.outcome, case.column("probability"), horizon_months=12, censoring=other
    )
    assert_is_the_derivative(found)


@pytest.mark.parametrize("metric", ["c_index", "calibration_slope"])
def test_with_entry_times_where_they_are_honoured(cases, metric):
    case = cases["heart"]
    found = SURVIVAL[metric](case.outcome, case.column("probability"), case.horizon_months)
    assert_is_the_derivative(found)


def test_a_gain_moves_as_its_two_parts(cases):
    case = cases["lung"]
    p, other = case.column("probability"), np.cos(np.arange(227.0)) / 3 + 0.5
    for metric in SURVIVAL.values():
        one, two = (metric(case.outcome, q, case.horizon_months) for q in (p, other))
        np.testing.assert_allclose((one - two).influence, one.influence - two.influence, atol=0)
        assert_is_the_derivative(one - two)


@pytest.mark.parametrize("metric", [name for name in TWO_CLASSES if "folds" not in name])
def test_two_classes_taken_twice_have_an_error_smaller_by_root_two(cases, metric):
    case = cases["lung_monthly"]
    outcome = Classes(case.outcome.event.astype(np.int64), ("no", "yes"))
    p, twice = case.column("probability"), np.tile(np.arange(227), 2)
    call = TWO_CLASSES[metric]
    once, double = call(outcome, p), call(outcome.take(twice), p[twice])
    assert double.value == pytest.approx(once.value, abs=1e-9)
    assert double.se == pytest.approx(once.se / np.sqrt(2), rel=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_an_auroc_knows_only_the_order_of_risks_and_turns_round_with_it(seed):
    rng = np.random.default_rng(seed)
    risk, label = np.round(rng.normal(size=60), 1), rng.integers(0, 2, 60)
    outcome = Classes(label, ("no", "yes"))
    plain, moved, back = (auroc(outcome, r) for r in (risk, np.exp(risk), -risk))
    assert (moved.value, moved.se) == pytest.approx((plain.value, plain.se), abs=1e-12)
    assert plain.value + back.value == pytest.approx(1, abs=1e-12)
    assert plain.se == pytest.approx(back.se, abs=1e-12)
