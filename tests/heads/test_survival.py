"""Cox partial likelihood against R, brute force and finite differences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lifelines.datasets import load_lung, load_stanford_heart_transplants
from scipy.optimize import check_grad
from statsmodels.duration.hazard_regression import PHReg

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import StatisticsError, TrainingError
from storm_clinic.heads.baseline_hazard import BaselineHazard
from storm_clinic.heads.linear import fit_cox
from storm_clinic.heads.survival import CoxLikelihood

GOLDEN = json.loads(
    (Path(__file__).parent.parent / "golden" / "heads_cox.json").read_text(encoding="utf-8")
)


def r_case(name: str) -> tuple[np.ndarray, Survival]:
    """Covariates and outcome as the R script had them; the time unit is left as it is there."""
    if name == "heart":
        table = load_stanford_heart_transplants()
        design = table[["age", "year", "surgery"]].to_numpy(np.float64)
        return design, Survival.from_arrays(table["stop"], table["event"], table["start"])
    table = load_lung().dropna(subset=["ph.ecog"])
    time = table["time"].to_numpy(np.float64)
    if name == "lung_monthly":
        time = np.ceil(time / 30.4375)
    design = table[["age", "sex", "ph.ecog"]].to_numpy(np.float64)
    return design, Survival.from_arrays(time, table["status"])


@pytest.fixture(params=["lung", "lung_monthly", "heart"])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, Survival, dict]:
    return *r_case(request.param), GOLDEN[request.param]


def brute_log_likelihood(outcome: Survival, risk: np.ndarray) -> float:
    """Efron's formula as it is printed in textbooks, in plain sums."""
    total = 0.0
    entry = np.zeros(len(risk)) if outcome.entry_months is None else outcome.entry_months
    for time in np.unique(outcome.time_months[outcome.event]):
        at_risk = (outcome.time_months >= time) & ((entry < time) | (outcome.entry_months is None))
        died = (outcome.time_months == time) & outcome.event
        whole, part = np.exp(risk[at_risk]).sum(), np.exp(risk[died]).sum()
        n_died = int(died.sum())
        total += risk[died].sum()
        total -= sum(np.log(whole - share / n_died * part) for share in range(n_died))
    return total


def random_outcome(seed: int, *, entry: bool) -> Survival:
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 9, 30).astype(np.float64)
    start = np.floor(rng.random(30) * time) if entry else None
    return Survival.from_arrays(time, rng.random(30) < 0.6, start)


def test_likelihood_and_residuals_are_those_of_r_at_and_away_from_the_maximum(case):
    design, outcome, golden = case
    likelihood = CoxLikelihood(outcome)
    for point in (golden, golden["fixed"]):
        risk = design @ np.array(point["coefficients"])
        loss, gradient = likelihood.loss(risk)
        assert likelihood.log_likelihood(risk) == pytest.approx(point["log_likelihood"], rel=1e-10)
        assert loss == pytest.approx(-point["log_likelihood"] / golden["n_events"], rel=1e-10)
        # The derivative by a patient's log-hazard is minus the martingale residual.
        expected = np.array(point["expected_minus_event"]) / golden["n_events"]
        np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-11)


def test_regression_finds_rs_coefficients_and_covariance(case):
    design, outcome, golden = case
    coefficients = fit_cox(design, outcome)
    np.testing.assert_allclose(coefficients, golden["coefficients"], rtol=1e-6)
    information = CoxLikelihood(outcome).information(design @ coefficients, design)
    covariance = np.linalg.inv(information * golden["n_events"])
    np.testing.assert_allclose(covariance, golden["covariance"], rtol=1e-6)


