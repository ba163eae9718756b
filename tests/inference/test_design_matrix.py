"""Covariates become columns by declared rules; whatever is left out is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.design_matrix import Coding, only


def table() -> pd.DataFrame:
    stage = pd.Categorical(["I", "II", None, "II"], ["I", "II", "III"], ordered=True)
    sex = pd.Categorical(["m", "f", "f", "f"], ["m", "f"])
    return pd.DataFrame({"age": [50.0, np.nan, 60, 70], "stage": stage, "sex": sex})


def test_numbers_stay_and_levels_become_columns_beside_their_reference():
    design = Coding.of(table()).design(table())
    assert design.names == ("age", "stage: II", "sex: m")
    assert design.terms == {"age": (0,), "stage": (1,), "sex": (2,)}
    expected = [[50, 0, 1], [np.nan, 1, 0], [60, np.nan, 0], [70, 1, 0]]
    np.testing.assert_array_equal(design.matrix, expected)


def test_the_reference_is_the_most_frequent_level_or_the_first_of_an_order():
    columns = {column.name: column.levels for column in Coding.of(table()).columns}
    assert columns["sex"] == ("f", "m")
    assert columns["stage"] == ("I", "II")


def test_levels_nobody_has_are_said():
    assert "stage: no patient is III." in Coding.of(table()).notes


def test_what_never_varies_or_is_never_known_is_left_out_and_said():
    odd = pd.DataFrame(
        {
            "site": pd.Categorical(["a"] * 3),
            "bmi": [np.nan] * 3,
            "dose": [2.0, 2.0, np.nan],
            "text": ["x", "y", "z"],
        }
    )
    coding = Coding.of(odd)
    assert coding.columns == ()
    assert coding.notes == (
        "site: the same in all patients; left out.",
        "bmi: no value is known; left out.",
        "dose: the same in all patients; left out.",
        "text: neither numbers nor declared levels; left out.",
    )
    assert coding.design(odd).matrix.shape == (3, 0)


def test_a_completed_table_is_coded_as_the_one_with_gaps():
    coding = Coding.of(table())
    filled = table().assign(sex=pd.Categorical(["m", "m", "m", "f"], ["m", "f"]))
    # The most frequent level is now another; the reference stays.
    np.testing.assert_array_equal(coding.design(filled).matrix[:, 2], [1, 1, 1, 0])


def test_a_level_unknown_to_the_coding_is_refused():
    coding = Coding.of(table())
    later = table().assign(stage=pd.Categorical(["III"] * 4, ["I", "II", "III"], ordered=True))
    with pytest.raises(StatisticsError, match="stage: level 'III' of 4 patients"):
        coding.design(later)


def test_patients_without_gaps_are_the_complete_ones():
    design = Coding.of(table()).design(table())
    assert design.complete.tolist() == [True, False, False, True]
    assert design.take(design.complete).matrix.shape == (2, 3)


def test_a_column_in_front_moves_the_terms_and_can_be_taken_out_again():
    design = Coding.of(table()).design(table())
    longer = design.behind("risk", [1, 2, 3, 4])
    assert longer.names[0] == "risk"
    assert longer.terms == {"risk": (0,), "age": (1,), "stage": (2,), "sex": (3,)}
    assert longer.without("risk").terms == design.terms
    np.testing.assert_array_equal(longer.without("risk").matrix, design.matrix)


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(StatisticsError, match="two terms are named 'risk'"):
        only("risk", [1.0, 2.0]).behind("risk", [1.0, 2.0])
