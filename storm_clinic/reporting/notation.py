"""How numbers, intervals and names are printed: one way everywhere on the page."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

from storm_clinic.validation.evidence import Estimate
from storm_clinic.validation.measures import MEASURES, base_of

ABSENT = "–"
_MINUS = "\N{MINUS SIGN}"
_GAIN_DIGITS = 3


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """A number with fixed decimals and a true minus sign; an en dash where there is none."""
    if value is None:
        return ABSENT
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", _MINUS)


def digits_of(estimate: Estimate) -> int:
    """Decimals of a measure, and more where an end of a gain would be rounded onto zero.

    A gain of 0.0004 must not read as 0.000: its sign is what the sentence around it says.
    """
    if not estimate.metric.endswith("_gain"):
        measure = MEASURES.get(base_of(estimate.metric))
        return measure.digits if measure else 3
    ends = [abs(x) for x in (estimate.value, estimate.lower, estimate.upper) if x]
    smallest = min(ends, default=1.0)
    if smallest >= 0.5 * 10**-_GAIN_DIGITS:
        return _GAIN_DIGITS
    return min(6, -floor(log10(smallest)))


def value_of(estimate: Estimate) -> str:
    """The value alone; a gain carries its sign."""
    signed = estimate.metric.endswith("_gain")
    return number(estimate.value, digits_of(estimate), signed=signed)


def interval_of(estimate: Estimate) -> str:
    """The interval alone, e.g. ``0.66 to 0.76``; an en dash where there is none."""
    if estimate.lower is None or estimate.upper is None:
        return ABSENT
    digits = digits_of(estimate)
    signed = estimate.metric.endswith("_gain")
    low, high = (number(x, digits, signed=signed) for x in (estimate.lower, estimate.upper))
    return f"{low} to {high}"


def in_words(estimate: Estimate) -> str:
    """Value and interval for running text, e.g. ``0.71 (95% interval 0.66 to 0.76)``."""
    if estimate.value is None:
        return f"not estimable ({estimate.note})"
    if estimate.lower is None:
        return f"{value_of(estimate)} (no interval: {estimate.note})"
    return f"{value_of(estimate)} (95% interval {interval_of(estimate)})"


def p_value(p: float | None) -> str:
    """``p = 0.031``, or ``p < 0.001``."""
    if p is None:
        return ABSENT
    return "p < 0.001" if p < 0.001 else f"p = {p:.{2 if p >= 0.1 else 3}f}"


def count(n: int) -> str:
    """A count with a thin space between thousands."""
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def share(part: int, whole: int) -> str:
    """A share in whole per cent, never 0% or 100% unless it is exactly that."""
    if whole == 0:
        return ABSENT
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "<1%"
    if 99 < percent < 100:
        return ">99%"
    return f"{percent:.0f}%"


def months(value: float) -> str:
    """``36 months``."""
    return f"{value:g} month{'' if value == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def readable(name: str) -> str:
    """A column's name as words: ``age_band`` is ``age band``."""
    return name.replace("_", " ")
