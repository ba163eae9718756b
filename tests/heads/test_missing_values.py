"""Conditional means of missing covariates, and the distribution they come from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from storm_clinic.heads.missing_values import NormalModel

COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 2.0, -0.5], [0.2, -0.5, 1.5]])


def gappy(seed: int, n: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Complete rows, and the same with values missing at random."""
    rng = np.random.default_rng(seed)
    complete = rng.multivariate_normal([1.0, -2.0, 0.5], COVARIANCE, size=n)
    holes = rng.random(complete.shape) < share
    return complete, np.where(holes, np.nan, complete)


def observed_log_likelihood(model: NormalModel, values: np.ndarray) -> float:
    """Row by row, of what is observed in it."""
    total = 0.0
    for row in values:
        seen = ~np.isnan(row)
        if seen.any():
            block = model.covariance[np.ix_(seen, seen)]
            total += multivariate_normal.logpdf(row[seen], model.mean[seen], block)
    return total


def test_complete_rows_give_the_sample_mean_and_covariance():
    complete, _ = gappy(0, 200)
    model = NormalModel.fit(complete, prior_patients=0.0)
    np.testing.assert_allclose(model.mean, complete.mean(axis=0))
    np.testing.assert_allclose(model.covariance, np.cov(complete.T, bias=True), atol=1e-12)


def test_with_gaps_the_estimate_is_the_maximum_of_the_observed_likelihood():
    _, values = gappy(1, 120)
    model = NormalModel.fit(values, prior_patients=0.0)
    highest = observed_log_likelihood(model, values)
    rng = np.random.default_rng(0)
    for _ in range(30):
        push = 0.02 * rng.normal(size=(3, 3))
        nearby = NormalModel(
            model.mean + 0.02 * rng.normal(size=3), model.covariance + push @ push.T + 0.01 * push
        )
        nearby = NormalModel(nearby.mean, (nearby.covariance + nearby.covariance.T) / 2)
        assert observed_log_likelihood(nearby, values) < highest


def test_many_rows_recover_the_distribution_behind_the_gaps():
    _, values = gappy(2, 20_000)
    model = NormalModel.fit(values)
    np.testing.assert_allclose(model.mean, [1.0, -2.0, 0.5], atol=0.05)
    np.testing.assert_allclose(model.covariance, COVARIANCE, atol=0.06)


def test_a_gap_is_filled_by_the_regression_on_what_is_known():
    model = NormalModel(np.array([1.0, -2.0, 0.5]), COVARIANCE)
    row = np.array([[2.0, np.nan, 0.0]])
    slope = COVARIANCE[1, [0, 2]] @ np.linalg.inv(COVARIANCE[np.ix_([0, 2], [0, 2])])
    expected = -2.0 + slope @ (np.array([2.0, 0.0]) - [1.0, 0.5])
    assert model.fill(row)[0, 1] == pytest.approx(expected)
    assert model.fill(row)[0, [0, 2]].tolist() == [2.0, 0.0]


def test_a_patient_of_whom_nothing_is_known_gets_the_means():
    model = NormalModel(np.array([1.0, -2.0, 0.5]), COVARIANCE)
    assert model.fill(np.full((1, 3), np.nan))[0].tolist() == [1.0, -2.0, 0.5]


def test_filling_one_patient_alone_gives_the_same_bits_as_filling_all():
    _, values = gappy(3, 60)
    model = NormalModel.fit(values)
    alone = np.vstack([model.fill(row[None]) for row in values])
    assert (alone == model.fill(values)).all()


def test_columns_that_follow_from_each_other_still_fill():
    complete, _ = gappy(4, 50)
    values = np.column_stack([complete[:, 0], 2 * complete[:, 0]])
    values[::3, 1] = np.nan
    model = NormalModel.fit(values)
    filled = model.fill(values)[::3, 1]
    # One prior patient, who knows of no correlation, shrinks the slope by about 1 in 50.
    np.testing.assert_allclose(filled, 2 * values[::3, 0], atol=0.35)
