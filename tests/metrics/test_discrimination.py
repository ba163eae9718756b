from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from storm_clinic.cohort.outcome import DAYS_PER_MONTH, Classes, Survival
from storm_clinic.errors import NoComparablePairs, StatisticsError
from storm_clinic.metrics.discrimination import (
    auroc,
    average_precision,
    concordance,
    dynamic_auc,
    uno_concordance,
)

exactly = {"rel": 0, "abs": 1e-9}


def repeated(outcome: Survival, counts: np.ndarray) -> tuple[Survival, np.ndarray]:
    index = np.repeat(np.arange(len(outcome)), counts)
    return outcome.take(index), index


def pairs_by_hand(outcome: Survival, risk: np.ndarray) -> tuple[float, float, float]:
    """Concordant, discordant and tied pairs, straight from the definition."""
    counts = [0, 0, 0]
    entry = outcome.entry_months if outcome.entry_months is not None else np.zeros(len(outcome))
    for i in np.flatnonzero(outcome.event):
        for j in range(len(outcome)):
            t = outcome.time_months[i]
            later = outcome.time_months[j] > t or (
                outcome.time_months[j] == t and not outcome.event[j]
            )
            if j != i and later and entry[j] < t:
                counts[0 if risk[i] > risk[j] else 1 if risk[i] < risk[j] else 2] += 1
    return tuple(counts)


# Against R


def test_the_anchors_of_the_lung_cohort_hold(lung):
    harrell = concordance(lung.outcome, lung.risk)
    assert harrell.value == pytest.approx(0.6371355, abs=5e-8)
    assert harrell.se == pytest.approx(0.0250680, abs=5e-8)
    uno = uno_concordance(lung.outcome, lung.risk, tau_months=730 / DAYS_PER_MONTH)
    assert uno.value == pytest.approx(0.6273655, abs=5e-8)


@pytest.mark.golden("concordance", "harrell")
def test_harrells_c_and_its_error_are_those_of_r(golden):
    r = golden.r("concordance", "harrell")
    ours = concordance(golden.outcome, golden.risk)
    assert (ours.value, ours.se) == pytest.approx((r["value"], r["se"]), **exactly)


@pytest.mark.golden("concordance", "weighted")
def test_harrells_c_under_case_weights_is_that_of_r(golden):
    weights = golden.case.column("weight").astype(float)
    weighted = concordance(golden.outcome, golden.risk).under(weights[None])[0]
    assert weighted == pytest.approx(golden.r("concordance", "weighted")["value"], **exactly)


@pytest.mark.golden("concordance", "up_to_tau")
def test_pairs_up_to_tau_are_those_of_r_with_ymax(golden):
    r = golden.r("concordance", "up_to_tau")
    ours = concordance(golden.outcome, golden.risk, tau_months=golden.case.tau_months)
    assert (ours.value, ours.se) == pytest.approx((r["value"], r["se"]), **exactly)


@pytest.mark.golden("concordance", "within_folds")
def test_pairs_within_folds_are_those_of_r_within_strata(golden):
    r = golden.r("concordance", "within_folds")
    ours = concordance(golden.outcome, golden.risk, within=golden.case.column("fold"))
    assert (ours.value, ours.se) == pytest.approx((r["value"], r["se"]), **exactly)


@pytest.mark.golden("concordance", "clustered")
def test_a_clustered_error_is_that_of_r(golden):
    statistic, fold = concordance(golden.outcome, golden.risk), golden.case.column("fold")
    if golden.name == "one_event":
        with pytest.raises(StatisticsError, match="a single event"):
            statistic.interval(clusters=fold)
        return
    interval = statistic.interval(clusters=fold)
    assert interval.se == pytest.approx(golden.r("concordance", "clustered")["se"], **exactly)
    assert interval.method.endswith("5 clusters, 4 degrees of freedom")


