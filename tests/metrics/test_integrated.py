from __future__ import annotations

import numpy as np
import pytest
from sksurv.metrics import cumulative_dynamic_auc, integrated_brier_score

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.discrimination import dynamic_auc
from storm_clinic.metrics.integrated import integrated_auc, integrated_brier
from storm_clinic.metrics.overall import brier

exactly = {"rel": 0, "abs": 1e-9}


def predicted(risk: np.ndarray, times: np.ndarray) -> np.ndarray:
    return 1 - np.exp(-np.outer(np.exp(0.8 * risk), times / 24))


def test_the_integrated_brier_score_is_that_of_scikit_survival_without_ties(random_cohort):
    outcome, risk = random_cohort(2, 70, months=False)
    times = np.array([3.0, 7.0, 12.0, 20.0])
    p, array = predicted(risk, times), outcome.to_structured()
    theirs = integrated_brier_score(array, array, 1 - p, times)
    assert integrated_brier(outcome, p, times).value == pytest.approx(theirs, **exactly)


def test_the_integrated_auc_is_that_of_scikit_survival_without_ties(random_cohort):
    outcome, risk = random_cohort(2, 70, months=False)
    times = np.unique(outcome.time_months[outcome.event & (outcome.time_months <= 20)])
    array = outcome.to_structured()
    # It takes G(T) for every event, which is G(T-) where nothing ties.
    _, theirs = cumulative_dynamic_auc(array, array, risk, times)
    assert integrated_auc(outcome, risk, tau_months=20).value == pytest.approx(theirs, **exactly)


@pytest.mark.parametrize("name", ["lung", "lung_monthly", "veteran", "rossi", "all_events"])
def test_the_integrated_auc_is_the_mean_of_the_aucs_by_the_drop_of_kaplan_meier(cases, name):
    case = cases[name]
    outcome, risk, tau = case.outcome, case.column("risk"), case.horizon_months
    times = np.unique(outcome.time_months[outcome.event & (outcome.time_months <= tau)])
    free = np.array([1.0] + [kaplan_meier(outcome).at(t).value for t in times])
    areas = [dynamic_auc(outcome, risk, t).value for t in times]
    found = integrated_auc(outcome, risk, tau_months=tau)
    assert found.value == pytest.approx(np.average(areas, weights=-np.diff(free)), **exactly)


def test_a_weight_counts_as_so_many_patients(random_cohort):
    outcome, risk = random_cohort(4, 60)
    counts = np.random.default_rng(0).integers(0, 4, 60)
    index, row = np.repeat(np.arange(60), counts), counts[None].astype(float)
    auc = integrated_auc(outcome, risk, tau_months=20)
    repeated = integrated_auc(outcome.take(index), risk[index], tau_months=20)
    assert auc.under(row)[0] == pytest.approx(repeated.value, **exactly)
    p = predicted(risk, np.array([5.0, 15.0]))
    score = integrated_brier(outcome, p, [5, 15])
    again = integrated_brier(outcome.take(index), p[index], [5, 15])
    assert score.under(row)[0] == pytest.approx(again.value, **exactly)


def test_over_a_short_stretch_the_integrated_brier_score_is_the_brier_score():
    rng = np.random.default_rng(1)
    outcome = CompetingRisks(
        rng.uniform(0, 30, 80) + 1, rng.integers(0, 3, 80), ("relapse", "death")
    )
    p = rng.uniform(0, 1, 80)
    found = integrated_brier(outcome, np.stack([p, p], axis=1), [12, 12 + 1e-9])
    assert found.value == pytest.approx(brier(outcome, p, horizon_months=12).value, **exactly)


def test_in_a_resample_without_controls_there_is_no_integrated_auc(random_cohort):
    outcome, risk = random_cohort(4, 60)
    early = (outcome.time_months <= 20).astype(float)[None]
    assert np.isnan(integrated_auc(outcome, risk, tau_months=20).under(early)).all()


def test_illegal_times_are_refused(random_cohort):
    outcome, risk = random_cohort(4, 60)
    p = predicted(risk, np.array([5.0, 15.0]))
    with pytest.raises(StatisticsError, match="ascending"):
        integrated_brier(outcome, p, [15, 5])
    with pytest.raises(StatisticsError, match=r"shape \(60, 2\)"):
        integrated_brier(outcome, p, [5, 10, 15])
    with pytest.raises(StatisticsError, match="Legal are"):
        integrated_brier(outcome, p, [5, 500])
    with pytest.raises(StatisticsError, match="Legal are"):
        integrated_auc(outcome, risk, tau_months=500)
    late = Survival(outcome.time_months, outcome.event, np.full(60, 0.25))
    with pytest.raises(StatisticsError, match="entry times"):
        integrated_auc(late, risk, tau_months=20)
