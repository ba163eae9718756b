"""Covariates become columns in one way, and what is left out is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.design_matrix import Coding


@pytest.fixture
def table() -> pd.DataFrame:
    stage = pd.Categorical(
        ["II", "I", "III", "II", None], categories=["I", "II", "III", "IV"], ordered=True
    )
    site = pd.Categorical(["x", "y", "y", "z", "y"], categories=["x", "y", "z"])
    return pd.DataFrame({"age": [50, 61, np.nan, 40, 70.0], "stage": stage, "site": site})


def test_ordered_levels_are_compared_with_the_first_and_others_with_the_most_frequent(table):
    coding = Coding.of(table)
    assert [v.reference for v in coding.variables] == ["", "I", "y"]
    assert coding.variables[1].columns == ("stage: II against I", "stage: III against I")


def test_a_level_that_nobody_has_gets_no_column_and_a_note(table):
    assert Coding.of(table).notes == ("no patient with stage IV",)


def test_columns_of_a_covariate_are_tested_together(table):
    coding = Coding.of(table)
    known = coding.complete(table)
    assert known.tolist() == [True, True, False, True, False]
    design = coding.design(table[known])
    assert design.terms == {"age": (0,), "stage": (1, 2), "site": (3, 4)}
    assert design.matrix.tolist() == [[50, 1, 0, 1, 0], [61, 0, 0, 0, 0], [40, 1, 0, 0, 1]]


def test_one_coding_serves_every_imputed_table(table):
    coding = Coding.of(table)
    filled = table.assign(age=table["age"].fillna(55), stage=table["stage"].fillna("I"))
    design = coding.design(filled)
    assert design.names == coding.design(table[coding.complete(table)]).names
    assert design.matrix.shape == (5, 5)


def test_a_risk_goes_in_front(table):
    coding = Coding.of(table[["age"]])
    design = coding.design(table.dropna()).before(np.ones(3), "risk")
    assert design.names == ("risk", "age")
    assert design.terms == {"risk": (0,), "age": (1,)}


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ([np.nan] * 5, "v is left out: no patient has a known value"),
        ([3.0, 3, np.nan, 3, 3], "v is left out: every known value is 3"),
        (pd.Categorical(["a", "a", None, "a", "a"], ["a", "b"]), "v is left out: every known"),
    ],
)
def test_a_covariate_that_says_nothing_is_left_out_with_its_reason(values, note):
    coding = Coding.of(pd.DataFrame({"v": values}))
    assert coding.variables == ()
    assert coding.notes[0].startswith(note)


def test_missing_values_new_levels_and_texts_are_refused(table):
    coding = Coding.of(table)
    with pytest.raises(StatisticsError, match="1 patients lack age"):
        coding.design(table)
    other = table.dropna().assign(site=pd.Categorical(["x", "y", "w"]))
    with pytest.raises(StatisticsError, match="site has levels that were not seen before: w"):
        coding.design(other)
    with pytest.raises(StatisticsError, match="neither a number nor a category"):
        Coding.of(pd.DataFrame({"v": ["a", "b"]}))
