from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions, align
from storm_clinic.validation.decision_curves import decision_curves
from storm_clinic.validation.evaluation_data import EvaluationData

THRESHOLDS = (0.1, 0.3, 0.5)


@pytest.fixture
def data(external, keys, outcome) -> EvaluationData:
    return EvaluationData(
        cohort="b",
        kind="external",
        outcome=outcome,
        models=tuple(align(external, keys, cohort="b", kind="external")),
        endpoint=Endpoint(name="pfi", horizons_months=(12, 36)),
        candidate="fusion",
        comparator="clinical",
        seed=1,
        thresholds=THRESHOLDS,
    )


def changed(data: EvaluationData, **values) -> EvaluationData:
    return EvaluationData(**{**data.__dict__, **values})


def test_every_model_has_a_curve_at_every_horizon_by_its_definition(data):
    curves = decision_curves(data)
    assert [(c.model, c.horizon_months) for c in curves] == [
        (m.model, h) for h in (12, 36) for m in data.models
    ]
    [curve] = [c for c in curves if (c.model, c.horizon_months) == ("fusion", 36)]
    p = data.model("fusion").risk_by(36)[0]
    for k, cut in enumerate(THRESHOLDS):
        above = np.flatnonzero(p >= cut)
        risk = 1 - kaplan_meier(data.outcome.take(above)).at(36).value
        expected = len(above) / 150 * (risk - (1 - risk) * cut / (1 - cut))
        assert curve.net_benefit[k] == pytest.approx(expected, abs=1e-12)
        assert curve.lower[k] < expected < curve.upper[k]


def test_the_gain_is_over_the_comparator_and_it_has_none_itself(data):
    curves = {(c.model, c.horizon_months): c for c in decision_curves(data)}
    clinical, fusion = curves["clinical", 36], curves["fusion", 36]
    assert (clinical.over, clinical.gain) == (None, ())
    assert fusion.over == "clinical"
    difference = np.subtract(fusion.net_benefit, clinical.net_benefit)
    assert fusion.gain == pytest.approx(difference, abs=1e-12)
    # Paired: narrower than two independent curves would have it.
    widths = [np.subtract(c.upper, c.lower) for c in (clinical, fusion)]
    assert (np.subtract(fusion.gain_upper, fusion.gain_lower) < np.hypot(*widths)).all()


def test_without_a_range_of_thresholds_there_is_no_curve(data):
    assert decision_curves(changed(data, thresholds=())) == ()


def test_what_cannot_be_drawn_says_why(data):
    late = Endpoint(name="pfi", horizons_months=(240,))
    curves = decision_curves(changed(data, endpoint=late))
    assert {c.net_benefit for c in curves} == {()}
    assert all("no column risk_at_240m" in c.note for c in curves)


def test_thresholds_above_every_risk_are_named(data):
    [curve, *_] = decision_curves(changed(data, thresholds=(0.5, 0.9999)))
    assert curve.net_benefit[1] == 0
    assert "nobody has a risk of 0.9999 or more" in curve.note


def test_two_classes_have_one_curve_and_more_have_none(data):
    rng = np.random.default_rng(2)
    p = rng.uniform(size=150)
    outcome = Classes((rng.uniform(size=150) < p).astype(np.int64), ("no", "yes"))
    model = ModelPredictions("fusion", (p,), (np.full(150, -1),), {"p_yes": (p,)})
    found = decision_curves(changed(data, outcome=outcome, models=(model,), comparator=None))
    [curve] = found
    treated = p >= 0.3
    expected = (outcome.label[treated] - (1 - outcome.label[treated]) * 3 / 7).sum() / 150
    assert curve.net_benefit[1] == pytest.approx(expected, abs=1e-12)
    graded = Classes(np.arange(150) % 3, ("a", "b", "c"))
    assert decision_curves(changed(data, outcome=graded)) == ()
