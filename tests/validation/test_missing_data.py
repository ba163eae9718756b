"""Who lacks what, whether it goes with the outcome, and regressions over imputed tables."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.heads.linear import fit_cox
from storm_clinic.heads.survival import CoxLikelihood
from storm_clinic.metrics.compare import log_rank
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.missing_data import imputed_tables, missingness
from storm_clinic.validation.pooled_regressions import (
    pooled_added_value,
    pooled_regression,
)

_FOLDER = Path(__file__).parents[1] / "golden"
_GOLDEN = json.loads((_FOLDER / "missing.json").read_text())


def _lung():
    spec = importlib.util.spec_from_file_location("missing_cases", _FOLDER / "missing_cases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.lung()


_CASE = _lung()


class Fitted(NamedTuple):
    names: tuple[str, ...]
    coefficients: np.ndarray
    covariance: np.ndarray
    log_likelihood: float


def evaluation(outcome, covariates, *, risk=None, horizons=(12.0, 24.0), **more) -> EvaluationData:
    n = outcome.n_patients
    risk = np.zeros(n) if risk is None else risk
    model = ModelPredictions("image", (risk,), (np.full(n, -1),), {})
    return EvaluationData(
        cohort="b",
        kind="external",
        outcome=outcome,
        models=(model,),
        endpoint=Endpoint(name="os", horizons_months=horizons, tau_months=None),
        candidate="image",
        comparator=None,
        seed=1,
        covariates=covariates,
        **more,
    )


def cox(terms: list[str], outcome: Survival):
    def fit(table: pd.DataFrame) -> Fitted:
        x = table[terms].to_numpy(np.float64)
        x = x - x.mean(axis=0)
        b, likelihood = fit_cox(x, outcome), CoxLikelihood(outcome)
        information = likelihood.information(x @ b, x) * likelihood.n_events
        return Fitted(tuple(terms), b, np.linalg.inv(information), likelihood.log_likelihood(x @ b))

    return fit


class TestMissingness:
    def test_counts_shares_and_the_log_rank_test_are_those_of_the_groups(self):
        found = {m.variable: m for m in missingness(evaluation(_CASE.outcome, _CASE.covariates))}
        meal = found["meal_cal"]
        gone = _CASE.covariates["meal_cal"].isna().to_numpy()
        assert (meal.n_patients, meal.n_missing) == (228, 47)
        outcome = _CASE.outcome
        had = outcome.event & (outcome.time_months <= 24)
        free = outcome.time_months > 24
        assert meal.missing_with_event == pytest.approx(gone[had].mean())
        assert meal.missing_without_event == pytest.approx(gone[free].mean())
        r = log_rank(outcome, gone)
        assert (meal.test.statistic, meal.test.p) == pytest.approx((r.chi2, r.p))
        assert f"{(~had & ~free).sum()} patients censored before" in meal.test.note

    def test_tests_are_adjusted_over_the_covariates_that_have_gaps(self):
        found = missingness(evaluation(_CASE.outcome, _CASE.covariates))
        assert [m.test.about for m in found] == list(_CASE.covariates)
        p = sorted(m.test.p for m in found if m.test.p is not None)
        assert len(p) == 4
        assert min(m.test.p_adjusted for m in found if m.test.p) == pytest.approx(min(1, 4 * p[0]))
        age = found[0]
        assert age.test.p is None
        assert "missing in nobody" in age.test.note
        assert age.missing_with_event == 0

    def test_classes_are_compared_as_chisq_test_does(self):
        label = np.repeat([0, 1, 0, 1], [12, 40, 5, 60])
        value = np.where(np.repeat([True, True, False, False], [12, 40, 5, 60]), np.nan, 1.0)
        data = evaluation(Classes(label, ("no", "yes")), pd.DataFrame({"x": value}))
        (found,) = missingness(data)
        golden = _GOLDEN["chi_square"]
        assert found.test.statistic == pytest.approx(golden["statistic"], rel=1e-9)
        assert found.test.p == pytest.approx(golden["p.value"], rel=1e-9)
        assert found.missing_with_event == pytest.approx(0.4)
        assert found.test.note == ""

    def test_with_competing_risks_another_event_counts_as_without(self):
        outcome = CompetingRisks(
            np.array([1.0, 2, 3, 30, 5]), np.array([1, 2, 0, 1, 1]), ("a", "b")
        )
        table = pd.DataFrame({"x": [np.nan, np.nan, 1, np.nan, 1]})
        (found,) = missingness(evaluation(outcome, table))
        assert found.missing_with_event == pytest.approx(1 / 2)
        assert found.missing_without_event == pytest.approx(1)
        assert "first cause" in found.test.method

    def test_no_event_gives_a_reason_and_no_p_value(self):
        outcome = Survival.from_arrays([1, 2, 30, 40], [0, 0, 0, 0])
        (found,) = missingness(evaluation(outcome, pd.DataFrame({"x": [np.nan, 1, 2, 3]})))
        assert found.missing_with_event is None
        assert found.missing_without_event == 0
        assert "no event" in found.test.note

    def test_without_horizons_all_follow_up_counts(self):
        outcome = Survival.from_arrays([1, 2, 30, 40], [1, 0, 0, 1])
        table = pd.DataFrame({"x": [np.nan, 1, np.nan, 3]})
        (found,) = missingness(evaluation(outcome, table, horizons=()))
        assert (found.missing_with_event, found.missing_without_event) == (0.5, 0.5)

    def test_no_covariates_no_rows(self):
        assert missingness(evaluation(_CASE.outcome, None)) == ()


@pytest.fixture(scope="module")
def tables() -> list[pd.DataFrame]:
    data = evaluation(_CASE.outcome, _CASE.covariates)
    return imputed_tables(data, 40, beside=np.empty((228, 0)))


class TestPooledRegression:
    terms = ("age", "sex", "ph_ecog", "ph_karno", "meal_cal", "wt_loss")

    def test_hazard_ratios_are_close_to_those_of_mice(self, tables):
        found = pooled_regression(cox(list(self.terms), _CASE.outcome), tables, df_complete=159)
        golden = _GOLDEN["imputed"]["lung"]
        spread = np.sqrt(np.array(golden["between"]) * (1 / 40 + 1 / golden["m"]))
        assert np.abs((found.pooled.estimate - golden["estimate"]) / spread).max() < 4
        sex = found.terms[1]
        assert sex.term == "sex"
        assert sex.ratio == pytest.approx(np.exp(sex.coefficient))
        assert sex.lower < sex.ratio < sex.upper < 1
        assert found.n_imputations == 40
        assert "Barnard-Rubin" in found.method

    def test_everybody_counts_so_errors_are_smaller_than_of_complete_cases(self, tables):
        fit = cox(list(self.terms), _CASE.outcome)
        imputed = pooled_regression(fit, tables)
        known = _CASE.covariates.notna().all(axis=1).to_numpy()
        complete = cox(list(self.terms), _CASE.outcome.take(known))(_CASE.covariates[known])
        assert imputed.terms[0].se < np.sqrt(complete.covariance[0, 0])

    def test_added_value_is_much_the_same_by_wald_and_by_likelihood_ratio(self, tables):
        fit = cox(list(self.terms), _CASE.outcome)
        wald = pooled_regression(fit, tables, tested={"ECOG": ["ph_ecog", "ph_karno"]}).tests[0]
        smaller = cox(["age", "sex", "meal_cal", "wt_loss"], _CASE.outcome)
        ratio = pooled_added_value(fit, smaller, tables, about="ECOG")
        assert (wald.about, wald.df, ratio.df) == ("ECOG", 2, 2)
        assert wald.statistic == pytest.approx(ratio.statistic, rel=0.15)
        assert wald.p < 0.01

    def test_tables_without_gaps_pool_to_the_single_fit(self):
        table = _CASE.covariates[["age", "sex"]]
        fit = cox(["age", "sex"], _CASE.outcome)
        found, alone = pooled_regression(fit, [table] * 5), fit(table)
        np.testing.assert_allclose(found.pooled.estimate, alone.coefficients)
        np.testing.assert_allclose(found.pooled.se, np.sqrt(np.diag(alone.covariance)))
        assert found.tests == ()

    def test_what_does_not_fit_together_is_refused(self, tables):
        fit = cox(["age", "sex"], _CASE.outcome)
        with pytest.raises(StatisticsError, match="no term 'stage'"):
            pooled_regression(fit, tables[:2], tested={"stage": ["stage"]})
        with pytest.raises(StatisticsError, match="not part of"):
            pooled_added_value(fit, cox(["ph_ecog"], _CASE.outcome), tables[:2], about="x")
        several = iter([["age"], ["sex"]])
        with pytest.raises(StatisticsError, match="2 different sets of terms"):
            pooled_regression(lambda t: cox(next(several), _CASE.outcome)(t), tables[:2])
        with pytest.raises(StatisticsError, match="too uncertain"):
            far = Fitted(("x",), np.array([1.0]), np.array([[1e6]]), 0.0)
            pooled_regression(lambda t: far, tables[:2])
        with pytest.raises(StatisticsError, match="fits worse"):
            worse = cox(["age"], _CASE.outcome)
            pooled_added_value(
                lambda t: fit(t)._replace(log_likelihood=-1e6), worse, tables[:2], about="x"
            )


class TestImputedTables:
    def test_as_many_as_percent_incomplete_and_the_risk_enters(self):
        rng = np.random.default_rng(2)
        risk = rng.normal(size=228)
        x = np.where(np.arange(228) % 3 == 0, np.nan, 0.9 * risk + 0.3 * rng.normal(size=228))
        data = evaluation(_CASE.outcome, pd.DataFrame({"x": x}), risk=risk)
        tables = imputed_tables(data)
        assert len(tables) == 34
        gone = np.isnan(x)
        with_risk = np.mean([np.corrcoef(t["x"][gone], risk[gone])[0, 1] for t in tables])
        without = imputed_tables(data, 10, beside=np.empty((228, 0)))
        assert with_risk > 0.8
        given = imputed_tables(data, 5, beside=3 * risk[:, None])
        assert np.mean([np.corrcoef(t["x"][gone], risk[gone])[0, 1] for t in given]) > 0.8
        assert np.mean([np.corrcoef(t["x"][gone], risk[gone])[0, 1] for t in without]) < 0.4

    def test_risks_of_folds_are_brought_to_one_scale(self):
        rng = np.random.default_rng(2)
        fold = np.arange(228) % 2
        risk = rng.normal(size=228)
        x = np.where(np.arange(228) % 3 == 0, np.nan, risk)
        table = pd.DataFrame({"x": x})
        data = evaluation(_CASE.outcome, table)
        moved = ModelPredictions("image", (risk * (1 + 9 * fold) + 50 * fold,), (fold,), {})
        tables = imputed_tables(replace(data, models=(moved,)), 5)
        gone = np.isnan(x)
        assert np.mean([np.corrcoef(t["x"][gone], risk[gone])[0, 1] for t in tables]) > 0.9

    def test_without_covariates_there_is_nothing_to_impute(self):
        with pytest.raises(StatisticsError, match="no covariates of b"):
            imputed_tables(evaluation(_CASE.outcome, None))
