"""The Weibull objective against lifelines, finite differences and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import WeibullAFTFitter
from lifelines.datasets import load_lung
from scipy.optimize import check_grad, minimize

from storm_clinic.cohort.outcome import Survival
from storm_clinic.heads.weibull import WeibullObjective


@pytest.fixture(scope="module")
def lung():
    table = load_lung().dropna(subset=["ph.ecog"])
    outcome = Survival.from_arrays(table["time"] / 30.4375, table["status"])
    return table, outcome


def test_maximum_of_the_likelihood_is_that_of_lifelines(lung):
    table, outcome = lung
    design = np.column_stack([np.ones(len(table)), table[["age", "sex", "ph.ecog"]]])
    objective = WeibullObjective(outcome)

    def loss(theta):
        outputs = np.column_stack([design @ theta[:4], np.full(len(design), theta[4])])
        value, gradient = objective.loss(outputs)
        return value, np.append(design.T @ gradient[:, 0], gradient[:, 1].sum())

    found = minimize(loss, np.r_[3.0, 0, 0, 0, 0], jac=True, method="BFGS", tol=1e-10)
    data = table[["age", "sex", "ph.ecog"]].assign(T=outcome.time_months, E=outcome.event)
    theirs = WeibullAFTFitter().fit(data, "T", "E")
    scale = theirs.params_["lambda_"]
    np.testing.assert_allclose(
        found.x[:4], scale[["Intercept", "age", "sex", "ph.ecog"]], rtol=2e-4
    )
    assert np.exp(-found.x[4]) == pytest.approx(
        np.exp(theirs.params_["rho_"]["Intercept"]), rel=1e-4
    )
    assert -found.fun * len(table) == pytest.approx(theirs.log_likelihood_, rel=1e-8)


@pytest.mark.parametrize("entry", [False, True])
def test_gradient_is_that_of_finite_differences(entry):
    rng = np.random.default_rng(0)
    time = rng.uniform(1, 20, 30)
    start = time * rng.random(30) * rng.integers(0, 2, 30) if entry else None
    objective = WeibullObjective(Survival.from_arrays(time, rng.integers(0, 2, 30), start))
    at = np.column_stack([rng.normal(2, 0.5, 30), rng.normal(0, 0.3, 30)]).ravel()
    wrong = check_grad(
        lambda x: objective.loss(x.reshape(30, 2))[0],
        lambda x: objective.loss(x.reshape(30, 2))[1].ravel(),
        at,
    )
    assert wrong < 1e-5


def test_start_is_the_closed_form_where_the_shape_is_one():
    # Exponential times: the scale is follow-up over events once the shape is known to be 1.
    rng = np.random.default_rng(1)
    time, limit = rng.exponential(12, 20_000), rng.uniform(5, 40, 20_000)
    outcome = Survival.from_arrays(np.minimum(time, limit), time <= limit)
    mu, log_sigma = WeibullObjective(outcome).start()
    assert np.exp(log_sigma) == pytest.approx(1, abs=0.02)
    assert np.exp(mu) == pytest.approx(outcome.time_months.sum() / outcome.n_events, rel=0.02)


def test_late_entry_changes_nothing_for_exponential_times():
    # Without memory, having lived until entry says nothing: truncated data give the same scale.
    rng = np.random.default_rng(2)
    time, entry = rng.exponential(12, 40_000), rng.uniform(0, 10, 40_000)
    seen = time > entry
    truncated = Survival.from_arrays(time[seen], np.ones(int(seen.sum())), entry[seen])
    mu, log_sigma = WeibullObjective(truncated).start()
    assert np.exp(mu) == pytest.approx(12, rel=0.02)
    assert np.exp(log_sigma) == pytest.approx(1, abs=0.02)
    ignored = Survival(truncated.time_months, truncated.event)
    assert np.exp(WeibullObjective(ignored).start()[0]) > 14  # who ignores it is too hopeful


def test_risk_and_incidence_are_the_closed_form():
    outcome = Survival.from_arrays([10.0, 20.0, 30.0], [1, 1, 0])
    outputs = np.array([[np.log(12.0), np.log(0.5)], [np.log(24.0), np.log(0.5)]])
    readout = WeibullObjective(outcome).readout(outputs, (6.0, 12.0))
    output = readout.read(outputs)
    np.testing.assert_allclose(
        output.probabilities["risk_at_12m"], 1 - np.exp(-np.array([1.0, 0.25])), rtol=1e-12
    )
    # Twice the scale at shape 2 is a quarter of the hazard.
    assert np.exp(output.risk[0] - output.risk[1]) == pytest.approx(4, rel=1e-12)


def test_deaths_at_one_time_and_extreme_outputs_stay_finite():
    outcome = Survival.from_arrays(np.full(9, 7.0), np.ones(9))
    objective = WeibullObjective(outcome)
    assert np.isfinite(objective.start()).all()
    for outputs in (np.full((9, 2), 1e3), np.full((9, 2), -1e3)):
        loss, gradient = objective.loss(outputs)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
