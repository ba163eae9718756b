"""The partial likelihood where relative hazards lie hundreds of orders of magnitude apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.fine_gray import fit_fine_gray
from storm_clinic.inference.partial_likelihood import PartialLikelihood, Stratum


@pytest.fixture(autouse=True)
def no_overflow_goes_unseen():
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        yield


def by_log_sums(time, event, x, b, weight):
    """Value, score and information without ties, each risk set on its own, in logarithms."""
    linear = x @ b
    value, score, information = 0.0, np.zeros(len(b)), np.zeros((len(b), len(b)))
    for at in np.flatnonzero(event):
        risk = time >= time[at]
        scores = linear[risk] + np.log(weight[risk])
        share = np.exp(scores - logsumexp(scores))
        mean = share @ x[risk]
        value += weight[at] * (linear[at] - logsumexp(scores))
        score += weight[at] * (x[at] - mean)
        information += weight[at] * ((x[risk] - mean).T * share) @ (x[risk] - mean)
    return value, score, information


@pytest.mark.parametrize("steepness", [0.0, 1.0, 5.0, 15.0, 22.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_derivatives_are_those_of_log_sums_up_to_the_end_of_float64(steepness, weighted):
    rng = np.random.default_rng(3)
    n = 31
    time = np.arange(1.0, n + 1)
    event = rng.random(n) < 0.7
    event[[0, -1]] = True
    # Who dies first has by far the greatest hazard: exp(-22 * 30) is 1e-287.
    x = np.column_stack([-time, rng.standard_normal(n)])
    weight = rng.uniform(0.2, 5, n) if weighted else np.ones(n)
    b = np.array([steepness, 0.3])
    for ties in ("efron", "breslow"):
        likelihood = PartialLikelihood([Stratum(time, event, weight, ties=ties)], [np.arange(n)])
        found = likelihood.evaluator(x)(b)
        value, score, information = by_log_sums(time, event, x, b, weight)
        assert found.value == pytest.approx(value, rel=1e-9, abs=1e-9)
        np.testing.assert_allclose(found.gradient, score, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.information, information, rtol=1e-7, atol=1e-9)
        assert np.isfinite(likelihood.residuals(x, b)).all()


def test_two_patients_have_the_closed_form_of_a_logistic_curve():
    stratum = Stratum(np.array([1.0, 2.0]), np.array([True, False]), np.ones(2))
    evaluate = PartialLikelihood([stratum], [np.arange(2)]).evaluator(np.array([[1.0], [0.0]]))
    for b in (-700.0, -30.0, 0.0, 2.0, 30.0, 700.0):
        found = evaluate(np.array([b]))
        # The one who dies has the hazard exp(b), the other 1.
        assert found.value == pytest.approx(-np.logaddexp(0, -b), rel=1e-12)
        assert found.gradient[0] == pytest.approx(1 / (1 + np.exp(b)), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("steepness", [23.2, 23.5, 24.0, 24.5, 25.0, 30.0, 1e3, 1e6, 1e300])
def test_beyond_the_range_of_float64_the_value_is_minus_infinity_without_a_warning(steepness):
    time = np.arange(1.0, 32.0)
    stratum = Stratum(time, np.ones(31, dtype=bool), np.ones(31))
    evaluate = PartialLikelihood([stratum], [np.arange(31)]).evaluator(-time[:, None])
    found = evaluate(np.array([steepness]))
    # exp(-23.2 * 30) is 5e-303; below 1e-304 one over it, times what is summed, may overflow.
    assert np.isfinite(found.value) == (steepness == 23.2)
    assert np.isfinite(found.information).all()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("power", [1, 3])
def test_separated_data_are_refused_without_a_warning(seed, power):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 60))
    time, event = rng.permutation(n) + 1.0, rng.random(n) < 0.7
    event[np.argmin(time)] = True
    order = np.argsort(np.argsort(-time)) + 1.0  # who dies earlier has the higher value, always
    design = np.column_stack([order**power, rng.standard_normal(n)])
    names = ["order", "noise"]
    entry = time * rng.random(n) * 0.5 if seed % 2 else np.zeros(n)
    with pytest.raises(StatisticsError, match="has no maximum: 'order'"):
        fit_cox(design, Survival(time, event, entry), names=names)
    outcome = CompetingRisks(time, event.astype(np.int64), ("disease", "other"))
    with pytest.raises(StatisticsError, match="has no maximum: 'order'"):
        fit_fine_gray(design, outcome, names=names)


def test_one_far_value_does_not_keep_a_maximum_from_being_found():
    rng = np.random.default_rng(0)
    n = 400
    x = rng.standard_normal(n)
    time = rng.exponential(np.exp(-0.5 * x)) + 0.01
    x[0], time[0] = 60.0, time.min() / 2
    event = rng.random(n) < 0.8
    event[0] = False  # gone before the first event, with a hazard far above all others
    fit = fit_cox(x[:, None], Survival(time, event), names=["x"])
    without = fit_cox(x[1:, None], Survival(time[1:], event[1:]), names=["x"])
    assert fit.coefficients[0] == pytest.approx(without.coefficients[0], rel=1e-6)
