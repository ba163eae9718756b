"""Curves against lifelines, scikit-learn, closed forms and counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from sklearn.metrics import roc_auc_score

from storm_clinic.cohort.outcome import Classes, CompetingRisks
from storm_clinic.metrics.incidence import cumulative_incidence
from storm_clinic.validation.curves import (
    class_curves,
    confusion,
    cross_validated_groups,
    curves_by_class,
    curves_of_groups,
    group_labels,
    risk_group_curves,
    tick_months,
)


@pytest.fixture
def curves(outcome, hidden):
    return risk_group_curves(
        outcome, hidden["clinic"], [-0.4, 0.4], cohort="b", model="clinical", until_months=60
    )


def test_groups_are_cut_at_the_given_thresholds_and_nowhere_else(curves, hidden):
    risk = hidden["clinic"]
    sizes = [(risk < -0.4).sum(), ((risk >= -0.4) & (risk < 0.4)).sum(), (risk >= 0.4).sum()]
    assert [g.n_patients for g in curves.groups] == sizes
    assert [g.label for g in curves.groups] == ["low", "intermediate", "high"]
    assert curves.thresholds == (-0.4, 0.4)


def test_a_risk_equal_to_a_threshold_belongs_to_the_upper_group(outcome):
    risk = np.repeat([0.0, 1.0], 75)
    curves = risk_group_curves(outcome, risk, [1.0], cohort="b", model="m")
    assert [g.n_patients for g in curves.groups] == [75, 75]


def test_steps_agree_with_lifelines(curves, outcome, hidden):
    member = hidden["clinic"] >= 0.4
    fitted = KaplanMeierFitter().fit(outcome.time_months[member], outcome.event[member])
    high = curves.groups[-1]
    expected = fitted.survival_function_at_times(high.months).to_numpy()
    np.testing.assert_allclose(high.survival, expected, atol=1e-12)


def test_the_log_rank_test_agrees_with_lifelines(curves, outcome, hidden):
    groups = np.searchsorted([-0.4, 0.4], hidden["clinic"], side="right")
    test = multivariate_logrank_test(outcome.time_months, groups, outcome.event)
    assert curves.log_rank_chi2 == pytest.approx(test.test_statistic, abs=1e-8)
    assert curves.log_rank_df == 2
    assert curves.log_rank_p == pytest.approx(test.p_value, rel=1e-6)


def test_patients_at_risk_are_those_still_followed(curves, outcome, hidden):
    low = outcome.time_months[hidden["clinic"] < -0.4]
    expected = tuple(int((low >= month).sum()) for month in curves.ticks_months)
    assert curves.groups[0].at_risk == expected
    assert curves.groups[0].at_risk[0] == curves.groups[0].n_patients


def test_censored_months_are_where_nobody_had_the_event(curves, outcome, hidden):
    member = (hidden["clinic"] >= 0.4) & ~outcome.event
    assert curves.groups[-1].censored_months == tuple(np.unique(outcome.time_months[member]))


def test_an_empty_group_is_left_out_and_said(outcome, hidden):
    curves = risk_group_curves(outcome, hidden["clinic"], [-9.0], cohort="b", model="m")
    assert [g.label for g in curves.groups] == ["high"]
    assert "no patient in the group low" in curves.note
    assert "no log-rank test" in curves.note
    assert curves.log_rank_p is None


def test_groups_within_folds_are_equally_large_whatever_the_folds_scale(hidden):
    fold = np.arange(150) % 5
    groups = cross_validated_groups(hidden["clinic"] + 100 * fold, fold, [1 / 3, 2 / 3])
    for code in range(5):
        assert np.bincount(groups[fold == code]).tolist() == [10, 10, 10]


def test_groups_within_folds_survive_a_fold_of_equal_risks():
    groups = cross_validated_groups(np.zeros(10), np.zeros(10, dtype=int), [1 / 3, 2 / 3])
    assert set(groups) == {1}


@pytest.mark.parametrize(
    ("until", "ticks"),
    [
        (84, (0, 12, 24, 36, 48, 60, 72, 84)),
        (60, (0, 12, 24, 36, 48, 60)),
        (7.5, (0, 1, 2, 3, 4, 5, 6, 7)),
        (0.5, (0, 0.5)),
        (500, (0, 120, 240, 360, 480)),
    ],
)
def test_ticks_are_round_months(until, ticks):
    assert tick_months(until) == ticks


def test_groups_of_other_numbers_are_numbered():
    assert group_labels(2) == ("low", "high")
    assert group_labels(4) == ("group 1", "group 2", "group 3", "group 4")


def test_the_area_under_the_drawn_curve_is_the_auroc(hidden):
    label = (hidden["clinic"] + hidden["tissue"] > 0).astype(np.int64)
    curves = class_curves(Classes(label, ("no", "yes")), hidden["clinic"], cohort="b", model="m")
    area = np.trapezoid(curves.true_positive_rate, curves.false_positive_rate)
    assert area == pytest.approx(roc_auc_score(label, hidden["clinic"]))
    assert curves.event == "yes"
    assert curves.prevalence == pytest.approx(label.mean())
    assert list(curves.recall) == sorted(curves.recall)


def test_given_groups_keep_their_note(outcome):
    groups = np.arange(150, dtype=np.int64) % 2
    curves = curves_of_groups(outcome, groups, n_groups=2, cohort="b", model="m", note="by parity")
    assert curves.note == "by parity"
    assert curves.thresholds == ()


def test_groups_with_competing_risks_show_the_incidence_of_the_first_cause(outcome, hidden):
    cause = np.where(outcome.event, 1 + np.arange(150) % 2, 0)
    competing = CompetingRisks(outcome.time_months, cause, ("relapse", "death"))
    curves = risk_group_curves(competing, hidden["clinic"], [0.0], cohort="b", model="m")
    assert curves.event == "relapse"
    low = hidden["clinic"] < 0
    for group, member in zip(curves.groups, (low, ~low), strict=True):
        part = competing.take(np.flatnonzero(member))
        assert group.survival == ()
        assert (group.n_events, group.n_competing) == tuple(np.bincount(part.cause)[1:])
        expected = cumulative_incidence(part)
        assert group.values[-1] == pytest.approx(expected.incidence[-1])
        assert list(group.values) == sorted(group.values)
        assert group.at_risk[0] == len(part)
    # 1 - Kaplan-Meier of relapse alone would promise more of it than can happen.
    alone = risk_group_curves(
        competing.cause_specific(), hidden["clinic"], [0.0], cohort="b", model="m"
    )
    assert 1 - alone.groups[1].survival[-1] > curves.groups[1].values[-1] + 0.1
    assert curves.log_rank_p == alone.log_rank_p


def test_the_confusion_matrix_counts_every_patient_where_they_were_called():
    outcome = Classes(np.array([0, 0, 1, 2, 2]), ("a", "b", "c"))
    p = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.4, 0.2, 0.4], [0, 0, 1]])
    matrix = confusion(outcome, p, cohort="b", model="m")
    assert matrix.counts == ((1, 1, 0), (0, 1, 0), (1, 0, 1))  # of equals the earlier class


def test_each_of_several_classes_has_its_curve_and_an_absent_one_none():
    outcome = Classes(np.array([0, 1, 0, 1, 1]), ("a", "b", "c"))
    p = np.tile([[0.5, 0.4, 0.1], [0.2, 0.7, 0.1]], (3, 1))[:5]
    curves = curves_by_class(outcome, p, cohort="b", model="m")
    assert [curve.event for curve in curves] == ["a", "b"]
    area = np.trapezoid(curves[0].true_positive_rate, curves[0].false_positive_rate)
    assert area == pytest.approx(roc_auc_score(outcome.label == 0, p[:, 0]))


def test_risks_that_tie_over_a_cut_stay_together_and_move_nobody_else():
    risk = np.array([0.0] * 7 + [2.0, 3.0, 4.0])
    groups = cross_validated_groups(risk, np.zeros(10, int), (0.33, 0.6))
    assert groups.tolist() == [1] * 7 + [2] * 3
    groups = cross_validated_groups(np.arange(10.0), np.zeros(10, int), (0.33, 0.67))
    assert groups.tolist() == [0] * 3 + [1] * 4 + [2] * 3
