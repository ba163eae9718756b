"""Weibull regression against lifelines, a closed form and its own definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import WeibullAFTFitter
from scipy.optimize import brentq

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import TrainingError
from storm_clinic.heads.linear import fit_weibull
from storm_clinic.heads.weibull import WeibullObjective


def simulated(seed: int, n: int = 300, *, entry: bool = False) -> tuple[np.ndarray, Survival]:
    """Times with log T = 3 + 0.5 x - 0.3 y + 0.6 W, censored."""
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(n, 2))
    noise = np.log(rng.exponential(size=n))
    time = np.exp(3 + design @ [0.5, -0.3] + 0.6 * noise)
    censored = rng.uniform(5, 60, n)
    observed = np.minimum(time, censored)
    start = rng.uniform(0, 0.8, n) * observed if entry else None
    return design, Survival.from_arrays(observed, time <= censored, start)


@pytest.mark.parametrize("entry", [False, True])
def test_without_a_ridge_it_is_lifelines_aft_model(entry):
    design, outcome = simulated(0, entry=entry)
    slopes, (intercept, log_sigma) = fit_weibull(design, outcome, ridge=0.0)
    table = pd.DataFrame(design, columns=["x", "y"])
    table = table.assign(time=outcome.time_months, event=outcome.event)
    if entry:
        table["entry"] = outcome.entry_months
    peer = (
        WeibullAFTFitter().fit(table, "time", "event", entry_col="entry" if entry else None).params_
    )
    # lifelines' rho is one over sigma, of which both store the logarithm.
    np.testing.assert_allclose(slopes[:, 0], peer["lambda_"][["x", "y"]], atol=2e-4)
    assert intercept == pytest.approx(peer["lambda_"]["Intercept"], abs=2e-4)
    assert log_sigma == pytest.approx(-peer["rho_"]["Intercept"], abs=2e-4)
    assert (slopes[:, 1] == 0).all()


def test_without_covariates_it_solves_the_closed_form_of_the_shape():
    _, outcome = simulated(1)
    log_time, event = np.log(outcome.time_months), outcome.event

    def score(shape: float) -> float:
        weight = outcome.time_months**shape
        mean = (weight * log_time).sum() / weight.sum()
        return mean - 1 / shape - log_time[event].mean()

    shape = brentq(score, 0.1, 10)
    scale = (outcome.time_months**shape).sum() / event.sum()
    _, (intercept, log_sigma) = fit_weibull(np.empty((300, 0)), outcome, ridge=0.0)
    assert np.exp(-log_sigma) == pytest.approx(shape, rel=1e-5)
    assert intercept == pytest.approx(np.log(scale) / shape, rel=1e-5)


def test_a_positive_coefficient_means_longer_times_and_lower_risk():
    design, outcome = simulated(2)
    slopes, start = fit_weibull(design, outcome, ridge=0.01)
    np.testing.assert_allclose(slopes[:, 0], [0.5, -0.3], atol=0.12)
    readout = WeibullObjective(outcome).readout(np.zeros((0, 2)), (12.0,))
    outputs = np.array([[1.0], [-1.0]]) @ slopes[:1] + start
    output = readout.read(outputs)
    assert output.risk[0] < output.risk[1]
    assert output.probabilities["risk_at_12m"][0] < output.probabilities["risk_at_12m"][1]


def test_a_ridge_shrinks_and_is_the_penalised_maximum():
    design, outcome = simulated(3)
    free, _ = fit_weibull(design, outcome, ridge=0.0)
    slopes, start = fit_weibull(design, outcome, ridge=0.5)
    assert (np.abs(slopes[:, 0]) < np.abs(free[:, 0])).all()
    outputs = np.column_stack([design @ slopes[:, 0] + start[0], np.full(300, start[1])])
    by_output = WeibullObjective(outcome).loss(outputs)[1] * 300 / outcome.n_events
    gradient = design.T @ by_output[:, 0] + 0.5 * slopes[:, 0]
    np.testing.assert_allclose(np.r_[gradient, by_output.sum(axis=0)], 0, atol=1e-6)


def test_a_separating_covariate_has_no_coefficient_without_a_ridge():
    marked = np.repeat([1.0, 0.0], 10)
    outcome = Survival.from_arrays(np.arange(1.0, 21), marked.astype(bool))
    with pytest.raises(TrainingError, match="no maximum"):
        fit_weibull(marked[:, None], outcome, ridge=0.0)
    slopes, _ = fit_weibull(marked[:, None], outcome, ridge=0.01)
    assert -10 < slopes[0, 0] < -0.5


def test_covariates_that_follow_from_each_other_are_refused_without_a_ridge():
    design, outcome = simulated(4)
    doubled = np.column_stack([design, 2 * design[:, 0]])
    with pytest.raises(TrainingError, match="cannot tell some covariates apart"):
        fit_weibull(doubled, outcome, ridge=0.0)
    # With one, the slopes share the effect.
    slopes, _ = fit_weibull(doubled, outcome, ridge=0.01)
    assert slopes[0, 0] + 2 * slopes[2, 0] == pytest.approx(0.5, abs=0.12)


def test_nobody_with_an_event_cannot_train():
    with pytest.raises(TrainingError, match="none of 5 patients had the event"):
        fit_weibull(np.eye(5), Survival.from_arrays(np.arange(1.0, 6), np.zeros(5)), ridge=0.1)
