"""Cox models of competing causes, against brute force, lifelines and R's definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import AalenJohansenFitter, CoxPHFitter
from scipy.linalg import expm

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import StatisticsError, TrainingError
from storm_clinic.heads.baseline_hazard import BaselineHazard
from storm_clinic.heads.causes import CausesObjective
from storm_clinic.heads.contract import PatientData, Recipe, Sample
from storm_clinic.heads.survival import CoxLikelihood
from storm_clinic.heads.zoo import find

CAUSES = ("relapse", "death", "other")


def competing(seed: int, n: int = 60, *, entry: bool = False) -> tuple[np.ndarray, CompetingRisks]:
    """Covariates, and times to the first of three causes with ties."""
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(n, 2))
    rates = np.exp(design @ [[0.8, 0.0, -0.5], [0.0, 0.6, 0.3]]) / [20, 40, 60]
    times = np.ceil(np.column_stack([rng.uniform(5, 40, n), rng.exponential(1 / rates)]))
    time, cause = times.min(axis=1), times.argmin(axis=1).astype(np.int64)
    start = np.floor(rng.uniform(0, 0.9, n) * time) if entry else None
    return design, CompetingRisks(time, cause, CAUSES, start)


def fitted(design: np.ndarray, outcome: CompetingRisks, **settings):
    """The head on covariates as they are, and its data."""
    table = pd.DataFrame(design, columns=["x", "y"])
    data = PatientData(tuple(f"p{i}" for i in range(len(design))), clinical=table)
    head = find("causes-cox")
    options = {name: option.default for name, option in head.options.items()} | settings
    recipe = Recipe(("clinical",), options, (6.0, 12.0), 1)
    return next(iter(head.path(Sample(data, outcome), recipe))).finish(), data


def brute_force(outcome, outputs, patient: int, months: float) -> np.ndarray:
    """Matrix exponential at every event time, hazards by Breslow's formula (without ties)."""
    state = np.eye(4)[0]
    for time in np.unique(outcome.time_months[outcome.cause > 0]):
        if time > months:
            break
        generator = np.zeros((4, 4))
        for at in range(3):
            failing = (outcome.time_months == time) & (outcome.cause == at + 1)
            at_risk = outcome.time_months >= time
            if outcome.entry_months is not None:
                at_risk &= outcome.entry_months < time
            step = failing.sum() / np.exp(outputs[at_risk, at]).sum()
            generator[0, at + 1] = step * np.exp(outputs[patient, at])
        generator[0, 0] = -generator[0].sum()
        state = state @ expm(generator)
    return state[1:]


@pytest.mark.parametrize("entry", [False, True])
def test_incidence_is_the_product_of_the_hazards_matrix_exponentials(entry):
    _, outcome = competing(0, entry=entry)
    outputs = np.random.default_rng(1).normal(size=(60, 3))
    readout = CausesObjective(outcome, "breslow").readout(outputs, ())
    months = [3.0, 10.5, 25.0]
    found = readout.incidence(outputs, months)
    for patient in (0, 7, 33):
        for at, time in enumerate(months):
            expected = brute_force(outcome, outputs, patient, time)
            np.testing.assert_allclose(found[:, patient, at], expected, rtol=1e-10)


def test_everybody_is_free_of_events_or_had_exactly_one():
    _, outcome = competing(2)
    outputs = 3 * np.random.default_rng(1).normal(size=(60, 3))
    readout = CausesObjective(outcome).readout(outputs, ())
    last = float(outcome.time_months.max())
    found = readout.incidence(outputs, np.linspace(0.5, last, 50))
    times = np.unique(outcome.time_months[outcome.cause > 0])
    total = np.exp(readout.log_steps[:, None, :] + outputs.T[:, :, None]).sum(axis=(0, 2))
    assert len(times) == readout.log_steps.shape[1]
    np.testing.assert_allclose(1 - found[:, :, -1].sum(axis=0), np.exp(-total), atol=1e-12)


def test_of_a_single_cause_that_happens_it_is_the_risk_of_a_cox_model():
    _, outcome = competing(3)
    only = CompetingRisks(outcome.time_months, (outcome.cause == 1).astype(np.int64), CAUSES)
    outputs = np.random.default_rng(1).normal(size=(60, 3))
    found = CausesObjective(only).readout(outputs, ()).incidence(outputs, [8.0])
    alone = BaselineHazard.fit(only.cause_specific(1), outputs[:, 0])
    np.testing.assert_allclose(found[0, :, 0], alone.risk_at(outputs[:, 0], 8.0), rtol=1e-12)
    assert (found[1:] == 0).all()


