"""Forests and boosting against scikit-survival and scikit-learn on the same design matrix."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sksurv.ensemble import GradientBoostingSurvivalAnalysis, RandomSurvivalForest

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import InputError, StatisticsError, TrainingError
from storm_clinic.heads.contract import Recipe, Sample
from storm_clinic.heads.design import Design
from storm_clinic.heads.survival_steps import StepReadout, StepsObjective
from storm_clinic.heads.zoo import find

INPUTS = ("image", "clinical")


def recipe_of(head: str, horizons: tuple[float, ...] = (), **settings) -> Recipe:
    options = {name: option.default for name, option in find(head).options.items()}
    return Recipe(INPUTS, options | settings, horizons, 7)


def stages(head: str, sample: Sample, horizons: tuple[float, ...] = (), **settings):
    return find(head).path(sample, recipe_of(head, horizons, **settings))


def matrix_of(sample: Sample) -> np.ndarray:
    return Design.fit(sample.data, INPUTS, n_components=16)[1]


def test_the_survival_forest_is_scikit_survivals(simulated):
    sample = simulated(0, n_patients=80)
    model = next(stages("survival-forest", sample, trees=20)).finish()
    matrix = matrix_of(sample)
    peer = RandomSurvivalForest(
        20, min_samples_leaf=5, min_samples_split=10, max_features="sqrt", random_state=7
    ).fit(matrix, sample.outcome.to_structured())
    months = [0.5, 7.0, 12.0, 30.3]
    expected = [
        [1.0 if time < step.x[0] else step(time) for time in months]
        for step in peer.predict_survival_function(matrix)
    ]
    np.testing.assert_allclose(1 - model.incidence(sample.data, months)[0], expected, atol=1e-12)
    assert np.corrcoef(model.predict(sample.data).risk, peer.predict(matrix))[0, 1] > 0.9


def test_the_survival_forests_risk_is_the_log_odds_of_lost_time(simulated):
    sample = simulated(1, n_patients=60)
    model = next(stages("survival-forest", sample, trees=10)).finish()
    last_event = sample.outcome.time_months[sample.outcome.event].max()
    grid = np.linspace(0, last_event, 20_001)[1:]
    share = model.incidence(sample.data, grid - last_event / 40_000)[0].mean(axis=1)
    np.testing.assert_allclose(model.predict(sample.data).risk, logit(share), atol=1e-3)


def test_everybody_with_one_time_still_grows_a_forest(simulated):
    sample = simulated(0)
    alike = Sample(sample.data, Survival.from_arrays(np.full(40, 24.0), np.arange(40) < 30))
    model = next(stages("survival-forest", alike, (24.0,))).finish()
    output = model.predict(sample.data)
    assert output.probabilities["risk_at_24m"].mean() == pytest.approx(0.75, abs=0.05)


def test_the_forest_of_classes_is_scikit_learns_and_one_vote_for_chance(simulated):
    sample = simulated(0, n_patients=80, outcome="classes", n_levels=3)
    model = next(stages("forest", sample, trees=20)).finish()
    matrix = matrix_of(sample)
    peer = RandomForestClassifier(
        20, min_samples_leaf=5, min_samples_split=10, max_features="sqrt", random_state=7
    ).fit(matrix, sample.outcome.label)
    found = np.column_stack(list(model.predict(sample.data).probabilities.values()))
    np.testing.assert_allclose(found, (20 * peer.predict_proba(matrix) + 1 / 3) / 21, atol=1e-12)


@pytest.mark.parametrize("subsample", [1.0, 0.6])
def test_boosted_hazards_are_scikit_survivals_after_any_number_of_trees(simulated, subsample):
    sample = simulated(0, n_patients=80)
    matrix, target = matrix_of(sample), sample.outcome.to_structured()
    given = {"max_depth": 2, "min_samples_leaf": 5, "random_state": 7, "subsample": subsample}
    for n_trees, stage in enumerate(
        islice(stages("survival-boosting", sample, subsample=subsample), 12), start=1
    ):
        if n_trees not in (1, 10, 12):
            continue
        peer = GradientBoostingSurvivalAnalysis(n_estimators=n_trees, **given).fit(matrix, target)
        risk = stage.finish().predict(sample.data).risk
        np.testing.assert_allclose(risk, peer.predict(matrix), atol=1e-6)


@pytest.mark.parametrize("n_levels", [2, 3])
def test_boosted_classes_are_scikit_learns(simulated, n_levels):
    sample = simulated(0, n_patients=80, outcome="classes", n_levels=n_levels)
    stage = list(islice(stages("boosted-trees", sample), 12))[-1]
    peer = GradientBoostingClassifier(
        n_estimators=12, max_depth=2, min_samples_leaf=5, random_state=7
    ).fit(matrix_of(sample), sample.outcome.label)
    found = np.column_stack(list(stage.finish().predict(sample.data).probabilities.values()))
    np.testing.assert_allclose(found, peer.predict_proba(matrix_of(sample)), atol=1e-6)


def test_a_stage_stays_what_it_was_while_trees_are_added(simulated):
    sample = simulated(0, n_patients=60)
    walked = list(islice(stages("survival-boosting", sample), 25))
    first = walked[2].finish()
    assert len(first.predictor.trees) == 3
    alone = list(islice(stages("survival-boosting", sample), 3))[-1].finish()
    np.testing.assert_array_equal(first.predict(sample.data).risk, alone.predict(sample.data).risk)
    assert [stage.loss for stage in walked] == sorted([stage.loss for stage in walked])[::-1]


def test_boosting_ends_at_the_number_of_trees(simulated):
    assert len(list(stages("survival-boosting", simulated(0), trees=13))) == 13


@pytest.mark.parametrize("head", ["survival-forest", "survival-boosting"])
def test_entry_times_and_horizons_beyond_the_follow_up_are_refused(simulated, head):
    with pytest.raises(InputError, match="cannot use entry times"):
        next(stages(head, simulated(0, entry=True)))
    with pytest.raises(StatisticsError, match="outside the training follow-up"):
        next(stages(head, simulated(0), (600.0,))).finish()


def brute_force(
    outcome: Survival, curves: np.ndarray, times: np.ndarray, cuts: np.ndarray
) -> float:
    """Patient by patient, interval by interval."""
    edges = [0.0, *cuts, np.inf]
    total = 0.0
    for row, time, event in zip(curves, outcome.time_months, outcome.event, strict=True):

        def lived(at: float, row: np.ndarray = row) -> float:
            if at == np.inf:
                return 0.0
            before = row[times <= at]
            return before[-1] if len(before) else 1.0

        masses = np.array([lived(a) - lived(b) for a, b in pairwise(edges)])
        masses = 0.99 * masses + 0.01 / len(masses)
        if event:
            own = next(i for i in range(len(masses)) if edges[i] < time <= edges[i + 1])
            total += np.log(masses[own])
        else:
            first = next(i for i in range(len(masses)) if edges[i] <= time < edges[i + 1])
            total += np.log(masses[first:].sum())
    return total


def test_step_curves_are_judged_by_the_intervals_that_events_fall_into(simulated):
    train, watch = simulated(0, n_patients=50).outcome, simulated(1, n_patients=30).outcome
    times = np.unique(train.time_months)
    rng = np.random.default_rng(0)
    curves = np.sort(rng.uniform(size=(30, len(times))), axis=1)[:, ::-1]
    cuts = np.unique(
        np.quantile(train.time_months[train.event], np.arange(1, 11) / 10, method="inverted_cdf")
    )
    found = StepsObjective(train).held_out(watch, curves)
    assert found == pytest.approx(brute_force(watch, curves, times, cuts), rel=1e-12)


def test_no_other_curve_scores_better_than_the_true_one_on_average():
    rng = np.random.default_rng(0)
    rate = np.array([0.02, 0.1])[rng.integers(0, 2, 20_000)]
    death, end = np.ceil(rng.exponential(1 / rate)), np.ceil(rng.uniform(5, 60, 20_000))
    outcome = Survival(np.minimum(death, end), death <= end)
    objective, times = StepsObjective(outcome), np.unique(outcome.time_months)

    def score(scale: float, shift: float = 0.0) -> float:
        return objective.held_out(outcome, np.exp(-scale * rate[:, None] * times - shift))

    true = score(1.0)
    assert all(true > score(*other) for other in ((0.8,), (1.25,), (1.0, 0.05)))
    assert true > objective.held_out(outcome, np.exp(-0.05 * times) * np.ones((20_000, 1)))


def test_an_event_that_a_curve_calls_impossible_still_has_a_likelihood():
    outcome = Survival.from_arrays([1.0, 2, 3, 4], [1, 1, 1, 0])
    certain = np.ones((4, 4))
    assert np.isfinite(StepsObjective(outcome).held_out(outcome, certain))
    with pytest.raises(TrainingError, match="none of 4 patients had the event"):
        StepsObjective(Survival.from_arrays([1.0, 2, 3, 4], np.zeros(4)))


def test_a_step_counts_from_its_own_time_on():
    readout = StepReadout(np.array([2.0, 5.0, 9.0]), 5.0, (5.0,))
    curves = np.array([[0.9, 0.4, 0.4]])
    found = readout.incidence(curves, [1.9, 2.0, 4.9, 5.0, 9.0])[0, 0]
    np.testing.assert_allclose(found, [0.0, 0.1, 0.1, 0.6, 0.6])
    output = readout.read(curves)
    # Alive for two months for certain, then three at 90%: 0.3 of 5 months are lost.
    assert expit(output.risk[0]) == pytest.approx(0.3 / 5)
    assert output.probabilities["risk_at_5m"][0] == pytest.approx(0.6)