@pytest.mark.parametrize("upto", ["uno", "uno_up_to_tau"])
@pytest.mark.golden("concordance", "uno")
def test_unos_c_and_its_error_are_those_of_r(golden, upto):
    r = golden.r("concordance", upto)
    tau = golden.case.tau_months if upto == "uno_up_to_tau" else None
    ours = uno_concordance(golden.outcome, golden.risk, tau_months=tau)
    assert ours.value == pytest.approx(r["value"], **exactly)
    # R's error takes G as known.
    known = uno_concordance(golden.outcome, golden.risk, tau_months=tau, censoring=golden.outcome)
    assert known.se == pytest.approx(r["se"], **exactly)


@pytest.mark.golden("horizon", "auc")
def test_the_dynamic_auc_is_that_of_risk_regression(golden):
    r = golden.r("horizon", "auc")
    ours = dynamic_auc(golden.outcome, golden.probability, golden.case.horizon_months)
    assert ours.value == pytest.approx(r, **exactly)


@pytest.mark.golden("classes")
def test_auroc_delong_error_and_covariance_are_those_of_proc(golden):
    r = golden.r("classes")
    outcome = Classes(golden.outcome.event.astype(np.int64), ("no", "yes"))
    ours, other = auroc(outcome, golden.probability), auroc(outcome, -golden.outcome.time_months)
    assert (ours.value, ours.se) == pytest.approx((r["auroc"], r["auroc_se"]), **exactly)
    assert other.value == pytest.approx(r["other"], **exactly)
    assert ours.influence @ other.influence == pytest.approx(r["covariance"], **exactly)
    gain = ours - other
    expected = np.sqrt(ours.se**2 + other.se**2 - 2 * r["covariance"])
    assert gain.se == pytest.approx(expected, **exactly)


# Against definitions


