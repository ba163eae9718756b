"""Who the patients are, told so that nobody can be found, and how two cohorts differ."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.inference.standardised_difference import categorical_difference
from storm_clinic.validation.case_mix import (
    JOINED,
    case_mix,
    outcome_profile,
    profile,
    risk_profile,
)


def _levels(**counts):
    labels = [level for level, n in counts.items() for _ in range(n)]
    return pd.DataFrame({"stage": pd.Categorical(labels, categories=list(counts))})


def _counts(item):
    return dict(zip(item.levels, item.counts, strict=True))


def test_a_number_is_its_mean_and_spread_among_the_known():
    [found] = profile("a", pd.DataFrame({"age": [50.0, 60, 70, 80, 90, np.nan]}))
    assert (found.kind, found.n_known, found.n_missing) == ("continuous", 5, 1)
    assert (found.mean, found.sd) == (70, pytest.approx(np.sqrt(250)))


def test_four_known_values_are_not_told():
    [found] = profile("a", pd.DataFrame({"age": [50.0, 60, 70, 80, np.nan]}))
    assert (found.mean, found.sd, found.n_known) == (None, None, 4)


def test_levels_are_counted_and_a_missing_one_is_not_a_level():
    table = _levels(I=20, II=10)
    table.loc[0, "stage"] = None
    [found] = profile("a", table)
    assert _counts(found) == {"I": 19, "II": 10}
    assert found.n_missing == 1


def test_rare_levels_are_joined():
    [found] = profile("a", _levels(I=20, II=10, III=3, IV=4))
    assert _counts(found) == {"I": 20, "II": 10, JOINED: 7}


def test_one_rare_level_takes_the_next_larger_with_it_so_that_its_count_is_not_told():
    [found] = profile("a", _levels(I=20, II=10, III=2))
    assert _counts(found) == {"I": 20, JOINED: 12}


@pytest.mark.parametrize("seed", range(20))
def test_no_count_below_five_is_ever_told_nor_follows_from_the_others(seed):
    rng = np.random.default_rng(seed)
    counts = {f"l{k}": int(n) for k, n in enumerate(rng.integers(0, 12, size=6))}
    counts["l0"] += 5
    [found] = profile("a", _levels(**counts))
    assert sum(found.counts) == found.n_known == sum(counts.values())
    assert min(found.counts) >= 5
    hidden = [n for level, n in counts.items() if level not in found.levels and n]
    assert len(hidden) != 1


def test_differences_are_evaluated_less_development():
    before = profile("a", pd.DataFrame({"age": np.arange(50.0, 60)}))
    after = profile("b", pd.DataFrame({"age": np.arange(55.0, 65)}))
    [found] = case_mix(before, after)
    assert found.standardised_difference == pytest.approx(5 / np.std(np.arange(10), ddof=1))
    assert (found.cohort, found.variable) == ("b", "age")


def test_levels_that_one_cohort_joined_are_joined_in_both():
    before = profile("a", _levels(I=20, II=10, III=3, IV=4))
    after = profile("b", _levels(I=15, II=30, III=12, IV=8))
    [found] = case_mix(before, after)
    assert found.standardised_difference == pytest.approx(
        categorical_difference([20, 10, 7], [15, 30, 20])
    )


def test_a_level_that_only_one_cohort_has_counts_as_none_in_the_other():
    [found] = case_mix(profile("a", _levels(I=20, II=10)), profile("b", _levels(I=15, II=9, III=6)))
    assert found.standardised_difference == pytest.approx(
        categorical_difference([20, 10, 0], [15, 9, 6])
    )


def test_cohorts_without_a_common_level_are_not_called_alike():
    [found] = case_mix(profile("a", _levels(I=20)), profile("b", _levels(II=20)))
    assert found.standardised_difference is None
    assert "apart" in found.note


def test_a_rare_level_beside_one_other_leaves_nothing_to_compare_and_says_so():
    [found] = case_mix(profile("a", _levels(I=20, II=2)), profile("b", _levels(I=10, II=10)))
    assert found.standardised_difference is None
    assert "frequent enough" in found.note


def test_a_variable_of_another_kind_or_of_one_cohort_is_not_compared():
    number, level = pd.DataFrame({"stage": np.arange(9.0)}), _levels(I=20, II=10)
    [found] = case_mix(profile("a", number), profile("b", level))
    assert found.standardised_difference is None
    assert "continuous in development" in found.note
    assert (
        case_mix(profile("a", number.rename(columns={"stage": "age"})), profile("b", level)) == ()
    )


def test_too_few_values_have_a_reason():
    few, many = pd.DataFrame({"age": [1.0, 2, 3]}), pd.DataFrame({"age": np.arange(9.0)})
    [found] = case_mix(profile("a", few), profile("b", many))
    assert found.standardised_difference is None
    assert "fewer than 5" in found.note


def test_events_by_a_horizon_are_told_from_those_who_left_before():
    time = np.repeat([6.0, 12, 12, 6, 30], 6)
    event = np.repeat([True, True, False, False, True], 6)
    follow_up, by = outcome_profile("a", Survival.from_arrays(time, event), (12,))
    assert follow_up.mean == pytest.approx(13.2)
    assert by.variable == "by 12 months"
    assert _counts(by) == {"event": 12, "event-free": 12, "left before": 6}


def test_another_event_is_neither_the_event_nor_freedom_from_it():
    time, cause = np.repeat([6.0, 8, 30], 7), np.repeat([1, 2, 1], 7).astype(np.int64)
    _, by = outcome_profile("a", CompetingRisks(time, cause, ("disease", "other")), (12,))
    assert _counts(by) == {"event": 7, "another event": 7, "event-free": 7}


def test_classes_are_counted():
    label = np.repeat([0, 1, 2], [9, 6, 8]).astype(np.int64)
    [found] = outcome_profile("a", Classes(label, ("low", "mid", "high")))
    assert _counts(found) == {"low": 9, "mid": 6, "high": 8}


def test_a_narrower_cohort_is_said_to_lower_c():
    x = np.linspace(-2, 2, 50)
    before, after = risk_profile("a", "fusion", x), risk_profile("b", "fusion", 1 + x / 2)
    [found] = case_mix([before], [after])
    assert found.variable == "linear predictor of fusion"
    assert "0.50 times" in found.note
    assert found.standardised_difference > 0
