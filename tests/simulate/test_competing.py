"""Relapse and death follow what is stated, and which comes first has its closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.integrate import quad
from sksurv.metrics import concordance_index_censored
from sksurv.nonparametric import cumulative_incidence_competing_risks

from storm_clinic.simulate.competing import (
    DEATH_AGE_EFFECT,
    DEATH_SCORE_EFFECT,
    RELAPSE_SCORE_EFFECT,
    log_hazards,
    true_incidence,
)
from storm_clinic.simulate.event_times import SHAPE
from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.patients import simulate_patients

MEDIAN = {1: 32.0, 2: 50.0}


@pytest.fixture(scope="module", params=HOSPITALS, ids=lambda hospital: hospital.cohort)
def many(request):
    """Thousands of patients: what is hidden, and time and cause as the table spells them."""
    hospital = replace(request.param, n_patients=8000)
    patients = simulate_patients(hospital, np.random.default_rng(13))
    words = {word: cause for cause, word in enumerate(hospital.words.first_event)}
    cause = patients.table["outcome_status"].map(words)
    per_month = 30.4375 if hospital.time_unit == "days" else 1.0
    time = patients.table[f"outcome_{hospital.time_unit}"].astype(float) / per_month
    return patients.hidden, time.to_numpy(), cause.to_numpy()


@pytest.mark.parametrize(
    ("cause", "stated"),
    [(1, [RELAPSE_SCORE_EFFECT, 0, 0]), (2, [DEATH_SCORE_EFFECT, DEATH_AGE_EFFECT, 0])],
    ids=["relapse", "death"],
)
def test_each_cause_has_the_stated_hazard_ratios(many, cause, stated):
    hidden, time, causes = many
    table = pd.DataFrame(
        {
            "score": hidden["score"],
            "decades": (hidden["age"] - 62) / 10,
            "stage": hidden["stage"],
            "time": time,
            "event": causes == cause,
        }
    )
    fitted = CoxPHFitter().fit(table, "time", "event")
    # Standard errors are about 0.03; months are rounded up, which costs a little.
    np.testing.assert_allclose(fitted.params_, stated, atol=0.1)


def test_incidence_is_the_integral_of_hazard_times_being_event_free():
    score, age = np.array([-1.5, 0.0, 0.8]), np.array([80.0, 62.0, 45.0])
    closed = true_incidence(score, age, np.array([6.0, 24.0, 60.0]))
    for patient in range(3):
        risk = [np.exp(part[patient]) for part in log_hazards(score, age)]

        def cumulative(month, cause, risk=risk):
            return risk[cause - 1] * np.log(2) * (month / MEDIAN[cause]) ** SHAPE

        def density(month, cause, cumulative=cumulative):
            hazard = SHAPE / month * cumulative(month, cause)
            return hazard * np.exp(-cumulative(month, 1) - cumulative(month, 2))

        for cause in (1, 2):
            for at, month in enumerate((6.0, 24.0, 60.0)):
                by_integration, _ = quad(density, 0, month, args=(cause,))
                assert closed[cause - 1, patient, at] == pytest.approx(by_integration, abs=1e-7)


def test_a_hospitals_incidences_are_the_mean_of_its_patients(many):
    hidden, time, cause = many
    months = np.array([6.0, 12.0, 24.0, 36.0])
    # Months are rounded up: whoever had an event by a whole month is counted by then.
    at, curves = cumulative_incidence_competing_risks(cause.astype(int), np.round(time))
    seen = curves[1:, np.searchsorted(at, months, side="right") - 1]
    stated = true_incidence(hidden["score"].to_numpy(), hidden["age"].to_numpy(), months).mean(
        axis=1
    )
    np.testing.assert_allclose(seen, stated, atol=0.02)  # standard errors are below 0.006


def test_all_endings_are_common_and_times_tied(many):
    hidden, time, cause = many
    assert np.bincount(cause.astype(int)).min() / len(cause) > 0.2
    assert len(np.unique(np.round(time))) <= 60
    assert (np.abs(time - np.round(time)) < 0.02).all()
    # Nobody is lost: who had neither event was followed to the closing day.
    closed = hidden["outcome_follow_up"].to_numpy()
    assert (np.round(time) <= closed).all()
    assert (np.round(time) == closed)[cause == 0].all()


def test_who_ranks_by_any_event_ranks_relapse_worse(many):
    hidden, time, cause = many
    score, age = hidden["score"].to_numpy(), hidden["age"].to_numpy()
    free = np.where(cause == 2, hidden["outcome_follow_up"], np.round(time))
    by_cause = true_incidence(score, age, np.array([12.0]))[:, :, 0]
    of_relapse, of_any = (
        concordance_index_censored(cause == 1, free, risk)[0]
        for risk in (by_cause[0], by_cause.sum(axis=0))
    )
    assert of_relapse - of_any > 0.05
