"""Simulated patients follow the effects that their datasheet states, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sksurv.linear_model import CoxPHSurvivalAnalysis

from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.patients import (
    AGE_EFFECT,
    MORPHOLOGY_EFFECT,
    RESPONSE_EFFECT,
    STAGE_EFFECT,
    STAGES,
    simulate_patients,
)
from storm_clinic.simulate.slide_plan import plan_slides, slides_table

MANY = 6000
AS_FIRST_SHIPPED = (
    [
        "bbbb2ec15af8377888f9b178ad0b70f7763429e579e096d3aefb528a118adcfc",
        "d1e12234a85ea8a381cda82efc3aaee5549f8123f02d31043107ee14b28f52c1",
    ],
    [
        "a544a4e54fc2e251c8919b909dd2290ca3b2ce86ee0498b226b17b1ff668c4a5",
        "320c519f0eaa49c98f65e5613d1c500845d4aa43985f46b0f3effb6a55f0c0eb",
    ],
)


@pytest.fixture(scope="module", params=HOSPITALS, ids=lambda hospital: hospital.cohort)
def many(request):
    """Complete cases of a hospital with thousands of patients: score, age, stage; and the table."""
    hospital = replace(request.param, n_patients=MANY)
    patients = simulate_patients(hospital, np.random.default_rng(11))
    table = patients.table
    share = patients.planted_share
    known = (table["age"] != "") & (table["stage"] != "unknown") & (share > 0.03) & (share < 0.97)
    covariates = np.column_stack(
        [
            (np.log(share / (1 - share)) + 0.2) / 1.5,
            pd.to_numeric(table["age"], errors="coerce") / 10,
            table["stage"].map({name: k for k, name in enumerate(STAGES)}),
        ]
    )
    return hospital, table[known], covariates[known].astype(float)


def outcome(hospital, table, endpoint):
    event = table[f"{endpoint}_status"].isin(["1", "event"])
    time = table[f"{endpoint}_{hospital.time_unit}"].astype(float)
    return np.array(list(zip(event, time, strict=True)), dtype=[("event", bool), ("time", float)])


def test_progression_follows_morphology_age_and_stage_as_stated(many):
    hospital, table, covariates = many
    fitted = CoxPHSurvivalAnalysis(ties="efron").fit(covariates, outcome(hospital, table, "pfs"))
    # Standard errors at this size are about 0.03; months are rounded up, which costs a little.
    stated = [MORPHOLOGY_EFFECT, AGE_EFFECT, STAGE_EFFECT]
    np.testing.assert_allclose(fitted.coef_, stated, atol=0.1)


def test_the_control_follows_nothing(many):
    hospital, table, covariates = many
    fitted = CoxPHSurvivalAnalysis().fit(covariates, outcome(hospital, table, "control"))
    np.testing.assert_allclose(fitted.coef_, 0, atol=0.08)


def test_response_follows_morphology_alone(many):
    _, table, covariates = many
    fitted = LogisticRegression(C=1e6).fit(covariates, table["response"] == "yes")
    np.testing.assert_allclose(fitted.coef_[0], [-RESPONSE_EFFECT, 0, 0], atol=0.15)


@pytest.mark.parametrize("endpoint", ["pfs", "control"])
def test_a_little_under_half_are_censored_and_times_are_tied(many, endpoint):
    hospital, table, _ = many
    seen = outcome(hospital, table, endpoint)
    assert 0.38 < 1 - seen["event"].mean() < 0.50
    assert len(np.unique(seen["time"])) <= 60
    assert seen["time"].min() >= 1


def test_some_ages_and_stages_are_missing():
    hospital = replace(HOSPITALS[0], n_patients=MANY)
    table = simulate_patients(hospital, np.random.default_rng(0)).table
    assert 0.04 < (table["age"] == "").mean() < 0.08
    assert 0.08 < (table["stage"] == "unknown").mean() < 0.12
    assert set(table["hospital_site"]) == set(hospital.sites)


def test_the_planted_share_is_in_no_column():
    patients = simulate_patients(HOSPITALS[0], np.random.default_rng(0))
    assert list(patients.table.columns) == [
        "patient",
        "hospital_site",
        "age",
        "stage",
        "sex",
        "pfs_months",
        "pfs_status",
        "control_months",
        "control_status",
        "response",
        "grade",
        "outcome_months",
        "outcome_status",
    ]


def test_later_endpoints_left_earlier_columns_and_slides_as_they_were():
    """SHA-256 of the first ten columns and of the slides, as shipped before there were more."""
    for number, (hospital, digests) in enumerate(zip(HOSPITALS, AS_FIRST_SHIPPED, strict=False)):
        rng = np.random.default_rng((20261123, number))
        patients = simulate_patients(hospital, rng)
        slides = slides_table(hospital, plan_slides(hospital, patients, rng))
        tables = (patients.table.iloc[:, :10], slides)
        found = [sha256(table.to_csv(index=False).encode()).hexdigest() for table in tables]
        assert found == digests


def test_hidden_truth_and_outcomes_are_those_of_the_table(many):
    hospital, table, covariates = many
    patients = simulate_patients(hospital, np.random.default_rng(11))
    hidden = patients.hidden.loc[table.index]
    assert (hidden["age"] / 10 == covariates[:, 1]).all()
    assert (hidden["stage"] == covariates[:, 2]).all()
    np.testing.assert_allclose(hidden["score"], covariates[:, 0], atol=1e-9)
    for endpoint in ("pfs", "control"):
        seen = outcome(hospital, patients.table, endpoint)
        kept = patients.outcomes[endpoint]
        assert (kept.event == seen["event"]).all()
        per_month = 30.4375 if hospital.time_unit == "days" else 1
        assert np.abs(kept.time_months * per_month - seen["time"]).max() <= 0.5
