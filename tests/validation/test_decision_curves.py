"""Decision curves of whole evaluations: what is drawn, where it stops, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.metrics.utility import net_benefit, net_benefit_treat_all
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.decision_curves import decision_curves
from storm_clinic.validation.evaluation_data import EvaluationData

CUTS = (0.1, 0.2, 0.3, 0.4)


def model(name, n, *, columns, repeats=1, fold=-1):
    risk = tuple(np.linspace(0, 1, n) for _ in range(repeats))
    return ModelPredictions(name, risk, tuple(np.full(n, fold) for _ in range(repeats)), columns)


def evaluation(outcome, models, **changes):
    parts = {
        "cohort": "b",
        "kind": "external",
        "outcome": outcome,
        "models": models,
        "endpoint": Endpoint(name="pfi", horizons_months=(12, 24), tau_months=36),
        "candidate": "fusion",
        "comparator": "clinical",
        "seed": 1,
        "thresholds": CUTS,
    }
    return EvaluationData(**(parts | changes))


@pytest.fixture
def cohort():
    rng = np.random.default_rng(3)
    n = 120
    good, poor = rng.beta(2, 3, n), rng.beta(2, 3, n)
    rate = -np.log(1 - good) / 24
    cause = rng.integers(1, 3, n)
    time, end = np.ceil(rng.exponential(1 / rate)), np.ceil(rng.uniform(10, 60, n))
    happened = time <= end
    months = np.minimum(time, end)
    columns = [{"risk_at_12m": (p / 2,), "risk_at_24m": (p,)} for p in (good, poor)]
    models = (model("fusion", n, columns=columns[0]), model("clinical", n, columns=columns[1]))
    return {
        "survival": evaluation(Survival(months, happened), models),
        "competing": evaluation(
            CompetingRisks(months, happened * cause, ("relapse", "death")), models
        ),
    }


@pytest.mark.parametrize("kind", ["survival", "competing"])
def test_every_model_has_a_curve_at_every_horizon_equal_to_its_net_benefits(cohort, kind):
    data = cohort[kind]
    curves = decision_curves(data)
    assert [(c.model, c.horizon_months) for c in curves] == [
        (name, horizon) for name in ("fusion", "clinical") for horizon in (12, 24)
    ]
    for curve in curves:
        p = data.model(curve.model).risk_by(curve.horizon_months)[0]
        for k, cut in enumerate(curve.thresholds):
            one = net_benefit(data.outcome, p, cut, horizon_months=curve.horizon_months)
            interval = one.interval()
            everybody = net_benefit_treat_all(
                data.outcome, cut, horizon_months=curve.horizon_months
            )
            assert curve.net_benefit[k] == pytest.approx(one.value)
            assert (curve.lower[k], curve.upper[k]) == pytest.approx(
                (interval.lower, interval.upper)
            )
            assert curve.treat_all[k] == pytest.approx(everybody.value)
    assert {"survival": "Kaplan-Meier", "competing": "Aalen-Johansen"}[kind] in curves[0].method


def test_the_gain_over_the_comparator_is_paired(cohort):
    data = cohort["survival"]
    curve = decision_curves(data)[1]
    assert curve.over == "clinical"
    for k, cut in enumerate(curve.thresholds):
        ours, theirs = (
            net_benefit(data.outcome, m.risk_by(24)[0], cut, horizon_months=24) for m in data.models
        )
        gain = (ours - theirs).interval()
        assert (curve.gain[k], curve.gain_lower[k], curve.gain_upper[k]) == pytest.approx(
            (gain.value, gain.lower, gain.upper)
        )


def test_the_comparator_has_no_gain_over_itself_and_nobody_has_without_one(cohort):
    data = cohort["survival"]
    assert all(
        c.over is None and c.gain == () for c in decision_curves(data) if c.model == "clinical"
    )
    alone = decision_curves(replace(data, comparator=None))
    assert all(c.over is None and c.gain == () and not c.note for c in alone)


def test_without_thresholds_nothing_is_drawn(cohort):
    assert decision_curves(replace(cohort["survival"], thresholds=())) == ()


def test_a_curve_stops_where_nobody_is_above_a_threshold(cohort):
    data = replace(cohort["survival"], thresholds=(0.2, 0.4, 0.6, 0.8))
    curve = decision_curves(data)[0]  # risks at 12 months end below one half
    assert curve.thresholds == (0.2, 0.4)
    assert len(curve.gain) == len(curve.upper) == len(curve.treat_all) == 2
    assert curve.note == (
        "the curve stops before 0.6: no patient has a predicted risk at or above it"
    )


def followed_briefly():
    """Everybody above 0.35 is lost by month 10."""
    rng = np.random.default_rng(4)
    p = np.repeat([0.15, 0.25, 0.5], 20)
    time = np.where(p > 0.35, rng.uniform(2, 10, 60), rng.uniform(2, 40, 60))
    event = rng.random(60) < 0.4
    event[np.argmax(np.where(p > 0.35, time, 0))] = False
    return Survival(time, event), p


def test_a_curve_stops_where_follow_up_ends_before_the_horizon():
    outcome, p = followed_briefly()
    models = (model("fusion", 60, columns={"risk_at_12m": (p,), "risk_at_24m": (p,)}),)
    curve = decision_curves(evaluation(outcome, models, comparator=None))[0]
    assert curve.thresholds == (0.1, 0.2)
    assert "stops before 0.3: nobody with a predicted risk at or above it is followed" in curve.note


def test_a_comparator_whose_patients_are_lost_stops_the_gain_and_says_whose_they_are():
    outcome, p = followed_briefly()
    even = np.tile(np.linspace(0.15, 0.6, 20), 3)
    models = (
        model("fusion", 60, columns={"risk_at_12m": (even,)}),
        model("clinical", 60, columns={"risk_at_12m": (p,)}),
    )
    endpoint = Endpoint(name="pfi", horizons_months=(12,))
    curve = decision_curves(evaluation(outcome, models, endpoint=endpoint))[0]
    assert curve.thresholds == (0.1, 0.2)
    assert "treated by clinical" in curve.note
    late = evaluation(outcome, models, endpoint=endpoint, thresholds=(0.3, 0.4))
    curve = decision_curves(late)[0]
    assert (curve.thresholds, curve.gain, curve.over) == ((0.3, 0.4), (), None)
    assert "no gain: nobody treated by clinical at 0.3" in curve.note


@pytest.mark.parametrize("columns", [{}, {"risk_at_12m": (np.full(60, np.nan),)}])
def test_a_model_without_probabilities_is_named_and_not_dropped(columns):
    outcome, p = followed_briefly()
    models = (
        model("fusion", 60, columns={"risk_at_12m": (np.clip(p, 0, 0.3),)}),
        model("clinical", 60, columns=columns),
    )
    endpoint = Endpoint(name="pfi", horizons_months=(12,))
    fusion, clinical = decision_curves(evaluation(outcome, models, endpoint=endpoint))
    assert clinical.thresholds == ()
    assert clinical.note == "clinical predicted no risk by 12 months"
    assert fusion.thresholds == (0.1, 0.2)
    assert (fusion.over, fusion.gain) == (None, ())
    assert "no gain: clinical predicted no risk" in fusion.note


def test_a_horizon_beyond_the_follow_up_gives_an_empty_curve_with_the_range(cohort):
    data = cohort["survival"]
    p = {"risk_at_240m": (np.linspace(0.1, 0.9, 120),)}
    far = replace(
        data,
        endpoint=Endpoint(name="pfi", horizons_months=(240,)),
        models=(model("fusion", 120, columns=p),),
        comparator=None,
    )
    (curve,) = decision_curves(far)
    assert curve.thresholds == ()
    assert "first event to last follow-up" in curve.note


def test_entry_times_and_cohorts_without_events_give_reasons_and_no_numbers(cohort):
    data = cohort["survival"]
    o = data.outcome
    late = replace(data, outcome=Survival(o.time_months, o.event, o.time_months / 2))
    assert all("left truncation" in c.note and not c.thresholds for c in decision_curves(late))
    calm = replace(data, outcome=Survival(o.time_months, np.zeros(120, dtype=bool)))
    assert all("no event" in c.note and not c.thresholds for c in decision_curves(calm))


def test_two_classes_have_one_curve_a_model_and_more_than_two_a_reason():
    label = np.arange(60) % 2
    p = np.clip(0.3 + 0.3 * label + np.linspace(-0.2, 0.2, 60), 0, 1)
    models = (model("fusion", 60, columns={"p_yes": (p,)}),)
    data = evaluation(Classes(label, ("no", "yes")), models, comparator=None)
    (curve,) = decision_curves(data)
    assert (curve.horizon_months, curve.thresholds, curve.note) == (None, CUTS, "")
    assert curve.net_benefit[2] == pytest.approx(net_benefit(data.outcome, p, 0.3).value)
    three = replace(data, outcome=Classes(np.arange(60) % 3, ("a", "b", "c")))
    (curve,) = decision_curves(three)
    assert (curve.thresholds, curve.model) == ((), "fusion")
    assert "two classes" in curve.note


def test_repeats_of_cross_validation_are_averaged_and_labelled(cohort):
    data = cohort["survival"]
    rng = np.random.default_rng(5)
    repeats = tuple(rng.beta(2, 3, 120) for _ in range(3))
    cross = replace(
        data,
        kind="cross-validation",
        comparator=None,
        endpoint=Endpoint(name="pfi", horizons_months=(24,)),
        models=(model("fusion", 120, columns={"risk_at_24m": repeats}, repeats=3, fold=0),),
    )
    (curve,) = decision_curves(cross)
    each = [net_benefit(data.outcome, p, 0.2, horizon_months=24).value for p in repeats]
    assert curve.net_benefit[1] == pytest.approx(np.mean(each))
    assert "mean of 3 repeats" in curve.method
    assert "supports no claim" in curve.note
