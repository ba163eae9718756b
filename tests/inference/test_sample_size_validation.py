"""Precision of a validation: published sizes, the authors' software, and simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, norm

from storm_clinic.cohort.outcome import Classes
from storm_clinic.errors import StatisticsError
from storm_clinic.inference import sample_size_validation as sizes
from storm_clinic.metrics.discrimination import auroc

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "design_validation.json").read_text(encoding="utf-8")
)
MIDDLES = (np.arange(200_000) + 0.5) / 200_000


def predictor(given: dict) -> np.ndarray:
    """Quantiles of the distribution that the golden case draws from."""
    if "lpnormal" in given:
        return norm.ppf(MIDDLES, *given["lpnormal"])
    p = beta.ppf(MIDDLES, *given["lpbeta"])
    return np.log(p / (1 - p))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["given"]["prevalence"]))
def test_sizes_are_those_of_pmvalsampsize(case):
    given = case["given"]
    found = sizes.binary_validation(
        given["prevalence"],
        given["cstatistic"],
        predictor(given),
        ratio_width=given.get("oeciwidth", 0.2),
        slope_width=given.get("csciwidth", 0.2),
    )
    # Theirs steps through standard errors by 1e-4, and draws its predictions.
    assert found.of("observed/expected") == pytest.approx(
        case["sizes"]["Criteria 1 - O/E"], rel=3e-3
    )
    assert found.of("calibration slope") == pytest.approx(
        case["sizes"]["Criteria 2 - C-slope"], rel=0.01
    )
    assert found.of("C") == case["sizes"]["Criteria 3 - C statistic"]
    assert found.n_patients == pytest.approx(case["n"], rel=0.01)


@pytest.mark.parametrize("case", [case for case in GOLDEN if "threshold" in case["given"]])
def test_net_benefit_needs_what_pmvalsampsize_says(case):
    given = case["given"]
    n = sizes.net_benefit_size(
        case["sensitivity"], case["specificity"], given["threshold"], given["prevalence"], 0.2
    )
    # Theirs rounds the standard error, 0.05102, to 0.051.
    assert n == pytest.approx(case["sizes"]["Criteria 4 - St Net Benefit"], rel=0.002)


def test_a_mechanical_heart_valve_needs_what_the_paper_prints():
    """Riley et al. 2021: 1.8% events, C 0.8, predictor N(-5, 2.5), O/E 1 wide."""
    found = sizes.binary_validation(0.018, 0.8, norm.ppf(MIDDLES, -5, 2.5), ratio_width=1.0)
    assert found.of("C") == 4252
    assert found.of("observed/expected") == pytest.approx(905, abs=1)
    assert found.of("calibration slope") == pytest.approx(4544, rel=0.01)
    assert found.n_events == pytest.approx(found.n_patients * 0.018)


@pytest.mark.parametrize("c", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_a_size_reaches_its_width_and_one_patient_fewer_does_not(c, share):
    n = sizes.c_size(c, share, 0.1)
    assert 2 * 1.96 * sizes.c_error(c, n, share) <= 0.1 + 1e-12
    assert 2 * 1.96 * sizes.c_error(c, n - 1, share) > 0.1
    n = sizes.observed_expected_size(share, 0.3)
    width = [sizes.log_ratio_width(sizes.observed_expected_error(k, share)) for k in (n, n - 1)]
    assert width[0] <= 0.3 < width[1]
    x = norm.ppf(MIDDLES[::100], -1, 1)
    n = sizes.logistic_slope_size(x, 0.4)
    assert 2 * 1.96 * sizes.logistic_slope_error(x, n) <= 0.4
    assert 2 * 1.96 * sizes.logistic_slope_error(x, n - 1) > 0.4


@pytest.mark.parametrize("n", [200, 800])
def test_errors_of_c_and_slope_are_those_of_simulated_validations(n):
    from storm_clinic.metrics.calibration import calibration_slope

    rng = np.random.default_rng(4)
    x = rng.normal(-0.8, 1.1, 100_000)
    c, slope = [], []
    for _ in range(400):
        lp = rng.choice(x, n)
        outcome = Classes((rng.random(n) < 1 / (1 + np.exp(-lp))).astype(np.int64), ("no", "yes"))
        c.append(auroc(outcome, lp).value)
        slope.append(calibration_slope(outcome, lp).value)
    share = float((1 / (1 + np.exp(-x))).mean())
    assert np.mean(c) == pytest.approx(sizes.expected_c(x), abs=0.004)
    assert sizes.c_error(sizes.expected_c(x), n, share) == pytest.approx(np.std(c), rel=0.12)
    assert sizes.logistic_slope_error(x, n) == pytest.approx(np.std(slope), rel=0.15)


def test_expected_c_counts_every_pair_once():
    x = np.array([-1.0, -1.0, 0.2, 2.0, 0.2])
    p = 1 / (1 + np.exp(-x))
    won = all_pairs = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                chance = p[i] * (1 - p[j])
                won += chance * (1.0 if x[i] > x[j] else 0.5 if x[i] == x[j] else 0.0)
                all_pairs += chance
    assert sizes.expected_c(x) == pytest.approx(won / all_pairs)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: sizes.c_error(1.0, 100, 0.2),
        lambda: sizes.c_error(0.7, 0, 0.2),
        lambda: sizes.observed_expected_size(0.0, 0.2),
        lambda: sizes.logistic_slope_size(np.ones(5), 0.2),
        lambda: sizes.logistic_slope_error([0.1, np.nan], 10),
        lambda: sizes.net_benefit_error(1.2, 0.5, 0.2, 100, 0.2),
        lambda: sizes.c_size(0.7, 0.2, 0),
    ],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(StatisticsError):
        wrong()
