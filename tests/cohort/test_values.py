from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storm_clinic.cohort.values import canonical, is_among, is_number, to_codes, to_numbers


@pytest.mark.parametrize("text", ["1", "1.0", "+1", "01", "1e0", "1.", "100e-2"])
def test_equal_numbers_have_one_spelling(text):
    assert canonical(text) == "1"


@pytest.mark.parametrize("text", ["", "one", "1:DECEASED", "nan", "inf", "1_000", " 1", "1,5", "٣"])
def test_text_that_is_no_number_stays_as_it_is(text):
    assert canonical(text) == text
    assert not is_number(pd.Series([text])).any()


def test_a_number_too_large_to_hold_is_none():
    assert not is_number(pd.Series(["1e999"])).any()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_survives_its_spelling(number):
    assert is_number(pd.Series([repr(number)])).all()
    assert float(canonical(repr(number))) == number


def test_cells_become_numbers_codes_and_gaps():
    cells = pd.Series(["1.0", "-9", "NA", "2"])
    assert is_among(cells, ["1", "-9.0"]).tolist() == [True, True, False, False]
    numbers = to_numbers(cells, ["NA", "-9"])
    assert numbers[[0, 3]].tolist() == [1.0, 2.0]
    assert math.isnan(numbers[1])
    assert math.isnan(numbers[2])
    assert to_codes(cells, {"1": 7, "2.0": 8}).tolist() == [7, -1, -1, 8]
