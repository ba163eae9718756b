"""Optimism equals rms::validate on the same resamples, and undoes what overfitting adds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.heads.linear import fit_cox
from storm_clinic.inference.optimism import optimism
from storm_clinic.metrics.discrimination import auroc, concordance

_FOLDER = Path(__file__).parents[1] / "golden"
_GOLDEN = json.loads((_FOLDER / "missing.json").read_text())["optimism"]


@pytest.fixture(scope="module")
def lung():
    spec = importlib.util.spec_from_file_location("missing_cases", _FOLDER / "missing_cases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    case = module.lung()
    known = case.covariates.notna().all(axis=1).to_numpy()
    return case.covariates[known].to_numpy(np.float64), case.outcome.take(known)


def cox(design, outcome):
    coefficients = fit_cox(design - design.mean(axis=0), outcome)
    return lambda rows: rows @ coefficients


def somers(risk, outcome) -> float:
    return 2 * concordance(outcome, risk).value - 1


def difference_of_means(design, outcome):
    event = outcome.label == 1
    direction = design[event].mean(axis=0) - design[~event].mean(axis=0)
    return lambda rows: rows @ direction


def area(risk, outcome) -> float:
    return auroc(outcome, risk).value


class TestAgainstR:
    def test_every_resample_gives_what_coxph_gives(self, lung):
        found = optimism(cox, somers, *lung, draws=np.array(_GOLDEN["draws"]))
        assert found.apparent == pytest.approx(_GOLDEN["apparent"], abs=1e-10)
        np.testing.assert_allclose(found.training, _GOLDEN["training"], atol=1e-10)
        np.testing.assert_allclose(found.test, _GOLDEN["test"], atol=1e-10)

    def test_the_summary_is_that_of_validate(self, lung):
        found = optimism(cox, somers, *lung, draws=np.array(_GOLDEN["draws"]))
        ours = [found.apparent, found.training.mean(), found.test.mean(), found.optimism]
        # rms stops its fits at a coarser tolerance, which can swap two nearly equal risks.
        np.testing.assert_allclose([*ours, found.corrected], _GOLDEN["rms"], atol=2e-4)


class TestWhatItDoes:
    def test_a_model_of_noise_is_brought_down_to_chance(self):
        rng = np.random.default_rng(3)
        apparent, corrected = [], []
        for seed in range(20):
            design = rng.normal(size=(100, 10))
            outcome = Classes(rng.integers(0, 2, 100), ("no", "yes"))
            found = optimism(difference_of_means, area, design, outcome, n=60, seed=seed)
            apparent.append(found.apparent)
            corrected.append(found.corrected)
        assert np.mean(apparent) > 0.65
        # The bootstrap's own bias for a pure noise model is small and positive.
        assert 0.45 < np.mean(corrected) < 0.57

    def test_a_model_that_is_not_fitted_has_hardly_any_optimism(self, lung):
        found = optimism(lambda d, o: lambda rows: rows[:, 2], somers, *lung, n=200, seed=1)
        # Resamples differ from the patients by chance alone: 0.05 / sqrt(200).
        assert abs(found.optimism) < 0.015

    def test_the_interval_is_the_resamples_own_moved_by_the_optimism(self, lung):
        found = optimism(cox, somers, *lung, n=50, seed=1, level=0.9)
        ends = np.quantile(found.training, [0.05, 0.95]) - found.optimism
        assert (found.lower, found.upper) == pytest.approx(tuple(ends))
        assert found.corrected == pytest.approx(found.apparent - found.optimism)
        assert "50 bootstrap resamples" in found.method

    def test_equal_seeds_give_equal_numbers(self, lung):
        one, same, other = (optimism(cox, somers, *lung, n=20, seed=s) for s in (1, 1, 2))
        assert one.optimism == same.optimism != other.optimism


class TestFailures:
    outcome = Survival.from_arrays(np.arange(10) + 1.0, np.arange(10) == 3)
    design = np.array([0.0, 9, 1, 4, 2, 7, 3, 8, 5, 6])[:, None]

    def test_too_few_events_for_the_resamples_is_said(self):
        with pytest.raises(StatisticsError, match="resamples have no model"):
            optimism(cox, somers, self.design, self.outcome, n=40, seed=1)

    def test_a_model_that_has_no_maximum_on_all_patients_is_no_result(self):
        separated = np.arange(10.0)[:, None] == 3
        with pytest.raises(StatisticsError, match="no maximum"):
            optimism(cox, somers, separated.astype(float), self.outcome, n=40, seed=1)

    def test_settings_out_of_range(self, lung):
        with pytest.raises(StatisticsError, match="1 resamples"):
            optimism(cox, somers, *lung, n=1)
        with pytest.raises(StatisticsError, match="level"):
            optimism(cox, somers, *lung, level=95)

    def test_a_measure_that_is_no_number_is_no_result(self, lung):
        with pytest.raises(StatisticsError, match="no number"):
            optimism(cox, lambda risk, outcome: float("nan"), *lung, n=5)

    def test_few_lost_resamples_are_counted(self, lung):
        calls = iter(range(1000))

        def sometimes(design, outcome):
            if next(calls) == 7:
                raise StatisticsError("unlucky")
            return cox(design, outcome)

        found = optimism(sometimes, somers, *lung, n=40, seed=1)
        assert found.n_lost == 1
        assert len(found.training) == 39
        assert "1 of them without" in found.method