@pytest.mark.parametrize("entry", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_of_counting_pairs_agree_with_the_definition(random_cohort, seed, entry):
    outcome, risk = random_cohort(seed, 60, entry=entry)
    concordant, discordant, tied = pairs_by_hand(outcome, risk)
    expected = (concordant + tied / 2) / (concordant + discordant + tied)
    statistic = concordance(outcome, risk)
    assert statistic.value == pytest.approx(expected, **exactly)
    assert statistic.under(np.ones((1, 60)))[0] == pytest.approx(expected, **exactly)


@pytest.mark.parametrize("entry", [False, True])
def test_the_influences_are_the_derivatives_by_weight(random_cohort, entry):
    outcome, risk = random_cohort(7, 40, entry=entry)
    statistic = concordance(outcome, risk, tau_months=20)
    up = statistic.under(1 + 1e-6 * np.eye(40))
    assert statistic.influence == pytest.approx((up - statistic.value) / 1e-6, abs=1e-6)


@pytest.mark.parametrize("metric", [concordance, uno_concordance])
def test_a_weight_of_two_is_a_patient_who_occurs_twice(random_cohort, metric):
    outcome, risk = random_cohort(3, 50)
    counts = np.random.default_rng(0).integers(0, 4, 50)
    twice, index = repeated(outcome, counts)
    weighted = metric(outcome, risk, tau_months=30).under(counts[None].astype(float))[0]
    assert weighted == pytest.approx(metric(twice, risk[index], tau_months=30).value, **exactly)


def test_average_precision_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(5)
    risk, label = np.round(rng.normal(size=80), 1), rng.integers(0, 2, 80)
    counts = rng.integers(0, 3, 80)
    statistic = average_precision(Classes(label, ("no", "yes")), risk)
    assert statistic.value == pytest.approx(average_precision_score(label, risk), **exactly)
    assert statistic.under(counts[None].astype(float))[0] == pytest.approx(
        average_precision_score(label, risk, sample_weight=counts), **exactly
    )


def test_without_censoring_the_dynamic_auc_is_the_auroc_of_the_event_by_then(cases):
    case = cases["all_events"]
    happened = Classes((case.table["time"] <= case.horizon).to_numpy().astype(int), ("no", "yes"))
    dynamic = dynamic_auc(case.outcome, case.column("risk"), case.horizon_months)
    assert dynamic.value == pytest.approx(auroc(happened, case.column("risk")).value, **exactly)


def test_within_folds_pairs_the_scale_of_each_fold_does_not_matter(random_cohort):
    outcome, risk = random_cohort(11, 90)
    fold = np.arange(90) % 3
    shifted = risk + 100.0 * fold
    for metric in (concordance, lambda o, r, within: dynamic_auc(o, r, 12, within=within)):
        plain = metric(outcome, risk, within=fold)
        assert metric(outcome, shifted, within=fold).value == pytest.approx(plain.value, **exactly)
    assert concordance(outcome, shifted).value != pytest.approx(concordance(outcome, risk).value)


def test_within_folds_the_c_index_pools_the_pairs_of_each_fold(random_cohort):
    outcome, risk = random_cohort(12, 60)
    fold = np.arange(60) % 2
    counts = [pairs_by_hand(outcome.take(fold == k), risk[fold == k]) for k in (0, 1)]
    concordant, discordant, tied = np.sum(counts, axis=0)
    expected = (concordant + tied / 2) / (concordant + discordant + tied)
    assert concordance(outcome, risk, within=fold).value == pytest.approx(expected, **exactly)


# Laws

cohorts = st.tuples(st.integers(0, 10_000), st.integers(12, 60), st.booleans())


@settings(max_examples=30, deadline=None)
@given(cohorts)
def test_only_the_order_of_risks_and_the_order_of_times_matter(random_cohort, drawn):
    seed, n, entry = drawn
    outcome, risk = random_cohort(seed, n, entry=entry)
    c = concordance(outcome, risk).value
    assert concordance(outcome, np.exp(risk)).value == pytest.approx(c, **exactly)
    entered = None if outcome.entry_months is None else outcome.entry_months * DAYS_PER_MONTH
    days = Survival(outcome.time_months * DAYS_PER_MONTH, outcome.event, entered)
    assert concordance(days, risk).value == pytest.approx(c, **exactly)


@settings(max_examples=30, deadline=None)
@given(cohorts)
def test_the_order_of_patients_does_not_matter(random_cohort, drawn):
    seed, n, entry = drawn
    outcome, risk = random_cohort(seed, n, entry=entry)
    shuffled = np.random.default_rng(seed).permutation(n)
    plain = concordance(outcome, risk)
    moved = concordance(outcome.take(shuffled), risk[shuffled])
    assert (moved.value, moved.se) == pytest.approx((plain.value, plain.se), **exactly)
    assert moved.influence == pytest.approx(plain.influence[shuffled], **exactly)


@settings(max_examples=30, deadline=None)
@given(cohorts)
def test_reversing_the_risk_reverses_every_pair(random_cohort, drawn):
    seed, n, entry = drawn
    outcome, risk = random_cohort(seed, n, entry=entry)
    for metric in [concordance] + ([] if entry else [uno_concordance]):
        there, back = metric(outcome, risk), metric(outcome, -risk)
        assert there.value + back.value == pytest.approx(1, **exactly)
        assert there.se == pytest.approx(back.se, **exactly)


@settings(max_examples=30, deadline=None)
@given(cohorts)
def test_a_cohort_taken_twice_keeps_c_and_divides_its_error_by_root_two(random_cohort, drawn):
    seed, n, entry = drawn
    outcome, risk = random_cohort(seed, n, entry=entry)
    once = concordance(outcome, risk)
    twice = concordance(outcome.take(np.tile(np.arange(n), 2)), np.tile(risk, 2))
    assert twice.value == pytest.approx(once.value, **exactly)
    assert twice.se == pytest.approx(once.se / np.sqrt(2), **exactly)


# The censoring distribution


def test_censoring_estimated_from_the_same_patients_changes_nothing(random_cohort):
    outcome, risk = random_cohort(21, 80)
    for metric in (
        lambda **k: uno_concordance(outcome, risk, tau_months=30, **k),
        lambda **k: dynamic_auc(outcome, risk, 12, **k),
    ):
        assert metric(censoring=outcome).value == pytest.approx(metric().value, **exactly)


def test_censoring_from_other_patients_stays_fixed_when_resampled(random_cohort):
    outcome, risk = random_cohort(22, 80)
    counts = np.random.default_rng(1).integers(0, 4, 80)
    twice, index = repeated(outcome, counts)
    fixed = uno_concordance(outcome, risk, tau_months=30, censoring=outcome)
    expected = uno_concordance(twice, risk[index], tau_months=30, censoring=outcome).value
    assert fixed.under(counts[None].astype(float))[0] == pytest.approx(expected, **exactly)


def test_events_after_everybody_elses_censoring_cannot_be_weighted():
    outcome = Survival.from_arrays([1, 2, 8, 9], [1, 1, 1, 1])
    other = Survival.from_arrays([1, 2, 3], [1, 0, 0])
    with pytest.raises(StatisticsError, match="below 3"):
        uno_concordance(outcome, [4, 3, 2, 1], censoring=other)


# Data that cannot give the number


def test_without_events_there_are_no_pairs():
    outcome = Survival.from_arrays([1.0, 2.0, 3.0], [0, 0, 0])
    with pytest.raises(NoComparablePairs, match="no event"):
        concordance(outcome, [1, 2, 3])
    with pytest.raises(StatisticsError, match="no event"):
        dynamic_auc(outcome, [1, 2, 3], 2)


def test_a_tau_before_the_first_event_says_where_that_is():
    outcome = Survival.from_arrays([4.0, 5.0, 6.0], [1, 0, 0])
    with pytest.raises(NoComparablePairs, match=r"first event \(4 months\)"):
        concordance(outcome, [1, 2, 3], tau_months=4)


def test_an_event_at_tau_opens_no_pair():
    outcome = Survival.from_arrays([1.0, 4.0, 5.0, 6.0], [1, 1, 0, 0])
    # Only the pairs of the first event count: 2 of 3 concordant.
    assert concordance(outcome, [2, 9, 1, 1], tau_months=4).value == pytest.approx(2 / 3)


def test_only_events_at_the_end_open_no_pair():
    outcome = Survival.from_arrays([1.0, 2.0, 3.0], [0, 0, 1])
    with pytest.raises(NoComparablePairs, match="at risk after it"):
        concordance(outcome, [1, 2, 3])


def test_folds_of_one_patient_have_no_pairs(random_cohort):
    outcome, risk = random_cohort(1, 20)
    with pytest.raises(NoComparablePairs):
        concordance(outcome, risk, within=np.arange(20))
    with pytest.raises(NoComparablePairs, match="fold"):
        dynamic_auc(outcome, risk, 12, within=np.arange(20))


@pytest.mark.parametrize("horizon", [0.5, 6.0, 40.0])
def test_a_horizon_outside_the_follow_up_is_refused_with_the_legal_range(horizon):
    outcome = Survival.from_arrays([1.0, 3.0, 6.0], [1, 1, 0])
    with pytest.raises(StatisticsError, match=r"\[1, 6\) months"):
        dynamic_auc(outcome, [1, 2, 3], horizon)


def test_entry_times_are_refused_where_the_definition_knows_none(random_cohort):
    outcome, risk = random_cohort(5, 40, entry=True)
    for metric in (uno_concordance, lambda o, r: dynamic_auc(o, r, 12)):
        with pytest.raises(StatisticsError, match="entry times"):
            metric(outcome, risk)


def test_a_missing_risk_is_refused_with_its_row(random_cohort):
    outcome, risk = random_cohort(6, 20)
    risk = risk.copy()
    risk[13] = np.nan
    with pytest.raises(StatisticsError, match="row 13"):
        concordance(outcome, risk)


def test_one_class_alone_is_refused():
    with pytest.raises(StatisticsError, match="Both classes"):
        auroc(Classes(np.zeros(5, dtype=np.int64), ("no", "yes")), np.arange(5))
    with pytest.raises(StatisticsError, match="3 classes"):
        auroc(Classes(np.array([0, 1, 2]), ("a", "b", "c")), np.arange(3))


def test_a_single_case_has_an_auroc_but_no_error():
    outcome = Classes(np.array([0, 0, 0, 1]), ("no", "yes"))
    statistic = auroc(outcome, [1, 2, 3, 2.5])
    assert (statistic.value, statistic.se) == (pytest.approx(2 / 3), None)
