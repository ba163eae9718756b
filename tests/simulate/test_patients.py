"""Simulated patients follow the effects that their datasheet states, and nothing else."""

from __future__ import annotations

from dataclasses import replace

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

MANY = 6000


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
    ]
