"""Pooling equals R's mice and mitools, and what can be seen without them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.pooled_tests import chi_square_test, likelihood_ratio_test, wald_test
from storm_clinic.inference.rubin import pool, pool_numbers, pool_statistics
from storm_clinic.metrics.calibration import observed_expected
from storm_clinic.metrics.discrimination import concordance
from storm_clinic.metrics.overall import brier

_GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "missing.json").read_text())["pooled"]


@pytest.fixture(params=["cox", "logistic"])
def golden(request) -> dict:
    return _GOLDEN[request.param]


def of_tested(golden: dict) -> tuple[np.ndarray, np.ndarray]:
    at = golden["tested"]
    estimates, covariances = np.array(golden["estimates"]), np.array(golden["covariances"])
    return estimates[:, at], covariances[:, at][:, :, at]


class TestCoefficients:
    def test_estimates_errors_and_degrees_of_freedom_are_those_of_mice(self, golden):
        pooled = pool(golden["estimates"], golden["covariances"], df_complete=golden["dfcom"])
        np.testing.assert_allclose(pooled.estimate, golden["estimate"], rtol=1e-9)
        np.testing.assert_allclose(pooled.df, golden["df"], rtol=1e-9)
        np.testing.assert_allclose(pooled.fraction_missing, golden["fmi"], rtol=1e-9)
        summary = golden["summary"]
        np.testing.assert_allclose(pooled.p, [row["p.value"] for row in summary], rtol=1e-8)
        lower, upper = pooled.interval()
        np.testing.assert_allclose(lower, [row["2.5 %"] for row in summary], rtol=1e-8)
        np.testing.assert_allclose(upper, [row["97.5 %"] for row in summary], rtol=1e-8)

    def test_the_whole_covariance_and_large_sample_freedom_are_those_of_mitools(self, golden):
        pooled = pool(golden["estimates"], golden["covariances"])
        np.testing.assert_allclose(pooled.covariance, golden["total"], rtol=1e-9)
        np.testing.assert_allclose(pooled.df, golden["df_mitools"], rtol=1e-7)
        np.testing.assert_allclose(pooled.df, golden["df_large"], rtol=1e-9)
        np.testing.assert_allclose(pooled.fraction_missing, golden["fmi_large"], rtol=1e-9)

    def test_equal_analyses_pool_to_themselves(self):
        one = pool([[1.0, 2.0]] * 5, [np.diag([4.0, 9.0])] * 5, df_complete=50)
        np.testing.assert_allclose(one.se, [2, 3])
        np.testing.assert_allclose(one.between, 0)
        # Without anything missing, as many degrees of freedom as there are, but for Barnard and
        # Rubin's correction of small samples.
        np.testing.assert_allclose(one.df, 51 / 53 * 50, rtol=2e-4)

    @pytest.mark.parametrize(
        ("estimates", "covariances", "what"),
        [
            ([[1.0]], [[[1.0]]], "one imputation"),
            ([[1.0], [2.0]], [[[1.0]]], "shape"),
            ([[1.0], [np.nan]], [[[1.0]], [[1.0]]], "not finite"),
            ([[1.0], [2.0]], [[[1.0]], [[0.0]]], "not positive"),
            ([[1.0], [2.0, 3.0]], [[[1.0]], [[1.0]]], "same terms"),
        ],
    )
    def test_what_cannot_be_pooled_is_refused_with_the_reason(self, estimates, covariances, what):
        with pytest.raises(StatisticsError, match=what):
            pool(estimates, covariances)

    def test_more_terms_than_events_leave_no_degrees_of_freedom(self):
        with pytest.raises(StatisticsError, match="degrees of freedom"):
            pool([[1.0], [2.0]], [[[1.0]], [[1.0]]], df_complete=0)


class TestTestsOfSeveralTerms:
    def test_wald_is_d1_of_mice(self, golden):
        small, large = (
            wald_test(*of_tested(golden), df_complete=df) for df in (golden["dfcom"], None)
        )
        for found, r in ((small, golden["d1"]), (large, golden["d1_large"])):
            values = [found.statistic, found.df, found.df_denominator, found.p]
            np.testing.assert_allclose([*values, found.relative_increase], r, rtol=1e-8)

    def test_wald_with_three_imputations_is_d1_of_mitml(self, golden):
        estimates, covariances = of_tested(golden)
        found = wald_test(estimates[:3], covariances[:3])
        values = [found.statistic, found.df, found.df_denominator, found.p, found.relative_increase]
        np.testing.assert_allclose(values, golden["d1_three"], rtol=1e-8)

    def test_chi_square_is_d2_of_mice(self, golden):
        statistics = golden.get("d2_statistics", golden["own"])
        found = chi_square_test(statistics, 2)
        values = [found.statistic, found.df, found.df_denominator, found.p, found.relative_increase]
        np.testing.assert_allclose(values, golden["d2"], rtol=1e-6)

    def test_likelihood_ratio_is_d3_of_mice(self):
        golden = _GOLDEN["logistic"]
        found = likelihood_ratio_test(golden["own"], golden["at_pooled"], 2)
        values = [found.statistic, found.df, found.df_denominator, found.p, found.relative_increase]
        np.testing.assert_allclose(values, golden["d3"], rtol=1e-8)

    def test_likelihood_ratio_and_wald_of_a_cox_model_hardly_differ(self):
        golden = _GOLDEN["cox"]
        ratio = likelihood_ratio_test(golden["own"], golden["at_pooled"], 2)
        wald = wald_test(*of_tested(golden))
        assert ratio.p == pytest.approx(wald.p, abs=0.02)

    def test_one_term_gives_the_squared_t_statistic(self, golden):
        pooled = pool(golden["estimates"], golden["covariances"])
        estimates, covariances = np.array(golden["estimates"]), np.array(golden["covariances"])
        one = wald_test(estimates[:, 3:4], covariances[:, 3:4, 3:4])
        t = pooled.estimate[3] / pooled.se[3]
        assert one.statistic == pytest.approx(t**2, rel=1e-9)

    def test_imputations_that_agree_give_the_chi_square_test(self):
        found = chi_square_test([5.991464547107979] * 4, 2)
        assert found.df_denominator is None
        assert found.p == pytest.approx(0.05)
        assert likelihood_ratio_test([3.0, 3.0], [3.5, 3.5], 1).relative_increase == 0
        same = wald_test([[1.96]] * 3, [[[1.0]]] * 3, df_complete=30)
        assert same.p == pytest.approx(0.05, abs=1e-4)

    def test_dependent_terms_and_negative_statistics_are_refused(self):
        with pytest.raises(StatisticsError, match="depend"):
            wald_test([[1.0, 1.0], [2.0, 2.0]], [np.ones((2, 2))] * 2)
        with pytest.raises(StatisticsError, match="negative"):
            chi_square_test([1.0, -1.0], 1)
        with pytest.raises(StatisticsError, match="finite"):
            likelihood_ratio_test([1.0, np.nan], [1.0, 1.0], 1)
        with pytest.raises(StatisticsError, match="too few"):
            wald_test([[1.0, 1.0], [2.0, 0.0], [0.0, 4.0]] * 2, [np.eye(2)] * 6, df_complete=5)


class TestNumbers:
    def test_a_concordance_is_pooled_on_the_logit_scale(self):
        found = pool_numbers([0.7, 0.74], [0.03, 0.02], scale="logit")
        logit = np.log([0.7 / 0.3, 0.74 / 0.26])
        se = np.array([0.03 / (0.7 * 0.3), 0.02 / (0.74 * 0.26)])
        assert found.value == pytest.approx(1 / (1 + np.exp(-logit.mean())))
        assert found.se**2 == pytest.approx(np.mean(se**2) + 1.5 * np.var(logit, ddof=1))
        assert 0 < found.lower < found.value < found.upper < 1

    def test_near_the_end_of_its_range_the_interval_stays_inside(self):
        found = pool_numbers([0.98, 0.99, 0.97], [0.02, 0.02, 0.02], scale="logit")
        assert found.upper < 1
        plain = pool_numbers([0.98, 0.99, 0.97], [0.02, 0.02, 0.02])
        assert plain.upper > 1

    def test_values_outside_the_scale_are_refused(self):
        with pytest.raises(StatisticsError, match="above 0 and below 1"):
            pool_numbers([0.9, 1.0], [0.1, 0.1], scale="logit")
        with pytest.raises(StatisticsError, match="above 0"):
            pool_numbers([0.9, 0.0], [0.1, 0.1], scale="log")

    def test_statistics_of_imputed_predictions_pool_with_their_own_errors(self):
        rng = np.random.default_rng(3)
        risk = rng.normal(size=80)
        outcome = Survival.from_arrays(rng.exponential(20 * np.exp(-risk)), rng.random(80) < 0.7)
        several = [concordance(outcome, risk + 0.2 * rng.normal(size=80)) for _ in range(4)]
        found = pool_statistics(several, scale="logit")
        alone = several[0].interval()
        assert found.lower < np.mean([one.value for one in several]) < found.upper
        assert found.upper - found.lower > 0.9 * (alone.upper - alone.lower)
        assert "4 imputations" in found.method
        assert (found.n_patients, found.n_events) == (80, outcome.n_events)
        risks = [np.clip(0.3 + 0.05 * rng.normal(size=80), 0.01, 0.9) for _ in range(3)]
        ratios = [observed_expected(outcome, p, horizon_months=10) for p in risks]
        assert pool_statistics(ratios, scale="log").lower > 0

    def test_a_statistic_without_a_formula_or_of_others_is_refused(self):
        outcome = Survival.from_arrays([1, 2, 3, 4], [1, 1, 0, 1])
        some = brier(outcome, [0.9, 0.8, 0.4, 0.2], horizon_months=2)
        no_formula = replace(some, influence=None)
        with pytest.raises(StatisticsError, match="no formula"):
            pool_statistics([no_formula, no_formula], scale="log")
        more = Survival.from_arrays([1, 2, 3, 4, 5], [1, 1, 0, 1, 1])
        both = [concordance(outcome, [1, 3, 2, 1]), concordance(more, [1, 3, 2, 1, 0])]
        with pytest.raises(StatisticsError, match="different patients"):
            pool_statistics(both, scale="logit")
