from __future__ import annotations

import numpy as np
import pytest
from sksurv.metrics import brier_score

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.overall import brier, brier_scaled

exactly = {"rel": 0, "abs": 1e-9}


@pytest.mark.golden("horizon")
def test_brier_and_its_scaled_form_are_those_of_risk_regression(golden):
    r, horizon = golden.r("horizon"), golden.case.horizon_months
    score = brier(golden.outcome, golden.probability, horizon_months=horizon)
    scaled = brier_scaled(golden.outcome, golden.probability, horizon_months=horizon)
    assert (score.value, scaled.value) == pytest.approx((r["brier"], r["ipa"]), **exactly)


def test_brier_is_that_of_scikit_survival_where_no_event_ties_with_a_censoring(random_cohort):
    # scikit-survival weights by G(T), R and we by G(T-): the same where nothing ties.
    outcome, risk = random_cohort(2, 70, months=False)
    probability = 1 / (1 + np.exp(-risk))
    array = outcome.to_structured()
    theirs = brier_score(array, array, 1 - probability[:, None], [12.0])[1][0]
    assert brier(outcome, probability, horizon_months=12).value == pytest.approx(theirs, **exactly)


def test_without_censoring_brier_is_the_mean_squared_error(cases):
    case = cases["all_events"]
    happened = (case.table["time"] <= case.horizon).to_numpy()
    p = case.column("probability")
    found = brier(case.outcome, p, horizon_months=case.horizon_months).value
    assert found == pytest.approx(np.mean((happened - p) ** 2), **exactly)


def test_the_average_risk_for_everybody_has_a_scaled_brier_of_zero(lung):
    horizon = lung.case.horizon_months
    average = 1 - kaplan_meier(lung.outcome).at(horizon).value
    scaled = brier_scaled(lung.outcome, np.full(227, average), horizon_months=horizon)
    assert scaled.value == pytest.approx(0, abs=1e-12)


def test_two_classes_need_no_horizon():
    outcome = Classes(np.array([0, 1, 1]), ("no", "yes"))
    assert brier(outcome, [0.2, 0.5, 1.0]).value == pytest.approx((0.04 + 0.25) / 3)
    assert brier_scaled(outcome, [0.0, 1.0, 1.0]).value == pytest.approx(1)


def test_a_weight_of_two_is_a_patient_who_occurs_twice(random_cohort):
    outcome, risk = random_cohort(9, 60)
    p = 1 / (1 + np.exp(-risk))
    counts = np.random.default_rng(4).integers(0, 4, 60)
    index = np.repeat(np.arange(60), counts)
    for metric in (brier, brier_scaled):
        weighted = metric(outcome, p, horizon_months=12).under(counts[None].astype(float))[0]
        repeated = metric(outcome.take(index), p[index], horizon_months=12).value
        assert weighted == pytest.approx(repeated, **exactly)


def test_weights_from_development_patients_are_used(random_cohort):
    outcome, risk = random_cohort(9, 60)
    p = 1 / (1 + np.exp(-risk))
    never_censored = Survival.from_arrays(np.arange(1, 100), np.ones(99))
    # With G = 1 the censored simply drop out of the sum.
    t, e = outcome.time_months, outcome.event
    expected = np.mean(np.where(t > 12, p**2, np.where(e, (1 - p) ** 2, 0)))
    found = brier(outcome, p, horizon_months=12, censoring=never_censored).value
    assert found == pytest.approx(expected, **exactly)


def test_illegal_probabilities_and_horizons_are_refused():
    outcome = Survival.from_arrays([1.0, 3.0, 6.0], [1, 1, 0])
    with pytest.raises(StatisticsError, match=r"row 2 \(1\.5\)"):
        brier(outcome, [0.1, 0.2, 1.5], horizon_months=3)
    with pytest.raises(StatisticsError, match="horizon_months"):
        brier(outcome, [0.1, 0.2, 0.5])
    with pytest.raises(StatisticsError, match=r"\[1, 6\)"):
        brier(outcome, [0.1, 0.2, 0.5], horizon_months=6)
    late = Survival.from_arrays([1.0, 3.0, 6.0], [1, 1, 0], [0, 1, 0])
    with pytest.raises(StatisticsError, match="entry times"):
        brier(late, [0.1, 0.2, 0.5], horizon_months=3)
