from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.compare import log_rank
from storm_clinic.metrics.group_tests import gray, log_rank_trend, pairwise

_FILE = Path(__file__).resolve().parents[1] / "golden" / "curves_cases.py"
_SPEC = importlib.util.spec_from_file_location("curves_cases", _FILE)
_CASES = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _CASES
_SPEC.loader.exec_module(_CASES)
_R = _CASES.values()

exactly = {"rel": 0, "abs": 1e-9}


def with_values(*keys):
    return pytest.mark.parametrize("name", [n for n in _R if all(key in _R[n] for key in keys)])


@with_values("trend")
def test_the_trend_test_is_the_score_test_of_a_cox_model_with_exact_ties(name):
    data, r = _CASES.table(name), _R[name]["trend"]
    outcome = _CASES.survival(data)
    found = log_rank_trend(outcome, data["group"])
    assert (found.chi2, found.df) == (pytest.approx(r["exact"], **exactly), 1)
    within = log_rank_trend(outcome, data["group"], strata=data["stratum"])
    assert within.chi2 == pytest.approx(r["stratified"], **exactly)


def test_breslow_ties_would_give_another_trend():
    r = _R["survival_lung_monthly"]["trend"]
    assert abs(r["exact"] - r["breslow"]) > 0.5


@with_values("stratified")
def test_the_stratified_log_rank_test_is_that_of_survdiff(name):
    data, r = _CASES.table(name), _R[name]["stratified"]
    found = log_rank(_CASES.survival(data), data["group"], strata=data["stratum"])
    assert found.chi2 == pytest.approx(r["chi2"], **exactly)
    assert found.observed == pytest.approx(r["observed"], **exactly)
    assert found.expected == pytest.approx(r["expected"], **exactly)


@with_values("gray")
@pytest.mark.parametrize("key", ["all", "stratified"])
def test_grays_test_is_that_of_cuminc(name, key):
    data, r = _CASES.table(name), _R[name]["gray"][key]
    strata = None if key == "all" else data["stratum"]
    for cause, (chi2, p) in enumerate(zip(r["chi2"], r["p"], strict=True), start=1):
        if chi2 >= 0:  # cuminc gives -1 where its matrix has no inverse
            found = gray(_CASES.competing(data), data["group"], cause=cause, strata=strata)
            assert (found.chi2, found.p) == pytest.approx((chi2, p), **exactly)


@with_values("pairwise")
def test_pairs_of_groups_are_tested_and_adjusted_as_in_r(name):
    data, r = _CASES.table(name), _R[name]["pairwise"]
    codes = data["group"].to_numpy(np.int64)
    labels = tuple(str(code) for code in range(codes.max() + 1))
    found = pairwise(_CASES.survival(data), codes, labels, log_rank)
    pairs = [(int(pair.first), int(pair.second)) for pair in found]
    assert pairs == list(zip(r["first"], r["second"], strict=True))
    assert [pair.p for pair in found] == pytest.approx(r["p"], rel=1e-9)
    assert [pair.p_adjusted for pair in found] == pytest.approx(r["holm"], rel=1e-9)


def competing(seed, n=120):
    """Simulated in whole months with three kinds of end; no group differs."""
    rng = np.random.default_rng(seed)
    time, cause = np.ceil(rng.exponential(12, n)), rng.integers(0, 3, n)
    return CompetingRisks(time, cause, ("relapse", "death")), rng.integers(0, 3, n)


def test_two_groups_make_the_trend_test_the_log_rank_test():
    data = _CASES.table("survival_lung_monthly")
    outcome = _CASES.survival(data)
    trend, test = log_rank_trend(outcome, data["group"]), log_rank(outcome, data["group"])
    assert (trend.chi2, trend.p) == pytest.approx((test.chi2, test.p), **exactly)


def test_shifted_and_stretched_scores_give_the_same_trend():
    data = _CASES.table("survival_veteran")
    outcome, scores = _CASES.survival(data), data["group"].to_numpy(float)
    expected = log_rank_trend(outcome, scores).chi2
    assert log_rank_trend(outcome, 1e4 - 3 * scores).chi2 == pytest.approx(expected)


def test_without_competing_events_grays_test_is_close_to_the_log_rank_test():
    outcome, groups = competing(1, 400)
    one = CompetingRisks(
        outcome.time_months, (outcome.cause == 1).astype(np.int64), ("relapse", "death")
    )
    found, test = gray(one, groups), log_rank(one.cause_specific(), groups)
    assert found.chi2 == pytest.approx(test.chi2, rel=0.05)


def test_the_names_and_the_order_of_groups_do_not_matter_to_grays_test():
    outcome, groups = competing(2)
    expected = gray(outcome, groups).chi2
    assert gray(outcome, np.array(["z", "a", "m"])[groups]).chi2 == pytest.approx(expected)
    order = np.random.default_rng(3).permutation(len(groups))
    assert gray(outcome.take(order), groups[order]).chi2 == pytest.approx(expected)


def test_where_nothing_differs_grays_test_rejects_about_as_often_as_it_says():
    p = [gray(*competing(seed)).p for seed in range(400)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.085


def test_a_group_without_anybody_at_risk_at_an_event_costs_a_degree_of_freedom():
    outcome, groups = competing(4)
    gone = CompetingRisks(
        np.append(outcome.time_months, [0.1, 0.2]), np.append(outcome.cause, [0, 0]), outcome.causes
    )
    found = gray(gone, np.append(groups, [3, 3]))
    assert found.df == 2
    assert found.chi2 == pytest.approx(gray(outcome, groups).chi2)


def test_what_cannot_be_tested_is_refused_in_words():
    outcome, groups = competing(5)
    with pytest.raises(StatisticsError, match="one group"):
        gray(outcome, np.zeros(120))
    none = CompetingRisks(outcome.time_months, np.where(outcome.cause == 1, 0, outcome.cause),
                          outcome.causes)  # fmt: skip
    with pytest.raises(StatisticsError, match="no event of 'relapse'"):
        gray(none, groups)
    late = CompetingRisks(outcome.time_months, outcome.cause, outcome.causes,
                          outcome.time_months / 2)  # fmt: skip
    with pytest.raises(StatisticsError, match="left truncation"):
        gray(late, groups)
    with pytest.raises(StatisticsError, match="120 patients"):
        gray(outcome, groups[:5])
    alive = Survival.from_arrays([1, 2, 3], [0, 0, 0])
    with pytest.raises(StatisticsError, match="no event"):
        log_rank_trend(alive, [0, 1, 2])
    with pytest.raises(StatisticsError, match="differ in their group"):
        log_rank_trend(Survival.from_arrays([1, 2, 3], [0, 1, 1]), [0, 1, 1])
    with pytest.raises(StatisticsError, match="finite"):
        log_rank_trend(alive, [0, np.nan, 2])


def test_an_empty_group_is_in_no_pair_and_an_impossible_pair_says_why():
    outcome = Survival.from_arrays([1, 2, 3, 4, 5, 6], [1, 0, 1, 0, 0, 0])
    found = pairwise(outcome, np.array([0, 0, 1, 1, 3, 3]), ("a", "b", "c", "d"), log_rank)
    assert [(pair.first, pair.second) for pair in found] == [("a", "b"), ("a", "d"), ("b", "d")]
    alone = pairwise(
        Survival.from_arrays([1, 2, 3, 4], [0, 0, 0, 1]), np.array([0, 0, 1, 1]), ("a", "b"),
        log_rank,
    )  # fmt: skip
    assert (alone[0].p, alone[0].p_adjusted) == (None, None)
    assert "only one group" in alone[0].note
