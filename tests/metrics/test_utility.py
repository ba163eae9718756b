from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.incidence import cumulative_incidence
from storm_clinic.metrics.utility import decision_curve, net_benefit, net_benefit_treat_all

exactly = {"rel": 0, "abs": 1e-9}


@pytest.mark.golden("net_benefit")
def test_net_benefit_is_that_of_kaplan_meier_above_the_threshold_in_r(golden):
    r, horizon = golden.r("net_benefit"), golden.case.horizon_months
    for cut, model, everybody in zip(r["threshold"], r["model"], r["all"], strict=True):
        ours = net_benefit(golden.outcome, golden.probability, cut, horizon_months=horizon)
        assert ours.value == pytest.approx(model, **exactly)
        ours = net_benefit_treat_all(golden.outcome, cut, horizon_months=horizon)
        assert ours.value == pytest.approx(everybody, **exactly)


def test_net_benefit_of_classes_weighs_false_alarms_by_the_odds():
    outcome = Classes(np.array([0, 0, 0, 1, 1]), ("no", "yes"))
    # At 0.25: two true and one false positive of five; odds 1 to 3.
    found = net_benefit(outcome, [0.1, 0.2, 0.25, 0.4, 0.9], 0.25)
    assert found.value == pytest.approx((2 - 1 / 3) / 5)


def test_where_everybody_is_above_the_model_treats_all(lung):
    horizon = lung.case.horizon_months
    low = float(lung.probability.min())
    model = net_benefit(lung.outcome, lung.probability, low, horizon_months=horizon)
    everybody = net_benefit_treat_all(lung.outcome, low, horizon_months=horizon)
    assert model.value == pytest.approx(everybody.value, **exactly)


def test_where_nobody_is_above_there_is_neither_benefit_nor_harm(lung):
    found = net_benefit(lung.outcome, lung.probability, 0.999, horizon_months=12)
    assert found.value == 0


def test_several_thresholds_are_averaged(lung):
    cuts = [0.2, 0.5, 0.3]
    single = [net_benefit(lung.outcome, lung.probability, c, horizon_months=12).value for c in cuts]
    mean = net_benefit(lung.outcome, lung.probability, cuts, horizon_months=12)
    assert mean.value == pytest.approx(np.mean(single), **exactly)


def test_a_follow_up_that_ends_early_above_the_threshold_understates_the_benefit():
    # Above 0.5 are the first three; the last of them leaves at 6 of 12 months.
    outcome = Survival.from_arrays([2, 4, 6, 20, 20, 5], [1, 1, 0, 0, 0, 1])
    p = [0.9, 0.8, 0.7, 0.1, 0.1, 0.1]
    found = net_benefit(outcome, p, 0.5, horizon_months=12).value
    assert found == pytest.approx(3 / 6 * (2 / 3 - 1 / 3))
    known = Survival.from_arrays([2, 4, 6, 20, 20, 5], [1, 1, 1, 0, 0, 1])
    assert found < net_benefit(known, p, 0.5, horizon_months=12).value


def test_a_weight_of_two_is_a_patient_who_occurs_twice(random_cohort):
    outcome, risk = random_cohort(2, 60)
    p = 1 / (1 + np.exp(-risk))
    counts = np.random.default_rng(4).integers(0, 4, 60)
    index = np.repeat(np.arange(60), counts)
    cuts = np.linspace(0.1, 0.9, 9)
    weighted = net_benefit(outcome, p, cuts, horizon_months=12).under(counts[None].astype(float))
    repeated = net_benefit(outcome.take(index), p[index], cuts, horizon_months=12)
    assert weighted[0] == pytest.approx(repeated.value, **exactly)


