from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.utility import (
    NetBenefit,
    decision_curve,
    net_benefit,
    net_benefit_treat_all,
)

_GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_SPEC = importlib.util.spec_from_file_location("curves_cases", _GOLDEN / "curves_cases.py")
_CASES = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _CASES
_SPEC.loader.exec_module(_CASES)
_R = _CASES.values()
_DCURVES = json.loads((_GOLDEN / "curves_dcurves.json").read_text())

exactly = {"rel": 0, "abs": 1e-9}


def as_outcome(name):
    data = _CASES.table(name)
    made = _CASES.survival if name.startswith("survival") else _CASES.competing
    return data, made(data)


@pytest.mark.parametrize("name", [name for name in _R if "benefit" in _R[name]])
def test_curve_errors_and_paired_gain_are_those_of_survfit_above_each_threshold(name):
    data, outcome = as_outcome(name)
    r = {key: np.array(value) for key, value in _R[name]["benefit"].items()}
    curve = decision_curve(
        outcome,
        data["probability"],
        r["threshold"],
        horizon_months=data["horizon"].iloc[0],
        over=r["over"],
    )
    for ours, theirs in (
        (curve.net_benefit, "value"),
        (curve.se, "se"),
        (curve.treat_all, "all"),
        (curve.gain, "gain"),
        (curve.gain_se, "gain_se"),
    ):
        assert ours == pytest.approx(r[theirs], **exactly)
    assert curve.upper - curve.lower == pytest.approx(2 * 1.959963984540054 * curve.se)
    assert curve.gain_upper - curve.gain_lower == pytest.approx(
        2 * 1.959963984540054 * curve.gain_se
    )


@pytest.mark.parametrize("name", _DCURVES["survival"])
def test_net_benefit_is_that_of_dcurves(name):
    data, outcome = as_outcome(name)
    curve = decision_curve(
        outcome,
        data["probability"],
        _DCURVES["thresholds"],
        horizon_months=data["horizon"].iloc[0],
    )
    for ours, theirs in ((curve.net_benefit, "model"), (curve.treat_all, "all")):
        expected = _DCURVES["survival"][name][theirs]
        known = np.array([value is not None for value in expected])
        assert known.any()
        assert ours[known] == pytest.approx([v for v in expected if v is not None], **exactly)
        if theirs == "model":
            assert (curve.followed == known).all()


@pytest.mark.parametrize("name", _DCURVES["classes"])
def test_net_benefit_of_classes_is_that_of_dcurves(name):
    data = _CASES.table(name)
    outcome = Classes(data["cause"].to_numpy(np.int64), ("no", "yes"))
    curve = decision_curve(outcome, data["probability"], _DCURVES["thresholds"])
    assert curve.net_benefit == pytest.approx(_DCURVES["classes"][name]["model"], **exactly)
    assert curve.treat_all == pytest.approx(_DCURVES["classes"][name]["all"], **exactly)


def drawn(seed, n=80):
    """Simulated in whole months, so that all kinds of events tie."""
    rng = np.random.default_rng(seed)
    time, cause = np.ceil(rng.exponential(20, n)), rng.integers(0, 3, n)
    outcomes = {
        "survival": Survival(time, cause == 1),
        "competing": CompetingRisks(time, cause, ("relapse", "death")),
        "classes": Classes((cause == 1).astype(np.int64), ("no", "yes")),
    }
    return outcomes, rng.random(n).round(2)


kinds = pytest.mark.parametrize("kind", ["survival", "competing", "classes"])


@kinds
def test_an_influence_is_the_derivative_of_the_curve_by_each_weight(kind):
    outcomes, p = drawn(7)
    horizon = None if kind == "classes" else 12
    benefit = NetBenefit(outcomes[kind], p, [0.1, 0.4, 0.8, 0.999], horizon_months=horizon)
    step = 1e-5 * np.eye(80)
    moved = (benefit.curve(1 + step) - benefit.curve(1 - step)) / 2e-5
    assert benefit.influence == pytest.approx(moved.T, abs=1e-8)
    assert benefit.value == pytest.approx(benefit.curve(np.ones((1, 80)))[0], abs=1e-12)
    assert benefit.influence.sum(axis=1) == pytest.approx(0, abs=1e-12)
    assert not benefit.influence[3].any()  # nobody lies above 0.999


@kinds
def test_standard_errors_shrink_by_the_root_of_two_when_everybody_occurs_twice(kind):
    outcomes, p = drawn(8)
    horizon = None if kind == "classes" else 12
    once = net_benefit(outcomes[kind], p, [0.2, 0.5], horizon_months=horizon)
    index = np.tile(np.arange(80), 2)
    twice = net_benefit(outcomes[kind].take(index), p[index], [0.2, 0.5], horizon_months=horizon)
    assert twice.value == pytest.approx(once.value)
    assert twice.se == pytest.approx(once.se / np.sqrt(2))


