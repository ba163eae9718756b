"""Permuted outcomes: what a procedure finds when there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.permutation import permutation_null
from storm_clinic.metrics.discrimination import auroc, concordance


@pytest.fixture
def cohort():
    rng = np.random.default_rng(2)
    risk = rng.normal(size=80)
    time = rng.exponential(20 * np.exp(-risk))
    return risk, Survival.from_arrays(time, rng.random(80) < 0.7)


def test_a_real_signal_lies_outside_its_null_which_is_centred_on_chance(cohort):
    risk, outcome = cohort
    found = permutation_null(lambda o: concordance(o, risk).value, outcome, n=200, seed=1)
    assert found.mean == pytest.approx(0.5, abs=0.01)
    assert found.mean < found.upper < found.observed
    assert found.p == pytest.approx(1 / 201)
    assert found.upper == pytest.approx(np.quantile(found.draws, 0.95))


def test_a_procedure_that_selects_on_all_patients_is_caught_by_its_null():
    rng = np.random.default_rng(3)
    design = rng.normal(size=(60, 200))
    outcome = Classes(rng.integers(0, 2, 60), ("no", "yes"))

    def leaky(dealt: Classes) -> float:
        scores = [abs(np.corrcoef(column, dealt.label)[0, 1]) for column in design.T]
        best = design[:, int(np.argmax(scores))]
        value = auroc(dealt, best).value
        return max(value, 1 - value)

    found = permutation_null(leaky, outcome, n=40, seed=1)
    assert found.mean > 0.65
    assert found.p > 0.05


def test_p_is_uniform_where_there_is_nothing():
    rng = np.random.default_rng(4)
    p = []
    for seed in range(150):
        label = rng.integers(0, 2, 30)
        outcome, risk = Classes(label, ("no", "yes")), rng.normal(size=30)
        p.append(permutation_null(lambda o, r=risk: auroc(o, r).value, outcome, n=19, seed=seed).p)
    # A share of 0.05 with a standard error of 0.018.
    assert np.mean(np.array(p) <= 0.05) < 0.11
    assert np.mean(p) == pytest.approx(0.525, abs=0.08)


def test_inside_strata_every_stratum_keeps_its_outcomes(cohort):
    _, outcome = cohort
    strata = np.arange(80) % 4
    seen = []

    def record(dealt: Survival) -> float:
        seen.append(dealt)
        return 0.0

    permutation_null(record, outcome, n=19, seed=1, strata=strata)
    for code in range(4):
        inside = strata == code
        for dealt in seen:
            assert sorted(dealt.time_months[inside]) == sorted(outcome.time_months[inside])
    assert not np.array_equal(seen[1].time_months, outcome.time_months)
    # A time keeps its event.
    pairs = set(zip(outcome.time_months.tolist(), outcome.event.tolist(), strict=True))
    assert set(zip(seen[1].time_months.tolist(), seen[1].event.tolist(), strict=True)) == pairs


def test_ties_with_the_observed_count_as_as_high(cohort):
    _, outcome = cohort
    found = permutation_null(lambda o: 0.5, outcome, n=19, seed=1)
    assert found.p == 1


def test_competing_risks_move_together():
    outcome = CompetingRisks(np.arange(1.0, 21), np.arange(20) % 3, ("a", "b"))
    found = permutation_null(lambda o: float((o.cause * o.time_months).sum()), outcome, n=19)
    assert found.draws == pytest.approx(np.full(19, found.observed))


def test_failures_are_counted_and_too_many_refused(cohort):
    _, outcome = cohort
    calls = iter(range(1000))

    def once(dealt: Survival) -> float:
        if next(calls) == 5:
            raise StatisticsError("unlucky")
        return 0.0

    assert permutation_null(once, outcome, n=20).n_lost == 1

    def often(dealt: Survival) -> float:
        if next(calls) % 2:
            raise StatisticsError("unlucky")
        return 0.0

    next(calls)
    while next(calls) % 2 == 0:
        pass
    with pytest.raises(StatisticsError, match="permutations give no number: unlucky"):
        permutation_null(often, outcome, n=20)
    with pytest.raises(StatisticsError, match="10 permutations"):
        permutation_null(once, outcome, n=10)
    with pytest.raises(StatisticsError, match="strata"):
        permutation_null(once, outcome, strata=[1, 2])
