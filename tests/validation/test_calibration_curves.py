"""Calibration curves against lifelines, exact intervals and counting by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from lifelines import AalenJohansenFitter, KaplanMeierFitter
from scipy.stats import binomtest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.validation.calibration_curves import calibration_curve
from storm_clinic.validation.evidence import CalibrationCurve

calibrate = partial(calibration_curve, seed=1, bootstraps=50)


def sizes(curve: CalibrationCurve) -> list[int]:
    return [group.n_patients for group in curve.groups]


def test_calibration_groups_show_kaplan_meier_at_the_horizon(outcome, hidden):
    p = 1 - np.exp(-36 / 40 * np.exp(hidden["clinic"]))
    curve = calibrate(outcome, p, cohort="b", model="m", horizon_months=36)
    assert sum(sizes(curve)) == 150
    first = np.argsort(p)[: sizes(curve)[0]]
    fitted = KaplanMeierFitter().fit(outcome.time_months[first], outcome.event[first])
    assert curve.groups[0].predicted == pytest.approx(p[first].mean())
    assert curve.groups[0].observed == pytest.approx(1 - fitted.predict(36), abs=1e-12)


def test_with_competing_risks_the_groups_show_the_incidence_of_the_first_cause(outcome, hidden):
    cause = np.where(outcome.event, 1 + np.arange(150) % 2, 0)
    competing = CompetingRisks(outcome.time_months, cause, ("relapse", "death"))
    p = 1 - np.exp(-36 / 40 * np.exp(hidden["clinic"]))
    curve = calibrate(competing, p, cohort="b", model="m", horizon_months=36)
    first = np.argsort(p)[: sizes(curve)[0]]
    # Sorted apart by a hair: lifelines moves tied times at random.
    time = outcome.time_months[first] + 1e-6 * np.argsort(np.argsort(cause[first] == 0))
    fitted = AalenJohansenFitter(calculate_variance=False).fit(time, cause[first], 1)
    assert curve.groups[0].observed == pytest.approx(float(fitted.predict(36.5)), abs=1e-6)
    assert "Aalen-Johansen" in curve.method


def test_groups_are_as_many_as_leave_ten_events_each(outcome, hidden):
    p = 1 / (1 + np.exp(-hidden["clinic"]))
    events = int((outcome.event & (outcome.time_months <= 12)).sum())
    curve = calibrate(outcome, p, cohort="b", model="m", horizon_months=12)
    assert len(curve.groups) == np.clip(events // 10, 2, 10)


def test_the_histogram_counts_every_patient(outcome, hidden):
    p = 1 / (1 + np.exp(-hidden["clinic"]))
    curve = calibrate(outcome, p, cohort="b", model="m", horizon_months=12)
    assert sum(curve.bin_counts) == 150
    assert curve.bin_edges[0] == 0.0
    assert curve.bin_edges[-1] >= p.max()


def test_a_group_without_events_gets_the_exact_bound_and_not_a_point():
    # 40 patients of low predicted risk, none with the event, all followed past the horizon.
    time = np.concatenate([np.full(40, 30.0), np.linspace(1, 30, 40)])
    event = np.concatenate([np.zeros(40, bool), np.ones(40, bool)])
    p = np.concatenate([np.linspace(0.01, 0.1, 40), np.linspace(0.5, 0.9, 40)])
    outcome = Survival.from_arrays(time, event)
    curve = calibrate(outcome, p, cohort="b", model="m", horizon_months=20)
    upper = binomtest(0, sizes(curve)[0]).proportion_ci(0.95, method="exact").high
    assert curve.groups[0].observed == 0.0
    assert curve.groups[0].upper == pytest.approx(upper, abs=1e-12)


def test_a_group_that_is_not_followed_is_left_out_and_said(hidden):
    time = np.where(hidden["clinic"] > 0, 10.0, 50.0)
    event = hidden["tissue"] > 0
    p = 1 / (1 + np.exp(-3 * hidden["clinic"]))
    outcome = Survival.from_arrays(time, event)
    curve = calibrate(outcome, p, cohort="b", model="m", horizon_months=20)
    assert "not followed to 20 months" in curve.note
    assert sum(sizes(curve)) < 150


def test_nobody_followed_is_an_error(outcome, hidden):
    p = 1 / (1 + np.exp(-hidden["clinic"]))
    with pytest.raises(StatisticsError, match="nobody of b is followed beyond 500 months"):
        calibrate(outcome, p, cohort="b", model="m", horizon_months=500)


def test_intervals_of_classes_are_wilsons():
    label = np.tile([0, 0, 0, 1], 50).astype(np.int64)
    p = np.linspace(0.05, 0.6, 200)
    curve = calibrate(Classes(label, ("no", "yes")), p, cohort="b", model="m")
    n = sizes(curve)[0]
    expected = binomtest(int(label[:n].sum()), n).proportion_ci(0.95, method="wilson")
    assert curve.groups[0].lower == pytest.approx(expected.low, abs=1e-12)
    assert curve.groups[0].upper == pytest.approx(expected.high, abs=1e-12)


def test_the_smooth_curve_spans_all_but_the_most_extreme_predictions(outcome, hidden):
    p = 1 - np.exp(-36 / 40 * np.exp(hidden["clinic"]))
    curve = calibrate(outcome, p, cohort="b", model="m", horizon_months=36)
    # A twentieth of 150 patients, seven at either end, is left out: too few to follow.
    ordered = np.sort(p)
    assert ordered[7] <= curve.predicted[0] < ordered[9]
    assert ordered[-10] < curve.predicted[-1] <= ordered[-8]
    assert list(curve.predicted) == sorted(curve.predicted)
    assert len(curve.predicted) <= 61
    middle = slice(10, 50)
    observed = np.array(curve.observed[middle])
    assert (np.array(curve.lower[middle]) <= observed).all()
    assert (observed <= np.array(curve.upper[middle])).all()


def test_the_band_comes_from_its_seed(outcome, hidden):
    p = 1 - np.exp(-36 / 40 * np.exp(hidden["clinic"]))
    about = {"cohort": "b", "model": "m", "horizon_months": 36}
    first, again = (calibrate(outcome, p, **about) for _ in range(2))
    other = calibration_curve(outcome, p, seed=2, bootstraps=50, **about)
    assert first == again
    assert first.upper != other.upper


def test_predictions_of_two_values_have_groups_but_no_smooth_curve(outcome, hidden):
    p = np.where(hidden["clinic"] > 0, 0.7, 0.3)
    curve = calibrate(outcome, p, cohort="b", model="m", horizon_months=36)
    assert sorted(g.predicted for g in curve.groups) == pytest.approx([0.3, 0.7])
    assert curve.predicted == ()
    assert "no smooth curve" in curve.note
