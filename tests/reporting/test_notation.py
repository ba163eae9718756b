"""Numbers are printed one way, and rounding never changes what they say."""

from __future__ import annotations

import pytest

from storm_clinic.reporting.notation import (
    count,
    in_words,
    interval_of,
    listed,
    months,
    number,
    p_value,
    share,
    value_of,
)
from storm_clinic.validation.evidence import Estimate


def made(metric: str, value, lower, upper, note: str = "") -> Estimate:
    return Estimate(
        metric=metric,
        value=value,
        lower=lower,
        upper=upper,
        n_patients=10,
        n_events=5,
        method="m",
        cohort="c",
        model="m",
        note=note,
    )


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (0.714, 2, False, "0.71"),
        (-0.031, 2, False, "−0.03"),
        (0.031, 3, True, "+0.031"),
        (-0.0004, 2, False, "0.00"),  # no minus in front of zero
        (0.0004, 2, True, "0.00"),
        (None, 2, False, "–"),
    ],
)
def test_numbers(value, digits, signed, text):
    assert number(value, digits, signed=signed) == text


@pytest.mark.parametrize(
    ("lower", "upper", "text"),
    [
        (0.012, 0.08, "+0.012 to +0.080"),
        (0.0003, 0.08, "+0.0003 to +0.0800"),
        (-0.00004, 0.08, "−0.00004 to +0.08000"),
        (0.0, 0.08, "0.000 to +0.080"),
    ],
)
def test_an_end_of_a_gain_is_never_rounded_onto_zero(lower, upper, text):
    assert interval_of(made("c_index_gain", 0.04, lower, upper)) == text


def test_a_value_without_an_interval_says_why():
    assert in_words(made("c_index", 0.7, None, None, "too few")) == "0.70 (no interval: too few)"
    assert in_words(made("c_index", None, None, None, "short")) == "not estimable (short)"


def test_a_value_with_its_interval():
    assert in_words(made("c_index", 0.7, 0.65, 0.75)) == "0.70 (95% interval 0.65 to 0.75)"
    assert value_of(made("brier", 0.1234, 0.1, 0.2)) == "0.123"


@pytest.mark.parametrize(
    ("p", "text"), [(0.00001, "p < 0.001"), (0.0312, "p = 0.031"), (0.31, "p = 0.31"), (None, "–")]
)
def test_p_values(p, text):
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 10, "0%"), (1, 1000, "<1%"), (999, 1000, ">99%"), (10, 10, "100%"), (0, 0, "–")],
)
def test_shares_are_never_rounded_to_nobody_or_everybody(part, whole, text):
    assert share(part, whole) == text


def test_lists_counts_and_months_read_as_words():
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert count(12345) == "12\u202f345"
    assert (months(1), months(36)) == ("1 month", "36 months")
