"""Learning curves: more training patients, better and steadier models."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.heads.linear import fit_cox
from storm_clinic.inference.learning import balanced_folds, balanced_order, held_out, learning_curve
from storm_clinic.metrics.discrimination import concordance


def cox(design, outcome):
    coefficients = fit_cox(design, outcome, ridge=1e-3)
    return lambda rows: rows @ coefficients


def within_folds(risk, outcome, fold) -> float:
    return concordance(outcome, risk, within=fold).value


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(2)
    design = rng.normal(size=(300, 8))
    time = rng.exponential(20 * np.exp(-design[:, 0] - 0.5 * design[:, 1]))
    return design, Survival.from_arrays(time, rng.random(300) < 0.6)


def test_more_patients_rank_better_up_to_what_can_be_known(cohort):
    design, outcome = cohort
    steps = learning_curve(
        cox, within_folds, design, outcome, fractions=(0.1, 0.3, 1.0), repeats=4, seed=1
    )
    means = [step.values.mean() for step in steps]
    assert means[0] < means[1] < means[2]
    best = concordance(outcome, design[:, 0] + 0.5 * design[:, 1]).value
    assert means[2] < best + 0.01
    assert means[2] > best - 0.03
    assert [step.n_patients for step in steps] == [24, 72, 240]
    assert [len(step.values) for step in steps] == [4, 4, 4]


def test_nobody_is_judged_by_a_model_that_saw_him(cohort):
    _, outcome = cohort
    rng = np.random.default_rng(1)
    fold, order = balanced_folds(outcome, 5, rng), balanced_order(outcome, rng)
    numbered = np.arange(300.0)[:, None]

    def remember(rows, own):
        seen = set(rows[:, 0].tolist())
        return lambda tested: np.array([float(row in seen) for row in tested[:, 0]])

    for fraction in (0.3, 1.0):
        risk, n, _ = held_out(remember, numbered, outcome, fold, order, fraction)
        assert risk.sum() == 0
        assert n == pytest.approx(np.full(5, round(240 * fraction)))


@pytest.mark.parametrize("every", [2, 4, 5, 10])
def test_folds_and_stretches_have_their_share_of_events(every):
    outcome = Survival.from_arrays(np.arange(1.0, 201), np.arange(200) % every == 0)
    rng = np.random.default_rng(1)
    fold = balanced_folds(outcome, 5, rng)
    counts = np.bincount(fold, weights=outcome.event)
    assert np.bincount(fold).tolist() == [40] * 5
    assert np.abs(counts - 40 / every).max() <= 1
    half = balanced_order(outcome, rng)[:100]
    assert abs(outcome.event[half].sum() - 100 / every) <= 1


def test_causes_and_classes_are_balanced_too():
    rng = np.random.default_rng(1)
    for outcome, codes in (
        (CompetingRisks(np.ones(90), np.arange(90) % 3, ("a", "b")), np.arange(90) % 3),
        (Classes(np.arange(90) % 3, ("a", "b", "c")), np.arange(90) % 3),
    ):
        fold = balanced_folds(outcome, 3, rng)
        table = np.array([np.bincount(fold[codes == c], minlength=3) for c in range(3)])
        assert np.abs(table - 10).max() <= 1


def test_repeats_without_a_model_are_counted_with_their_reason():
    outcome = Survival.from_arrays(np.arange(1.0, 21), np.arange(20) == 3)
    design = np.arange(20.0)[:, None]
    (step,) = learning_curve(cox, within_folds, design, outcome, fractions=(1.0,), repeats=3)
    assert step.n_lost == 3
    assert len(step.values) == 0
    assert "the event" in step.reason
    assert (step.n_patients, step.n_events) == (16, 1)


def test_equal_seeds_give_equal_curves(cohort):
    design, outcome = cohort
    one, same, other = (
        learning_curve(cox, within_folds, design, outcome, fractions=(0.5,), repeats=2, seed=s)[0]
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.values, same.values)
    assert not np.array_equal(one.values, other.values)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"fractions": ()}, "fractions"),
        ({"fractions": (0.0, 1.0)}, "fractions"),
        ({"fractions": (1.5,)}, "fractions"),
        ({"folds": 1}, "1 folds"),
        ({"repeats": 0}, "0 repeats"),
    ],
)
def test_settings_out_of_range(cohort, settings, what):
    with pytest.raises(StatisticsError, match=what):
        learning_curve(cox, within_folds, *cohort, **settings)