def test_without_covariates_it_is_close_to_lifelines_aalen_johansen():
    rng = np.random.default_rng(4)
    times = rng.exponential([30, 20, 40, 60], size=(3000, 4))
    outcome = CompetingRisks(times.min(axis=1), times.argmin(axis=1).astype(np.int64), CAUSES)
    nothing = np.zeros((3000, 3))
    found = CausesObjective(outcome).readout(nothing, ()).incidence(nothing[:1], [5.0, 15.0])
    for cause in (1, 2, 3):
        curve = AalenJohansenFitter(calculate_variance=False).fit(
            outcome.time_months, outcome.cause, event_of_interest=cause
        )
        expected = curve.predict([5.0, 15.0]).to_numpy().ravel()
        # One minus a step and exp(minus a step) differ by half its square: 1 in 3000 patients.
        np.testing.assert_allclose(found[cause - 1, 0], expected, atol=1e-3)


def test_coefficients_are_those_of_a_cox_model_of_each_cause():
    design, outcome = competing(5, n=150)
    model, data = fitted(design, outcome, ridge=0.0)
    for at in range(3):
        table = pd.DataFrame(design, columns=["x", "y"])
        table = table.assign(time=outcome.time_months, event=outcome.cause == at + 1)
        peer = CoxPHFitter().fit(table, "time", "event").params_.to_numpy()
        # The design divides by the standard deviation.
        found = model.predictor.coefficients[:, at] / design.std(axis=0)
        np.testing.assert_allclose(found, peer, rtol=1e-3, atol=1e-4)
    output = model.predict(data)
    np.testing.assert_array_equal(
        output.risk, model.predictor.outputs(model.design.encode(data)[0])[:, 0]
    )


def test_loss_and_held_out_likelihood_sum_over_the_causes():
    _, outcome = competing(6)
    outputs = np.random.default_rng(1).normal(size=(60, 3))
    objective = CausesObjective(outcome)
    expected = sum(
        CoxLikelihood(outcome.cause_specific(at + 1)).log_likelihood(outputs[:, at])
        for at in range(3)
    )
    assert objective.held_out(outcome, outputs) == pytest.approx(expected)
    loss, gradient = objective.loss(outputs)
    assert loss == pytest.approx(-expected / (outcome.cause > 0).sum())
    for patient, at in ((3, 0), (11, 2)):
        moved = outputs.copy()
        moved[patient, at] += 1e-6
        slope = (objective.loss(moved)[0] - loss) / 1e-6
        assert gradient[patient, at] == pytest.approx(slope, abs=1e-6)


def test_a_cause_that_nobody_had_has_no_incidence_and_is_noted():
    design, outcome = competing(7)
    cause = np.where(outcome.cause == 3, 0, outcome.cause)
    rare = CompetingRisks(outcome.time_months, cause, CAUSES)
    model, data = fitted(design, rare)
    assert model.notes == ("other: nobody in training had it; its hazard counts as 0",)
    assert (model.incidence(data, [6.0, 12.0])[2] == 0).all()
    held_out = CausesObjective(rare).held_out(outcome, np.zeros((60, 3)))
    assert np.isfinite(held_out)


def test_without_an_event_of_the_first_cause_nothing_can_be_trained():
    design, outcome = competing(8)
    cause = np.where(outcome.cause == 1, 0, outcome.cause)
    with pytest.raises(TrainingError, match="none of 60 patients had the event"):
        fitted(design, CompetingRisks(outcome.time_months, cause, CAUSES))


def test_competing_deaths_lower_the_incidence_of_relapse():
    design, outcome = competing(9, n=200)
    model, data = fitted(design, outcome)
    as_censored = Survival(outcome.time_months, outcome.cause == 1)
    risk = model.predict(data).risk
    naive = BaselineHazard.fit(as_censored, risk).risk_at(risk, 12.0)
    assert (model.predict(data).probabilities["risk_at_12m"] < naive).all()


def test_months_beyond_the_follow_up_are_refused():
    design, outcome = competing(10)
    model, data = fitted(design, outcome)
    with pytest.raises(StatisticsError, match="outside the training follow-up"):
        model.incidence(data, [outcome.time_months.max() + 0.1])


def test_breslow_and_efron_ties_differ_where_there_are_ties():
    design, outcome = competing(11)
    efron, _ = fitted(design, outcome)
    breslow, _ = fitted(design, outcome, ties="breslow")
    assert (efron.predictor.coefficients != breslow.predictor.coefficients).all()