def test_a_gain_over_the_same_prediction_is_exactly_nothing():
    outcomes, p = drawn(9)
    curve = decision_curve(outcomes["competing"], p, [0.2, 0.6], horizon_months=12, over=p)
    for value in (curve.gain, curve.gain_se, curve.gain_lower, curve.gain_upper):
        assert (value == 0).all()


def test_a_death_of_another_cause_counts_as_treated_without_need():
    time = np.array([1.0, 2, 3, 4, 9, 9])
    outcome = CompetingRisks(time, np.array([1, 2, 1, 0, 0, 0]), ("relapse", "death"))
    # Of six treated, by 5 months: relapse 1/6, and 1/4 of the 4/6 left after the death.
    share = 1 / 6 + 4 / 6 / 4
    found = net_benefit(outcome, np.full(6, 0.7), 0.5, horizon_months=5)
    assert found.value == pytest.approx(share - (1 - share))
    # The Kaplan-Meier curve of one cause would overstate it.
    alone = net_benefit(outcome.cause_specific(), np.full(6, 0.7), 0.5, horizon_months=5)
    assert alone.value > found.value


def test_with_one_cause_competing_risks_are_survival():
    outcomes, p = drawn(10)
    survival = outcomes["survival"]
    same = CompetingRisks(survival.time_months, survival.event.astype(np.int64), ("a", "b"))
    one = net_benefit(survival, p, [0.3, 0.5], horizon_months=12)
    two = net_benefit(same, p, [0.3, 0.5], horizon_months=12)
    assert (one.value, one.se) == pytest.approx((two.value, two.se), **exactly)


def test_net_benefits_of_repeats_are_averaged_and_not_their_predictions():
    outcomes, p = drawn(11)
    other = p[::-1]
    both = decision_curve(outcomes["survival"], [p, other], [0.5], horizon_months=12)
    each = [net_benefit(outcomes["survival"], q, 0.5, horizon_months=12) for q in (p, other)]
    assert both.net_benefit[0] == pytest.approx(np.mean([s.value for s in each]))
    assert both.se[0] == pytest.approx(
        np.sqrt(((each[0].influence + each[1].influence) ** 2).sum()) / 2
    )
    assert "mean of 2 repeats" in both.method


def test_thresholds_above_which_nobody_is_followed_to_the_horizon_are_marked():
    outcome = Survival.from_arrays([2, 4, 6, 20, 20, 5], [1, 1, 0, 0, 0, 1])
    p = [0.9, 0.8, 0.7, 0.3, 0.1, 0.1]
    curve = decision_curve(outcome, p, [0.2, 0.5, 0.85, 0.95], horizon_months=12)
    # Above 0.85 the only patient had an event: there is nothing left to follow.
    assert curve.followed.tolist() == [True, False, True, True]
    assert curve.n_above.tolist() == [4, 3, 1, 0]


def test_intervals_cover_the_true_net_benefit_about_as_often_as_they_say():
    rng = np.random.default_rng(12)
    p, horizon, hits = np.array([0.15, 0.35, 0.55, 0.75]), 10.0, []
    for _ in range(400):
        risk = rng.choice(p, 150)
        rate = -np.log(1 - risk) / horizon
        time, end = rng.exponential(1 / rate), rng.uniform(4, 30, 150)
        outcome = Survival(np.minimum(time, end), time <= end)
        found = net_benefit(outcome, risk, 0.3, horizon_months=horizon).interval()
        treated = p[1:]
        truth = (treated - (1 - treated) * 0.3 / 0.7).sum() / 4
        hits.append(found.lower <= truth <= found.upper)
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize(
    "outcome",
    [
        Survival.from_arrays([4, 5, 9], [1, 0, 1], [0, 1, 0]),
        CompetingRisks(
            np.array([4.0, 5, 9]), np.array([1, 0, 2]), ("a", "b"), np.array([0.0, 1, 0])
        ),
    ],
    ids=["survival", "competing"],
)
def test_entry_times_are_refused(outcome):
    with pytest.raises(StatisticsError, match="left truncation"):
        net_benefit(outcome, [0.1, 0.5, 0.9], 0.5, horizon_months=5)


def test_a_missing_prediction_is_refused_with_its_row():
    with pytest.raises(StatisticsError, match="row 1"):
        net_benefit(Survival.from_arrays([1, 2], [1, 0]), [0.2, np.nan], 0.5, horizon_months=1)


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
    assert ((curve.lower < curve.net_benefit) & (curve.net_benefit < curve.upper)).all()


@pytest.mark.parametrize("cut", [0, 1, 1.2, -0.1])
def test_a_threshold_that_is_no_probability_is_refused(lung, cut):
    with pytest.raises(StatisticsError, match="strictly between 0 and 1"):
        net_benefit(lung.outcome, lung.probability, cut, horizon_months=12)


def test_a_horizon_beyond_the_follow_up_is_refused(lung):
    with pytest.raises(StatisticsError, match="first event to last follow-up"):
        net_benefit(lung.outcome, lung.probability, 0.5, horizon_months=120)
