"""Discrete hazards and DeepHit against brute force, finite differences and what must hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import StatisticsError, TrainingError
from storm_clinic.heads.discrete_time import DeepHit, DiscreteHazard
from storm_clinic.heads.intervals import TimeGrid


def random_outcome(seed: int, *, n: int = 40, entry: bool = False) -> CompetingRisks:
    """Whole months, so that there are ties; two causes."""
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 13, n).astype(np.float64)
    cause = rng.integers(0, 3, n)
    cause[:2] = 1, 2
    start = np.floor(rng.random(n) * time) if entry else None
    return CompetingRisks(time, cause, ("relapse", "death"), start)


def one_cause(outcome: CompetingRisks) -> Survival:
    return outcome.cause_specific(1)


def softmax(values: np.ndarray) -> np.ndarray:
    e = np.exp(values - values.max())
    return e / e.sum()


def brute_hazard_likelihood(outcome, cuts, outputs, n_causes) -> float:
    """Patient by patient and interval by interval, as a statistician would write it."""
    total = 0.0
    cause = outcome.cause if isinstance(outcome, CompetingRisks) else outcome.event.astype(int)
    for i in range(len(outcome)):
        hazards = outputs[i].reshape(n_causes, len(cuts))
        start = 0.0 if outcome.entry_months is None else outcome.entry_months[i]
        for j, end in enumerate(cuts):
            if end <= start:  # left the interval before entering
                continue
            p = softmax(np.concatenate([[0.0], hazards[:, j]]))
            time = outcome.time_months[i]
            began = 0.0 if j == 0 else cuts[j - 1]
            if cause[i] and began < time <= end:
                total += np.log(p[cause[i]])
            elif time >= end and not (cause[i] and time == end):
                total += np.log(p[0])
            if time <= end:
                break
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("entry", [False, True])
@pytest.mark.parametrize("competing", [False, True])
def test_hazard_loss_is_the_textbooks_likelihood(seed, entry, competing):
    outcome = random_outcome(seed, entry=entry)
    outcome = outcome if competing else one_cause(outcome)
    objective = DiscreteHazard(outcome, 4)
    outputs = np.random.default_rng(seed).normal(size=(40, objective.n_outputs))
    expected = brute_hazard_likelihood(outcome, objective.grid.cuts, outputs, 1 + competing)
    assert objective.loss(outputs)[0] == pytest.approx(-expected / 40, rel=1e-12)
    assert objective.held_out(outcome, outputs) == pytest.approx(expected, rel=1e-12)


def brute_deephit(outcome, cuts, outputs, n_causes, ranking, sigma) -> float:
    """Likelihood and ranking of Lee et al., one patient and one pair at a time."""
    n, cause = len(outcome), outcome.cause if n_causes > 1 else outcome.event.astype(int)
    p = np.stack([softmax(np.concatenate([[0.0], row])) for row in outputs])
    pmf = p[:, 1:].reshape(n, n_causes, len(cuts))
    cif = pmf.cumsum(axis=2)
    time = outcome.time_months
    interval = [int(np.searchsorted(cuts, t, side="left")) for t in time]
    known = [bool(cause[i]) and interval[i] < len(cuts) for i in range(n)]
    likelihood = 0.0
    for i in range(n):
        if known[i]:
            likelihood += np.log(pmf[i, cause[i] - 1, interval[i]])
        else:
            survived = int((cuts <= time[i]).sum())
            lost = cif[i, :, survived - 1].sum() if survived else 0.0
            likelihood += np.log(1 - lost)
    pairs = []
    for i in np.flatnonzero(known):
        for j in range(n):
            if time[j] > time[i] or (time[j] == time[i] and cause[j] == 0):
                k, at = cause[i] - 1, interval[i]
                pairs.append(np.exp(-(cif[i, k, at] - cif[j, k, at]) / sigma))
    return -likelihood / n + ranking * np.mean(pairs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("competing", [False, True])
def test_deephit_loss_is_that_of_the_paper_pair_by_pair(seed, competing):
    outcome = random_outcome(seed)
    outcome = outcome if competing else one_cause(outcome)
    objective = DeepHit(outcome, 4, ranking=0.7, sigma=0.2)
    outputs = np.random.default_rng(seed).normal(size=(40, objective.n_outputs))
    expected = brute_deephit(outcome, objective.grid.cuts, outputs, 1 + competing, 0.7, 0.2)
    assert objective.loss(outputs)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("competing", [False, True])
@pytest.mark.parametrize("kind", ["hazard", "deephit"])
def test_gradients_are_those_of_finite_differences(kind, competing):
    outcome = random_outcome(5, n=25)
    outcome = outcome if competing else one_cause(outcome)
    objective = (
        DiscreteHazard(outcome, 3)
        if kind == "hazard"
        else DeepHit(outcome, 3, ranking=0.5, sigma=0.1)
    )
    shape = (25, objective.n_outputs)
    at = np.random.default_rng(0).normal(size=shape).ravel()
    wrong = check_grad(
        lambda x: objective.loss(x.reshape(shape))[0],
        lambda x: objective.loss(x.reshape(shape))[1].ravel(),
        at,
    )
    assert wrong < 1e-5


@pytest.mark.parametrize("kind", ["hazard", "deephit"])
@pytest.mark.parametrize("size", [-1e3, 1e3])
def test_extreme_outputs_give_finite_losses_and_gradients(kind, size):
    outcome = random_outcome(1)
    objective = (
        DiscreteHazard(outcome, 4)
        if kind == "hazard"
        else DeepHit(outcome, 4, ranking=0.2, sigma=0.1)
    )
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (40, objective.n_outputs))
    loss, gradient = objective.loss(size * signs)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    output = objective.readout(signs, (6.0,)).read(size * signs)
    assert np.isfinite(output.risk).all()


def test_hazards_of_everybody_together_are_the_life_table():
    # Nobody is censored: the incidence at a cut is the share who failed by then.
    outcome = random_outcome(2, n=4000)
    outcome = CompetingRisks(outcome.time_months, np.maximum(outcome.cause, 1), outcome.causes)
    objective = DiscreteHazard(outcome, 6)
    readout = objective.readout(np.empty((0, 12)), ())
    found = readout.incidence(objective.start()[None], objective.grid.cuts)
    for k in (1, 2):
        observed = [
            ((outcome.cause == k) & (outcome.time_months <= cut)).mean()
            for cut in objective.grid.cuts
        ]
        np.testing.assert_allclose(found[k - 1, 0], observed, atol=1e-3)


def test_inside_an_interval_the_hazard_is_constant():
    outcome = Survival.from_arrays([10.0, 10.0, 20.0, 20.0], [1, 1, 1, 1])
    readout = DiscreteHazard(outcome, 2).readout(np.empty((0, 2)), ())
    logits = np.log([[0.4 / 0.6, 0.5 / 0.5]])
    found = readout.incidence(logits, [5.0, 10.0, 15.0, 20.0])[0, 0]
    survived = [0.6**0.5, 0.6, 0.6 * 0.5**0.5, 0.6 * 0.5]
    np.testing.assert_allclose(1 - found, survived, rtol=1e-12)


def test_deephits_density_is_constant_inside_an_interval():
    outcome = Survival.from_arrays([10.0, 10.0, 20.0, 20.0], [1, 1, 1, 0])
    readout = DeepHit(outcome, 2, ranking=0.0, sigma=0.1).readout(np.empty((0, 2)), ())
    logits = np.log([[0.3 / 0.5, 0.2 / 0.5]])
    found = readout.incidence(logits, [5.0, 10.0, 15.0, 20.0])[0, 0]
    np.testing.assert_allclose(found, [0.15, 0.3, 0.4, 0.5], rtol=1e-12)


def test_one_cause_of_two_that_never_happens_leaves_the_other_as_it_is():
    single = one_cause(random_outcome(3))
    alone = DiscreteHazard(single, 4)
    both = DiscreteHazard(
        CompetingRisks(single.time_months, single.event.astype(np.int64), ("relapse", "death")), 4
    )
    outputs = np.random.default_rng(0).normal(size=(40, alone.n_outputs))
    joined = np.hstack([outputs, np.full_like(outputs, -60.0)])
    assert both.loss(joined)[0] == pytest.approx(alone.loss(outputs)[0], rel=1e-12)
    np.testing.assert_allclose(
        both.readout(joined, ()).incidence(joined, [3.5])[0],
        alone.readout(outputs, ()).incidence(outputs, [3.5])[0],
        rtol=1e-12,
    )


def test_intervals_end_at_event_times_and_hold_about_as_many_events():
    rng = np.random.default_rng(0)
    outcome = Survival.from_arrays(rng.permutation(np.arange(1.0, 101.0)), np.ones(100))
    grid = TimeGrid.fit(outcome, 4)
    assert grid.cuts.tolist() == [25.0, 50.0, 75.0, 100.0]
    assert np.bincount(grid.place(outcome).interval).tolist() == [25, 25, 25, 25]
    tied = Survival.from_arrays(np.full(9, 7.0), np.ones(9))
    assert TimeGrid.fit(tied, 4).cuts.tolist() == [7.0]


def test_where_follow_up_ends_decides_what_was_survived():
    grid = TimeGrid(np.array([10.0, 20.0]), 30.0)
    placed = grid.place(Survival.from_arrays([5, 10, 10, 15, 20, 25, 25], [0, 0, 1, 1, 0, 0, 1]))
    assert placed.interval.tolist() == [0, 1, 0, 1, 2, 2, 2]
    assert placed.cause.tolist() == [0, 0, 1, 1, 0, 0, 0]  # the last event came after the last cut


def test_deephit_refuses_late_entry_and_no_event():
    with pytest.raises(TrainingError, match="entry times"):
        DeepHit(random_outcome(0, entry=True), 4, ranking=0.2, sigma=0.1)
    nothing = Survival.from_arrays([1.0, 2.0], [0, 0])
    with pytest.raises(TrainingError, match="none of 2 patients had the event"):
        DiscreteHazard(nothing, 4)


def test_a_horizon_beyond_follow_up_is_refused():
    objective = DiscreteHazard(random_outcome(0), 4)
    with pytest.raises(StatisticsError, match=r"ends at 12\.0 months"):
        objective.readout(np.empty((0, 8)), (13.0,))