def test_the_decision_curve_has_a_band_and_the_alternatives(lung):
    cuts = np.linspace(0.1, 0.6, 6)
    curve = decision_curve(lung.outcome, lung.probability, cuts, horizon_months=12)
    for k, cut in enumerate(cuts):
        model = net_benefit(lung.outcome, lung.probability, cut, horizon_months=12)
        everybody = net_benefit_treat_all(lung.outcome, cut, horizon_months=12)
        assert curve.net_benefit[k] == pytest.approx(model.value)
        assert curve.treat_all[k] == pytest.approx(everybody.value)
        assert curve.n_above[k] == (lung.probability >= cut).sum()
    lower, upper = curve.band()
    assert ((lower < curve.net_benefit) & (curve.net_benefit < upper)).all()
    assert curve.followed.all()


def test_a_gain_in_net_benefit_is_paired(lung):
    cuts = np.linspace(0.1, 0.6, 6)
    curve = decision_curve(lung.outcome, lung.probability, cuts, horizon_months=12)
    value, lower, upper = curve.gain(curve)
    assert not value.any()
    assert not lower.any()
    assert not upper.any()
    worse = decision_curve(lung.outcome, lung.probability[::-1], cuts, horizon_months=12)
    value, lower, upper = curve.gain(worse)
    assert value == pytest.approx(curve.net_benefit - worse.net_benefit, **exactly)
    first = [
        net_benefit(lung.outcome, p, cuts[3], horizon_months=12)
        for p in (lung.probability, lung.probability[::-1])
    ]
    expected = (first[0] - first[1]).interval()
    assert (lower[3], upper[3]) == pytest.approx((expected.lower, expected.upper), abs=1e-12)


def slope_by_differences(statistic, n_patients, step=1e-5) -> np.ndarray:
    plus, minus = (
        np.ones((n_patients, n_patients)) + sign * step * np.eye(n_patients) for sign in (1, -1)
    )
    return (statistic.under(plus) - statistic.under(minus)) / (2 * step)


def test_influences_are_the_slopes_of_the_value_by_each_patients_weight(lung, competing_cases):
    two_causes = competing_cases["lung_monthly"]
    for outcome, p in (
        (lung.outcome, lung.probability),
        (two_causes.outcome, two_causes.table["probability"].to_numpy()),
    ):
        found = net_benefit(
            outcome.take(np.arange(150)), p[:150], [0.05, 0.3, 0.5], horizon_months=12
        )
        slopes = slope_by_differences(found, 150)
        assert found.influence == pytest.approx(slopes, abs=1e-7)
        assert found.influence.sum() == pytest.approx(0, abs=1e-9)


def test_influences_of_classes_are_those_slopes_too():
    rng = np.random.default_rng(1)
    p = rng.uniform(size=80)
    outcome = Classes((rng.uniform(size=80) < p).astype(np.int64), ("no", "yes"))
    found = net_benefit(outcome, p, [0.2, 0.6])
    assert found.influence == pytest.approx(slope_by_differences(found, 80), abs=1e-8)


def test_with_competing_risks_those_above_have_the_aalen_johansen_risk(competing_cases):
    outcome = competing_cases["lung_monthly"].outcome
    p, cut = competing_cases["lung_monthly"].table["probability"].to_numpy(), 0.3
    above = p >= cut
    risk = cumulative_incidence(outcome.take(np.flatnonzero(above))).at(12)[0]
    expected = above.mean() * (risk - (1 - risk) * cut / (1 - cut))
    found = net_benefit(outcome, p, cut, horizon_months=12)
    assert found.value == pytest.approx(expected, abs=1e-12)
    # Counting deaths as the end of follow-up would promise benefit to patients who will not live.
    alone = net_benefit(outcome.cause_specific(), p, cut, horizon_months=12)
    assert alone.value > found.value


@pytest.mark.parametrize("cut", [0, 1, 1.2, -0.1])
def test_a_threshold_that_is_no_probability_is_refused(lung, cut):
    with pytest.raises(StatisticsError, match="strictly between 0 and 1"):
        net_benefit(lung.outcome, lung.probability, cut, horizon_months=12)


def test_a_horizon_beyond_the_follow_up_is_refused(lung):
    with pytest.raises(StatisticsError, match="first event to last follow-up"):
        net_benefit(lung.outcome, lung.probability, 0.5, horizon_months=120)
