"""Simulated expression follows what its datasheet states, and who is measured is chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.patients import simulate_patients

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def many():
    """Thousands of patients, their expression as numbers, and the scores of the measured."""
    patients = simulate_patients(replace(HOSPITALS[0], n_patients=9000), np.random.default_rng(14))
    genes = patients.rna.set_index("patient").astype(float)
    score = patients.hidden["score"].set_axis(patients.table["patient"])
    return patients, genes, score[genes.index]


def test_five_genes_follow_the_score_as_stated_and_no_other_does(many):
    _, genes, score = many
    slopes = genes.apply(lambda gene: np.polyfit(score, gene, 1)[0])
    # The standard error of a slope is 0.013, of the shared genes 0.018.
    np.testing.assert_allclose(slopes[:5], 0.7, atol=0.07)
    np.testing.assert_allclose(slopes[5:], 0, atol=0.07)


def test_ten_genes_share_a_factor_and_the_others_are_noise_of_deviation_one(many):
    _, genes, score = many
    left = genes.apply(lambda gene: gene - np.polyval(np.polyfit(score, gene, 1), score))
    covariance = np.cov(left.to_numpy().T)
    expected = np.eye(40)
    expected[5:15, 5:15] += 1
    np.testing.assert_allclose(covariance, expected, atol=0.12)


def test_a_third_is_not_measured_whatever_they_are_like(many):
    patients, genes, _ = many
    assert len(genes) == 6000
    measured = patients.table["patient"].isin(genes.index)
    for what in ("score", "age", "outcome_follow_up"):
        values = patients.hidden[what]
        assert ks_2samp(values[measured], values[~measured]).pvalue > 0.001
    events = patients.outcomes["pfs"].event
    # Standard error 0.011.
    assert abs(events[measured].mean() - events[~measured].mean()) < 0.04


@pytest.mark.parametrize("cohort", ["demo_a", "demo_b"])
def test_the_shipped_table_is_of_the_cohorts_patients_and_of_numbers(cohort):
    folder = REPOSITORY / "cohorts" / cohort
    genes = pd.read_csv(folder / "rna.csv", index_col="patient")
    patients = pd.read_csv(folder / "clinical.csv")["patient"]
    assert list(genes.index) == [name for name in patients if name in set(genes.index)]
    assert genes.shape == (len(patients) - len(patients) // 3, 40)
    assert set(genes.dtypes.astype(str)) == {"float64"}
    assert np.isfinite(genes.to_numpy()).all()
    assert 2.5 < genes["SIM01"].mean() < 3.5  # log expression, so positive for the most part
