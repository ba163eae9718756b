from __future__ import annotations

import numpy as np
import pytest
from lifelines.datasets import load_lung

from storm_clinic.cohort.outcome import MONTHS_PER, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.compare import fixed_cuts, log_rank, risk_groups

exactly = {"rel": 0, "abs": 1e-9}


def test_the_anchor_of_the_lung_cohort_by_sex_holds():
    lung = load_lung()
    outcome = Survival.from_arrays(lung["time"] * MONTHS_PER["days"], lung["status"])
    assert log_rank(outcome, lung["sex"]).chi2 == pytest.approx(10.3267, abs=5e-5)


@pytest.mark.golden("log_rank")
def test_the_test_is_that_of_survdiff(golden):
    r = golden.r("log_rank")
    test = log_rank(golden.outcome, golden.case.column("group"))
    assert test.chi2 == pytest.approx(r["chi2"], **exactly)
    if "df" in r:  # with entry times R gives the score test, which has no table
        assert (test.df, test.p) == pytest.approx((r["df"], r["p"]), **exactly)
        assert test.observed == pytest.approx(r["observed"], **exactly)
        assert test.expected == pytest.approx(r["expected"], **exactly)


def test_two_groups_with_the_same_patients_do_not_differ(random_cohort):
    outcome, _ = random_cohort(3, 40)
    both = outcome.take(np.tile(np.arange(40), 2))
    test = log_rank(both, np.repeat(["a", "b"], 40))
    assert (test.chi2, test.p) == pytest.approx((0, 1), **exactly)


def test_a_group_that_has_left_before_the_first_event_does_not_count(random_cohort):
    outcome, _ = random_cohort(4, 40)
    gone = Survival(
        np.append(outcome.time_months, [0.1, 0.2]), np.append(outcome.event, [False, False])
    )
    groups = np.arange(40) % 2
    with_gone = log_rank(gone, np.append(groups, [2, 2]))
    without = log_rank(outcome, groups)
    assert (with_gone.chi2, with_gone.df) == pytest.approx((without.chi2, without.df))


def test_one_group_or_no_event_is_refused():
    outcome = Survival.from_arrays([1, 2, 3, 4], [1, 0, 1, 0])
    with pytest.raises(StatisticsError, match="one group"):
        log_rank(outcome, [1, 1, 1, 1])
    with pytest.raises(StatisticsError, match="no event"):
        log_rank(Survival.from_arrays([1, 2], [0, 0]), [0, 1])
    with pytest.raises(StatisticsError, match="only one group"):
        log_rank(Survival.from_arrays([1, 2, 3], [0, 1, 1]), [0, 1, 1])


def test_a_risk_at_a_threshold_is_in_the_upper_group():
    assert risk_groups([-1, 0.2, 0.3, 0.7, 0.9], [0.2, 0.7]).tolist() == [0, 1, 1, 2, 2]


def test_illegal_thresholds_and_risks_are_refused():
    with pytest.raises(StatisticsError, match="ascend"):
        risk_groups([0.1], [0.7, 0.2])
    with pytest.raises(StatisticsError, match="missing"):
        risk_groups([0.1, np.nan], [0.2])


@pytest.mark.parametrize("rule", ["optimal", "maxstat", lambda risk: [0.5]])
def test_a_cut_point_searched_for_in_the_outcomes_is_refused_with_the_reason(rule):
    with pytest.raises(StatisticsError, match=r"about 40% of cohorts .*Altman et al"):
        risk_groups([0.1, 0.9], rule)
    with pytest.raises(StatisticsError, match="fixed on development data"):
        fixed_cuts(rule)


def test_an_optimal_cut_point_would_reject_far_too_often():
    # Why it is refused: the best of all cuts between the 10th and 90th percentile, under no effect.
    rng, rejected = np.random.default_rng(1), 0
    for _ in range(100):
        outcome = Survival.from_arrays(rng.exponential(10, 60), rng.random(60) < 0.7)
        risk = rng.normal(size=60)
        cuts = np.quantile(risk, np.linspace(0.1, 0.9, 33))
        best = min(log_rank(outcome, risk_groups(risk, [cut])).p for cut in cuts)
        rejected += best < 0.05
    assert rejected > 25
