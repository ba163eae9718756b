"""Comparisons of risk groups: assignment, numbers, and reasons for what is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lifelines.datasets import load_lung

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.metrics.compare import log_rank
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.group_tests import gray, log_rank_trend
from storm_clinic.metrics.incidence import cumulative_incidence
from storm_clinic.metrics.landmark import landmark_concordance
from storm_clinic.metrics.restricted_mean import restricted_mean, restricted_time_lost
from storm_clinic.metrics.uncertainty import average
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.curves import cross_validated_groups
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.group_comparison import group_comparisons


def evaluation(outcome, risk, cuts, *, folds=None, **changes):
    risks = tuple(np.asarray(r, dtype=float) for r in np.atleast_2d(risk))
    folds = tuple(np.full(len(r), -1) for r in risks) if folds is None else folds
    parts = {
        "cohort": "b",
        "kind": "external",
        "outcome": outcome,
        "models": (ModelPredictions("clinical", risks, folds, {}),),
        "endpoint": Endpoint(name="os", horizons_months=(6, 12), tau_months=20),
        "candidate": "clinical",
        "comparator": None,
        "seed": 1,
        "bootstraps": 100,
        "risk_cuts": {"clinical": cuts},
    }
    return EvaluationData(**(parts | changes))


def drawn(seed=2, n=150):
    """Whole months; two causes of which the first depends on the risk."""
    rng = np.random.default_rng(seed)
    risk = np.round(rng.normal(size=n), 1)
    times = np.stack(
        [rng.exponential(14 * np.exp(-risk)), rng.exponential(40, n), rng.uniform(3, 50, n)]
    )
    cause = np.array([1, 2, 0])[times.argmin(axis=0)]
    return CompetingRisks(np.ceil(times.min(axis=0)), cause, ("relapse", "death")), risk


def one_cause(seed=2, n=150):
    outcome, risk = drawn(seed, n)
    return outcome.cause_specific(), risk


def parts_of(outcome, risk, cuts):
    codes = np.searchsorted(cuts, risk, side="right")
    return codes, [outcome.take(codes == code) for code in range(len(cuts) + 1)]


def test_the_anchors_of_the_lung_cohort_by_sex_come_out():
    lung = load_lung()
    outcome = Survival.from_arrays(lung["time"], lung["status"])
    endpoint = Endpoint(name="os", horizons_months=(365,), tau_months=730)
    (found,) = group_comparisons(evaluation(outcome, lung["sex"], (1.5,), endpoint=endpoint))
    men, women = found.groups
    assert (men.label, women.label) == ("low", "high")
    assert men.restricted_mean.value == pytest.approx(311.118, abs=5e-4)
    assert women.restricted_mean.value == pytest.approx(434.705, abs=5e-4)
    assert found.differences[0].value == pytest.approx(123.587, abs=1e-3)
    assert found.differences[0].label == "high"
    (test,) = found.tests  # no trend and no pairs: they would say the same of two groups
    assert (test.name, test.statistic) == ("log-rank", pytest.approx(10.3267, abs=5e-5))


def test_numbers_of_each_group_are_those_of_its_patients_alone():
    outcome, risk = one_cause()
    cuts = (-0.5, 0.5)
    (found,) = group_comparisons(evaluation(outcome, risk, cuts))
    codes, parts = parts_of(outcome, risk, cuts)
    for group, part in zip(found.groups, parts, strict=True):
        assert (group.n_patients, group.n_events) == (part.n_patients, part.n_events)
        curve = kaplan_meier(part).at(12)
        at = group.by_horizon[1]
        assert (at.value, at.lower, at.upper) == (curve.value, curve.lower, curve.upper)
        mean = restricted_mean(part, 20)
        assert group.restricted_mean.value == mean.value
        assert group.restricted_mean.lower == mean.lower
    by_name = {(t.name, t.about): t for t in found.tests}
    assert by_name["log-rank", "all groups"].statistic == log_rank(outcome, codes).chi2
    trend = by_name["log-rank trend", "from low to high"]
    assert (trend.statistic, trend.df) == (log_rank_trend(outcome, codes).chi2, 1)
    pairs = [t for t in found.tests if " against " in t.about]
    assert [t.about for t in pairs] == [
        "intermediate against low", "high against low", "high against intermediate",
    ]  # fmt: skip
    assert all(t.p <= t.p_adjusted <= 1 for t in pairs)
    assert (found.event, found.note) == ("", "")


def test_with_competing_risks_incidence_time_lost_and_grays_test_take_their_places():
    outcome, risk = drawn()
    cuts = (-0.5, 0.5)
    (found,) = group_comparisons(evaluation(outcome, risk, cuts))
    codes, parts = parts_of(outcome, risk, cuts)
    for group, part in zip(found.groups, parts, strict=True):
        at = group.by_horizon[1]
        assert (at.value, at.lower, at.upper) == cumulative_incidence(part).at(12)
        assert group.restricted_mean.value == restricted_time_lost(part, 20).value
    by_name = {(t.name, t.about): t for t in found.tests}
    assert by_name["Gray", "all groups"].statistic == gray(outcome, codes).chi2
    assert sum(t.name == "Gray" for t in found.tests) == 4
    trend = by_name["log-rank trend", "from low to high, cause-specific hazard of relapse"]
    assert trend.statistic == log_rank_trend(outcome.cause_specific(), codes).chi2
    assert found.event == "relapse"
    assert found.landmarks[0].c_index.value > 0.5
    assert "time lost to relapse" in found.method


def test_landmarks_rank_those_left_at_each_horizon():
    outcome, risk = one_cause()
    (found,) = group_comparisons(evaluation(outcome, risk, (0.0,)))
    assert [mark.months for mark in found.landmarks] == [6, 12]
    for mark in found.landmarks:
        expected = landmark_concordance(outcome, risk, mark.months, tau_months=20)
        interval = expected.interval()
        assert (mark.n_patients, mark.n_events) == (expected.n_patients, expected.n_events)
        assert mark.n_patients == (outcome.time_months > mark.months).sum()
        c = mark.c_index
        assert (c.value, c.lower, c.upper) == (interval.value, interval.lower, interval.upper)


def test_a_landmark_at_tau_or_beyond_the_follow_up_says_so():
    outcome, risk = one_cause()
    endpoint = Endpoint(name="os", horizons_months=(20, 600), tau_months=20)
    (found,) = group_comparisons(evaluation(outcome, risk, (0.0,), endpoint=endpoint))
    at_tau, beyond = found.landmarks
    assert at_tau.c_index.value is None
    assert "no event from 20 months on counts" in at_tau.c_index.note
    assert (beyond.n_patients, beyond.c_index.value) == (0, None)
    assert "nobody" in beyond.c_index.note
    assert all("outside the follow-up" in g.by_horizon[1].note for g in found.groups)


def test_empty_groups_and_groups_without_events_are_named():
    time = np.array([5.0, 6, 7, 8, 24, 25, 30, 30])
    outcome = Survival(time, np.array([1, 1, 0, 1, 0, 0, 0, 0], dtype=bool))
    risk = np.array([2.0, 2, 2, 2, 0, 0, 0, 0])
    (found,) = group_comparisons(evaluation(outcome, risk, (0.5, 1.5)))
    assert [group.label for group in found.groups] == ["low", "high"]
    assert "no patient in the group intermediate" in found.note
    assert "no event in the group low" in found.note
    low, high = found.groups
    assert (low.by_horizon[0].value, low.by_horizon[0].lower) == (1, None)
    assert (low.restricted_mean.value, low.restricted_mean.lower) == (20, None)
    assert "no event" in low.restricted_mean.note
    # Of the high group, everybody had the event by month 8.
    assert high.by_horizon[1].value == 0
    (gap,) = found.differences
    assert gap.value == pytest.approx(high.restricted_mean.value - 20)
    assert (gap.lower, gap.p) == (None, None)
    assert "no interval" in gap.note


def test_a_group_that_is_not_followed_to_tau_has_no_mean_and_no_difference():
    time = np.array([5.0, 6, 7, 8, 24, 25, 30, 30])
    outcome = Survival(time, np.array([1, 1, 1, 0, 1, 0, 0, 1], dtype=bool))
    (found,) = group_comparisons(evaluation(outcome, time < 10, (0.5,)))
    assert found.groups[1].restricted_mean.value is None
    assert "(0, 8] months" in found.groups[1].restricted_mean.note
    assert found.differences[0].value is None
    assert found.differences[0].note.startswith("high: ")


def test_without_any_event_there_are_groups_and_reasons_but_no_tests():
    outcome = Survival(np.linspace(5, 30, 20), np.zeros(20, dtype=bool))
    (found,) = group_comparisons(evaluation(outcome, np.arange(20) % 2, (0.5,)))
    assert found.tests[0].p is None
    assert "no event" in found.tests[0].note
    assert all(mark.c_index.note for mark in found.landmarks)


def test_entry_times_are_honoured_but_for_grays_test_which_says_so():
    outcome, risk = drawn()
    entry = np.floor(outcome.time_months / 3)
    late = CompetingRisks(outcome.time_months, outcome.cause, outcome.causes, entry)
    (found,) = group_comparisons(evaluation(late, risk, (0.0,)))
    assert found.groups[0].by_horizon[0].value is not None
    assert found.tests[0].p is None
    assert "left truncation" in found.tests[0].note


def test_without_tau_there_are_no_means_and_without_horizons_no_landmarks():
    outcome, risk = one_cause()
    (found,) = group_comparisons(evaluation(outcome, risk, (0.0,), endpoint=Endpoint(name="os")))
    assert found.differences == found.landmarks == ()
    assert all(g.restricted_mean is None and g.by_horizon == () for g in found.groups)
    assert found.tests[0].p is not None


def test_cross_validated_patients_are_grouped_inside_their_folds_as_in_the_curves():
    outcome, risk = one_cause()
    fold = np.arange(150) % 3
    scaled = risk * np.array([1, 10, 100])[fold] + np.array([0, 5, -7])[fold]
    data = evaluation(
        outcome, [scaled, risk], (), folds=(fold, fold), kind="cross-validation", risk_cuts={}
    )
    (found,) = group_comparisons(data, quantiles=(0.5,))
    codes = cross_validated_groups(scaled, fold, (0.5,))
    assert [g.n_patients for g in found.groups] == np.bincount(codes).tolist()
    assert found.tests[0].statistic == log_rank(outcome, codes).chi2
    assert found.note == "groups cut inside each fold; first of 2 repeats of cross-validation"
    expected = average(
        [landmark_concordance(outcome, r, 6, tau_months=20, within=fold) for r in (scaled, risk)]
    )
    assert found.landmarks[0].c_index.value == pytest.approx(expected.value)


def test_one_cut_for_all_folds_is_refused_and_nothing_is_asked_without_cuts():
    outcome, risk = one_cause()
    fold = (np.arange(150) % 3,)
    data = evaluation(outcome, risk, (0.0,), folds=fold, kind="cross-validation")
    (found,) = group_comparisons(data)
    assert found.groups == ()
    assert "no scale" in found.note
    assert group_comparisons(replace(data, risk_cuts={})) == ()
    assert group_comparisons(replace(data, risk_cuts={}, kind="external")) == ()


def test_an_optimised_cut_point_is_refused_with_the_reason():
    outcome, risk = one_cause()
    (found,) = group_comparisons(evaluation(outcome, risk, "optimal"))
    assert found.groups == ()
    assert "40%" in found.note
    assert "Altman" in found.note


def test_classes_have_no_risk_groups():
    data = evaluation(Classes(np.arange(4) % 2, ("no", "yes")), np.arange(4), (1.5,))
    assert group_comparisons(data) == ()
