"""Predictions and outcomes are about the same patients, or nothing is computed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storm_clinic.errors import PredictionsError
from storm_clinic.predictions import Predictions
from storm_clinic.validation.alignment import align


def test_rows_are_brought_into_the_order_of_the_outcomes(external, keys, hidden):
    shuffled = Predictions(external.table.sample(frac=1, random_state=0).reset_index(drop=True))
    models = {m.model: m for m in align(shuffled, keys, cohort="b", kind="external")}
    assert set(models) == {"clinical", "image", "fusion"}
    np.testing.assert_array_equal(models["clinical"].risk[0], hidden["clinic"])


def test_a_patient_without_a_prediction_is_an_error_that_counts(external, keys):
    short = Predictions(external.table[external.table["patient_key"] != "key7"])
    with pytest.raises(PredictionsError, match="1 patients with an outcome have no prediction"):
        align(short, keys, cohort="b", kind="external")


def test_a_patient_without_an_outcome_is_an_error_that_counts(external, keys):
    with pytest.raises(PredictionsError, match="2 with a prediction have no outcome"):
        align(external, keys[2:], cohort="b", kind="external")


def test_the_message_names_no_patient(external, keys):
    with pytest.raises(PredictionsError) as caught:
        align(external, [*keys[1:], "secret"], cohort="b", kind="external")
    assert "secret" not in str(caught.value)
    assert "key0" not in str(caught.value)


def test_an_absent_cohort_is_named_with_those_that_are_there(external, keys):
    with pytest.raises(PredictionsError, match=r"no row for cohort 'c'.*Cohorts there: b"):
        align(external, keys, cohort="c", kind="external")


def test_other_cohorts_rows_are_not_looked_at(external, keys, rows):
    other = rows(["elsewhere"], np.zeros(1), "clinical", cohort="c")
    both = Predictions(pd.concat([external.table, other], ignore_index=True))
    assert len(align(both, keys, cohort="b", kind="external")) == 3


def test_cross_validated_rows_are_no_external_validation(keys, hidden, rows):
    folds = np.arange(150) % 5
    table = rows(keys, hidden["clinic"], "clinical", repeat=0, fold=folds)
    with pytest.raises(PredictionsError, match="folds of a cross-validation"):
        align(Predictions(table), keys, cohort="b", kind="external")


def test_rows_without_a_fold_are_no_cross_validation(external, keys):
    with pytest.raises(PredictionsError, match="150 rows have no fold"):
        align(external, keys, cohort="b", kind="cross-validation")


def test_a_validation_cohort_is_scored_once(external, keys):
    again = external.table.assign(repeat=1)
    twice = Predictions(pd.concat([external.table, again], ignore_index=True))
    with pytest.raises(PredictionsError, match="scored once"):
        align(twice, keys, cohort="b", kind="external")


def test_a_key_given_twice_is_refused(external, keys):
    with pytest.raises(PredictionsError, match="given twice"):
        align(external, [*keys, "key0"], cohort="b", kind="external")
