from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.smoothing import (
    Loess,
    calibration_curve,
    calibration_error,
    pseudo_observations,
)

exactly = {"rel": 0, "abs": 1e-8}
# Of the grid's points, those that tests/golden/metrics.R keeps.
KEPT = [0, 19, 59, 99]


# Against R


@pytest.mark.golden("horizon", "pseudo")
def test_pseudo_observations_are_those_of_survival(golden):
    ours = pseudo_observations(golden.outcome, golden.case.horizon_months)
    assert ours == pytest.approx(np.array(golden.r("horizon", "pseudo")), **exactly)


@pytest.mark.golden("smooth")
def test_the_smooth_curve_of_pseudo_observations_is_that_of_loess(golden):
    check_smooth(golden.outcome, golden.probability, golden.case.horizon_months, golden.r("smooth"))


@pytest.mark.golden("classes", "smooth")
def test_the_smooth_curve_of_classes_is_that_of_loess(golden):
    outcome = Classes(golden.outcome.event.astype(np.int64), ("no", "yes"))
    check_smooth(outcome, golden.probability, None, golden.r("classes", "smooth"))


def check_smooth(outcome, probability, horizon, r):
    curve = calibration_curve(outcome, probability, horizon_months=horizon, n=2, seed=1)
    assert curve.predicted[KEPT] == pytest.approx(np.array(r["at"]), **exactly)
    assert curve.observed[KEPT] == pytest.approx(np.array(r["fitted"]), **exactly)
    for summary in ("ici", "e50", "e90"):
        error = calibration_error(outcome, probability, horizon_months=horizon, summary=summary)
        assert error.value == pytest.approx(r[summary], **exactly)


# Against definitions and laws


def test_pseudo_observations_average_to_the_kaplan_meier_estimate(random_cohort):
    outcome, _ = random_cohort(3, 70)
    expected = 1 - kaplan_meier(outcome).at(12).value
    assert pseudo_observations(outcome, 12).mean() == pytest.approx(expected, abs=1e-12)


def test_without_censoring_a_pseudo_observation_is_what_happened(cases):
    outcome = cases["all_events"].outcome
    happened = (outcome.time_months <= 3).astype(float)
    assert pseudo_observations(outcome, 3) == pytest.approx(happened, abs=1e-12)


def test_pseudo_observations_under_weights_are_those_of_repeated_patients(random_cohort):
    outcome, _ = random_cohort(4, 50)
    counts = np.random.default_rng(0).integers(1, 4, 50)
    index = np.repeat(np.arange(50), counts)
    weighted = pseudo_observations(outcome, 12, counts[None].astype(float))[0]
    assert weighted[index] == pytest.approx(pseudo_observations(outcome.take(index), 12))


def test_a_parabola_passes_through_loess_unchanged():
    x = np.sort(np.random.default_rng(1).uniform(0, 1, 40))
    y = 0.2 + x - 0.7 * x**2
    at = np.linspace(0.1, 0.9, 7)
    fitted = Loess(x, at).fit(y[None], np.ones((1, 40)))[0]
    assert fitted == pytest.approx(0.2 + at - 0.7 * at**2, abs=1e-9)


def test_true_probabilities_are_nearly_calibrated_and_wrong_ones_are_not():
    rng = np.random.default_rng(2)
    p = rng.uniform(0.1, 0.9, 4000)
    time, censored = rng.exponential(-12 / np.log1p(-p)), rng.uniform(0, 40, 4000)
    outcome = Survival(np.minimum(time, censored), time <= censored)
    assert calibration_error(outcome, p, horizon_months=12).value < 0.03
    assert calibration_error(outcome, p / 2, horizon_months=12).value > 0.2


def test_the_error_under_weights_follows_repeated_patients(random_cohort):
    # Bandwidths stay those of the whole sample, so that only a common factor can be compared.
    outcome, risk = random_cohort(6, 60)
    p = 1 / (1 + np.exp(-risk))
    for summary in ("ici", "e50", "e90"):
        error = calibration_error(outcome, p, horizon_months=12, summary=summary)
        # Quantiles of repeated values interpolate between neighbours a little nearer.
        rough = 1e-9 if summary == "ici" else 0.02
        assert error.under(np.full((1, 60), 2.0))[0] == pytest.approx(error.value, abs=rough)


def test_the_band_holds_the_curve_and_stays_inside_probabilities(lung):
    curve = calibration_curve(
        lung.outcome, lung.probability, horizon_months=lung.case.horizon_months, n=200, seed=3
    )
    assert (curve.lower <= curve.upper).all()
    assert np.mean((curve.lower <= curve.observed) & (curve.observed <= curve.upper)) > 0.95
    assert curve.lower.min() >= 0
    assert curve.upper.max() <= 1
    assert curve.predicted[[0, -1]].tolist() == [lung.probability.min(), lung.probability.max()]


# Data that cannot give the curve


def test_few_distinct_predictions_are_refused(lung):
    p = np.tile([0.1, 0.2, 0.3, 0.4, 0.5], 46)[:227]
    with pytest.raises(StatisticsError, match="5 values"):
        calibration_error(lung.outcome, p, horizon_months=12)


def test_predictions_that_are_mostly_equal_are_refused(lung):
    p = np.full(227, 0.3)
    p[:20] = np.linspace(0.1, 0.9, 20)
    with pytest.raises(StatisticsError, match="equal"):
        calibration_error(lung.outcome, p, horizon_months=12)


def test_an_unknown_summary_is_refused(lung):
    with pytest.raises(StatisticsError, match="e90"):
        calibration_error(lung.outcome, lung.probability, horizon_months=12, summary="e99")