def test_baseline_hazard_is_that_of_r(case):
    design, outcome, golden = case
    risk = design @ np.array(golden["coefficients"])
    baseline = BaselineHazard.fit(outcome, risk)
    for time, hazard in zip(*golden["baseline"].values(), strict=True):
        # At log-hazard 3 the risk is 1 - exp(-H e^3).
        expected = -np.expm1(-hazard * np.exp(3.0))
        assert baseline.risk_at(np.array([3.0]), time)[0] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("entry", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_loss_is_the_printed_formula_and_its_gradient_is_exact(seed, entry):
    outcome = random_outcome(seed, entry=entry)
    likelihood = CoxLikelihood(outcome)
    risk = 2 * np.random.default_rng(seed + 100).normal(size=30)
    assert likelihood.log_likelihood(risk) == pytest.approx(brute_log_likelihood(outcome, risk))
    error = check_grad(lambda r: likelihood.loss(r)[0], lambda r: likelihood.loss(r)[1], risk)
    assert error < 1e-6


def test_late_entry_at_time_zero_changes_nothing():
    outcome = random_outcome(1, entry=False)
    entered = Survival(outcome.time_months, outcome.event, np.zeros(30))
    risk = np.random.default_rng(0).normal(size=30)
    whole, truncated = CoxLikelihood(outcome).loss(risk), CoxLikelihood(entered).loss(risk)
    assert truncated[0] == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_allclose(truncated[1], whole[1], atol=1e-14)


def test_a_common_shift_of_log_hazards_changes_nothing():
    likelihood = CoxLikelihood(random_outcome(2, entry=False))
    risk = np.random.default_rng(0).normal(size=30)
    assert likelihood.loss(risk + 300)[0] == pytest.approx(likelihood.loss(risk)[0], rel=1e-12)


@pytest.mark.parametrize("entry", [False, True])
@pytest.mark.parametrize("size", [100.0, 10_000.0])
def test_extreme_log_hazards_with_ties_stay_finite(entry, size):
    outcome = random_outcome(3, entry=entry)
    likelihood = CoxLikelihood(outcome)
    risk = np.where(np.arange(30) % 2, size, -size)
    loss, gradient = likelihood.loss(risk)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    # As many events are expected as happened, whatever the hazards.
    assert gradient.sum() == pytest.approx(0, abs=1e-9)
    assert np.isfinite(likelihood.information(risk, np.ones((30, 1)))).all()


def test_extreme_log_hazards_give_the_loss_that_one_can_work_out_by_hand():
    # The lower-risk patient fails first, tied with nobody: log(1 + e^200) = 200.
    outcome = Survival.from_arrays([1.0, 2.0], [1, 0])
    assert CoxLikelihood(outcome).loss(np.array([-100.0, 100.0]))[0] == pytest.approx(200.0)


def test_one_event_is_enough_and_none_is_refused():
    one = Survival.from_arrays([1.0, 2.0, 3.0], [0, 1, 0])
    # At time 2 two patients of equal hazard are left.
    assert CoxLikelihood(one).loss(np.zeros(3))[0] == pytest.approx(np.log(2))
    with pytest.raises(TrainingError, match="none of 3 patients had the event"):
        CoxLikelihood(Survival.from_arrays([1.0, 2.0, 3.0], [0, 0, 0]))


def test_large_risk_sets_are_summed_in_blocks_with_the_same_result(monkeypatch):
    outcome = random_outcome(4, entry=True)
    risk = np.random.default_rng(1).normal(size=30)
    design = np.random.default_rng(2).normal(size=(30, 2))
    whole = CoxLikelihood(outcome)
    expected = whole.loss(risk)[1], whole.information(risk, design)
    monkeypatch.setattr("storm_clinic.heads.survival._BLOCK_CELLS", 40)
    np.testing.assert_allclose(whole.loss(risk)[1], expected[0], rtol=1e-12)
    np.testing.assert_allclose(whole.information(risk, design), expected[1], rtol=1e-12)


def test_risks_of_extreme_patients_are_probabilities():
    baseline = BaselineHazard.fit(random_outcome(5, entry=False), np.zeros(30))
    risks = baseline.risk_at(np.array([-1e4, -100.0, 0.0, 100.0, 1e4]), 6)
    assert risks[0] == 0
    assert (np.diff(risks) >= 0).all()
    assert risks[-1] == 1


def test_nobody_is_at_risk_before_the_first_event():
    baseline = BaselineHazard.fit(Survival.from_arrays([5.0, 7.0], [1, 0]), np.zeros(2))
    assert baseline.risk_at(np.zeros(1), 4.9)[0] == 0
    assert baseline.risk_at(np.zeros(1), 5.0)[0] == pytest.approx(1 - np.exp(-1 / 2))


@pytest.mark.parametrize("months", [0.0, -1.0, 7.1])
def test_a_horizon_outside_follow_up_is_refused(months):
    baseline = BaselineHazard.fit(Survival.from_arrays([5.0, 7.0], [1, 0]), np.zeros(2))
    with pytest.raises(StatisticsError, match=r"outside the training follow-up.*7\.0 months"):
        baseline.risk_at(np.zeros(1), months)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("entry", [False, True])
def test_ties_are_counted_as_statsmodels_counts_them(ties, entry):
    outcome = random_outcome(3, entry=entry)
    if entry:  # programs differ in whether one who enters in the month of an event is at risk
        outcome = replace(outcome, entry_months=outcome.entry_months + 0.5)
    design = np.random.default_rng(0).normal(size=(30, 2))
    coefficients = np.array([0.7, -0.4])
    model = PHReg(
        outcome.time_months,
        design,
        status=outcome.event.astype(float),
        entry=outcome.entry_months,
        ties=ties,
    )
    likelihood = CoxLikelihood(outcome, ties)
    risk = design @ coefficients
    assert likelihood.log_likelihood(risk) == pytest.approx(model.loglike(coefficients), rel=1e-10)
    _, by_risk = likelihood.loss(risk)
    score = -outcome.n_events * design.T @ by_risk
    np.testing.assert_allclose(score, model.score(coefficients), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_log_hazards_of_a_hundred_with_monthly_ties_stay_finite(ties):
    rng = np.random.default_rng(0)
    outcome = Survival.from_arrays(rng.integers(1, 6, 200).astype(float), rng.integers(0, 2, 200))
    risk = rng.choice([-100.0, 100.0], 200)
    loss, gradient = CoxLikelihood(outcome, ties).loss(risk)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert gradient.sum() == pytest.approx(0, abs=1e-9)
