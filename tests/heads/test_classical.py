"""Linear heads on tiles and tables, against the libraries on the same columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sksurv.linear_model import CoxnetSurvivalAnalysis
from statsmodels.duration.hazard_regression import PHReg

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.heads.contract import PatientData, Recipe, Sample
from storm_clinic.heads.linear import fit_cox, fit_logistic
from storm_clinic.heads.zoo import find


def with_genes(sample: Sample, n_genes: int = 8, n_without: int = 8) -> Sample:
    """The same patients with genes, which the last of them lack."""
    rng = np.random.default_rng(5)
    genes = rng.normal(size=(len(sample.data), n_genes))
    genes[:, 0] += sample.data.bags.pooled_mean().sum(axis=1)
    genes[len(genes) - n_without :] = np.nan
    table = pd.DataFrame(genes, columns=[f"gene{i}" for i in range(n_genes)])
    return Sample(replace(sample.data, tables={"rna": table}), sample.outcome)


def recipe_of(head: str, inputs: tuple[str, ...], **settings) -> Recipe:
    options = {name: option.default for name, option in find(head).options.items()}
    return Recipe(inputs, options | settings, (), 1)


def models(head: str, sample: Sample, inputs: tuple[str, ...], **settings):
    return [s.finish() for s in find(head).path(sample, recipe_of(head, inputs, **settings))]


def test_coxnet_on_a_table_is_scikit_survivals_on_its_standardised_columns(simulated):
    sample = with_genes(simulated(0, n_patients=60), n_without=0)
    found = models("coxnet", sample, ("rna",))
    genes = sample.data.tables["rna"].to_numpy()
    standardised = (genes - genes.mean(axis=0)) / genes.std(axis=0)
    net = CoxnetSurvivalAnalysis(n_alphas=80, alpha_min_ratio=0.02, l1_ratio=0.5)
    net.fit(standardised, sample.outcome.to_structured())
    assert len(found) == net.coef_.shape[1]
    for at in (10, 40, len(found) - 1):
        np.testing.assert_allclose(found[at].predictor.coefficients[:, 0], net.coef_[:, at])


@pytest.mark.parametrize("head", ["cox", "coxnet", "weibull", "survival-forest"])
def test_absent_measurements_say_nothing_through_their_values(simulated, head):
    """A patient without genes is the average patient with the indicator's coefficient."""
    sample = with_genes(simulated(0, n_patients=60))
    model = models(head, sample, ("rna", "clinical"))[-1]
    absent = sample.data.take(np.array([59]))
    matrix, _ = model.design.encode(absent)
    genes = sample.data.tables["rna"]
    average = replace(absent, tables={"rna": genes.mean().to_frame().T})
    as_average, _ = model.design.encode(average)
    as_average[0, 8] = 1.0  # the indicator stands after the eight genes
    np.testing.assert_allclose(as_average, matrix, atol=1e-12)
    if head != "survival-forest":  # trees may split between 0 and 1e-17
        np.testing.assert_allclose(
            model.predictor.outputs(as_average), model.predictor.outputs(matrix), atol=1e-12
        )


@pytest.mark.parametrize("pooling", ["mean+sd", "quantiles"])
def test_other_poolings_let_a_model_see_how_tiles_vary(pooling):
    rng = np.random.default_rng(0)
    n = 120
    spread = rng.uniform(0.5, 2, n)
    tiles = rng.normal(size=(n, 40, 3)) * spread[:, None, None]
    tiles -= tiles.mean(axis=1, keepdims=True)
    from storm_clinic.heads.bags import Bags

    bags = Bags.from_arrays([part.astype(np.float32) for part in tiles])
    time = rng.exponential(np.exp(-2 * (spread - 1.25)))
    data = PatientData(tuple(f"p{i}" for i in range(n)), bags)
    sample = Sample(data, Survival.from_arrays(time, np.ones(n)))
    for head in ("pca-cox", "coxnet"):
        risk = models(head, sample, ("image",), pooling=pooling)[-1].predict(data).risk
        assert np.corrcoef(risk, spread)[0, 1] > 0.8


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_ties_are_counted_as_statsmodels_counts_them(ties):
    rng = np.random.default_rng(0)
    design = rng.normal(size=(80, 2))
    time = np.ceil(rng.exponential(6 * np.exp(-design[:, 0])))
    outcome = Survival.from_arrays(time, rng.random(80) < 0.8)
    peer = PHReg(time, design, status=outcome.event.astype(int), ties=ties).fit()
    found = fit_cox(design, outcome, ties=ties)
    np.testing.assert_allclose(found, peer.params, rtol=1e-5)


def test_cox_asked_for_breslow_fits_and_judges_that_way(simulated):
    sample = simulated(0)
    efron, breslow = (models("cox", sample, ("clinical",), ties=t)[0] for t in ("efron", "breslow"))
    assert (efron.predictor.coefficients != breslow.predictor.coefficients).any()
    matrix = breslow.design.encode(sample.data)[0]
    expected = fit_cox(matrix, sample.outcome, ridge=0.01, ties="breslow")
    np.testing.assert_array_equal(breslow.predictor.coefficients[:, 0], expected)


def marked_patients(n_rare: int = 20, n: int = 200) -> tuple[PatientData, Classes]:
    """A yes/no covariate, and a rare class that is commoner among those with it."""
    rng = np.random.default_rng(0)
    label = (np.arange(n) < n_rare).astype(np.int64)
    marked = np.where(label == 1, rng.random(n) < 0.7, rng.random(n) < 0.3)
    table = pd.DataFrame({"marked": marked.astype(float)})
    keys = tuple(f"p{i}" for i in range(n))
    return PatientData(keys, clinical=table), Classes(label, ("common", "rare"))


def test_balanced_weights_are_taken_out_of_the_probabilities():
    """One covariate with two values leaves nothing to weights: probabilities are the shares."""
    data, outcome = marked_patients()
    model = models("logistic", Sample(data, outcome), ("clinical",), class_weight="balanced")[-1]
    found = model.predict(data).probabilities["p_rare"]
    marked = data.clinical["marked"] == 1
    for group in (marked, ~marked):
        assert found[group] == pytest.approx(outcome.label[group].mean(), abs=0.005)
    assert found.mean() == pytest.approx(0.1, abs=0.005)  # and not one half


def test_balanced_weights_change_what_is_learned_where_a_line_does_not_fit():
    rng = np.random.default_rng(1)
    design = rng.normal(size=(400, 1))
    p = 0.02 + 0.3 * (design[:, 0] > 1)
    outcome = Classes((rng.random(400) < p).astype(np.int64), ("no", "yes"))
    plain, _ = fit_logistic(design, outcome, ridge=1e-6)
    balanced, intercept = fit_logistic(design, outcome, ridge=1e-6, balanced=True)
    assert abs(plain - balanced)[0, 0] > 0.05
    odds = np.exp(intercept + design @ balanced).ravel()
    weights = np.where(outcome.label == 1, 1 / outcome.n_events, 1 / (400 - outcome.n_events))
    # Weighted, as many are expected of either class.
    assert (weights * odds / (1 + odds)).sum() == pytest.approx(1.0, rel=1e-3)
