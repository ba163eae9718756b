from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import (
    Classes,
    CompetingRisks,
    Survival,
    concatenate,
    required_strata,
    stratum,
)
from storm_clinic.errors import OutcomeError


def competing(causes=("disease", "other")) -> CompetingRisks:
    return CompetingRisks(np.array([1.0, 2.0, 3.0]), np.array([1, 0, 2]), causes)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_time_must_be_finite_and_positive(bad):
    with pytest.raises(OutcomeError, match="1 are not, the first at position 1"):
        Survival.from_arrays([3.0, bad], [1, 0])


def test_events_must_be_yes_or_no():
    with pytest.raises(OutcomeError, match=r"found 2"):
        Survival.from_arrays([1.0, 2.0], [1, 2])


def test_integer_events_are_refused_where_their_complement_would_be_nonsense():
    # ~1 is -2, which numpy would take for an index.
    with pytest.raises(OutcomeError, match="must be bool"):
        Survival(np.array([1.0, 2.0]), np.array([1, 0]))


def test_a_patient_must_enter_before_follow_up_ends():
    with pytest.raises(OutcomeError, match="the first at position 1"):
        Survival.from_arrays([3.0, 2.0], [1, 0], [0.0, 2.0])


def test_a_column_of_times_is_not_a_vector_of_times():
    with pytest.raises(OutcomeError, match=r"shape \(2, 1\)"):
        Survival.from_arrays([[1.0], [2.0]], [1, 0])


def test_scikit_survival_gets_months_and_no_entry_times():
    outcome = Survival.from_arrays([3.0, 2.0], [True, False])
    array = outcome.to_structured()
    assert array.dtype.names == ("event", "time")
    assert array.tolist() == [(True, 3.0), (False, 2.0)]
    late = Survival.from_arrays([3.0], [1], [1.0])
    with pytest.raises(OutcomeError, match="left truncation"):
        late.to_structured()


def test_taking_patients_keeps_their_values_together():
    outcome = Survival.from_arrays([3.0, 2.0, 5.0], [1, 0, 1], [0.0, 1.0, 2.0])
    taken = outcome.take([2, 0])
    assert taken.time_months.tolist() == [5.0, 3.0]
    assert taken.event.tolist() == [True, True]
    assert taken.entry_months is not None
    assert taken.entry_months.tolist() == [2.0, 0.0]
    masked = outcome.take(outcome.event)
    assert masked.time_months.tolist() == [3.0, 5.0]


def test_the_first_cause_counts_as_the_event():
    outcome = competing()
    assert outcome.n_events == 1
    assert outcome.cause_specific(2).event.tolist() == [False, False, True]
    with pytest.raises(OutcomeError, match="no cause 3"):
        outcome.cause_specific(3)


@pytest.mark.parametrize("causes", [("disease",), ("disease", "disease")])
def test_causes_must_be_two_different_ones_at_least(causes):
    with pytest.raises(OutcomeError):
        competing(causes)


def test_codes_must_be_integers_in_range():
    with pytest.raises(OutcomeError, match="between 0 and 1"):
        Classes(np.array([0, 2]), ("no", "yes"))
    with pytest.raises(OutcomeError, match="integers"):
        Classes(np.array([0.0, 1.0]), ("no", "yes"))


def test_strata_are_events_causes_or_classes():
    survival = Survival.from_arrays([1.0, 2.0], [0, 1])
    classes = Classes(np.array([2, 0, 1]), ("a", "b", "c"))
    assert stratum(survival).tolist() == [0, 1]
    assert stratum(competing()).tolist() == [1, 0, 2]
    assert stratum(classes).tolist() == [2, 0, 1]
    assert required_strata(survival) == required_strata(competing()) == (1,)
    assert required_strata(classes) == (0, 1, 2)


def test_cohorts_are_joined_one_after_another():
    early = Survival.from_arrays([1.0, 2.0], [0, 1])
    late = Survival.from_arrays([4.0], [1], [3.0])
    joined = concatenate([early, late])
    assert isinstance(joined, Survival)
    assert joined.time_months.tolist() == [1.0, 2.0, 4.0]
    assert joined.event.tolist() == [False, True, True]
    # Who has no entry time was there from the beginning.
    assert joined.entry_months is not None
    assert joined.entry_months.tolist() == [0.0, 0.0, 3.0]
    both = concatenate([competing(), competing()])
    assert isinstance(both, CompetingRisks)
    assert both.cause.tolist() == [1, 0, 2, 1, 0, 2]


def test_outcomes_that_mean_different_things_are_not_joined():
    survival = Survival.from_arrays([1.0], [1])
    for others in ([competing()], [], [competing(("disease", "accident")), competing()]):
        with pytest.raises(OutcomeError, match="one kind"):
            concatenate([*others, *([survival] if len(others) == 1 else [])])
