"""Cells and phrases of the numbers that analyses give: intervals, tests, contrasts."""

from __future__ import annotations

from collections.abc import Sequence

from storm_clinic.reporting.notation import ABSENT, number
from storm_clinic.reporting.tables import Cell, Footnotes, Row, Table, Value
from storm_clinic.validation.analyses import Bounded, HypothesisTest
from storm_clinic.validation.measures import MEASURES, base_of

EXPLORATORY = "exploratory"
# Conventional level at which a test's result is put into words.
LEVEL = 0.05


def digits_of_metric(metric: str) -> int:
    """Decimals of a measure, and of its gain."""
    if metric.endswith("_gain"):
        return 3
    measure = MEASURES.get(base_of(metric))
    return measure.digits if measure else 3


def ends(lower: float | None, upper: float | None, digits: int, *, signed: bool = False) -> str:
    """``0.66 to 0.76``; an en dash where there is no interval."""
    if lower is None or upper is None:
        return ABSENT
    return " to ".join(number(x, digits, signed=signed) for x in (lower, upper))


def spoken(item: Bounded, digits: int, *, signed: bool = False) -> str:
    """A number with its interval for running text."""
    if item.value is None:
        return f"not estimable ({item.note})"
    value = number(item.value, digits, signed=signed)
    if item.lower is None:
        return f"{value} (no interval: {item.note})"
    return f"{value} (95% interval {ends(item.lower, item.upper, digits, signed=signed)})"


def bounded_cell(
    item: Bounded | None, notes: Footnotes, digits: int, *, signed: bool = False, unit: str = ""
) -> Cell:
    """Value over its interval; a gap carries the letter of its reason.

    ``unit`` "%" prints shares in per cent.
    """
    if item is None:
        return Cell("", numeric=True)
    mark = notes.mark(item.note) if item.note else ""
    scale = 100.0 if unit == "%" else 1.0
    value, low, high = (
        None if x is None else scale * x for x in (item.value, item.lower, item.upper)
    )
    tail = unit if value is not None else ""
    below = "" if low is None else ends(low, high, digits, signed=signed) + tail
    text = number(value, digits, signed=signed) + tail
    return Cell(text, below, numeric=True, mark=mark)


def bare_p(p: float | None) -> str:
    """``0.031`` or ``<0.001``, for a column of p values."""
    if p is None:
        return ABSENT
    return "<0.001" if p < 0.001 else f"{p:.{2 if p >= 0.1 else 3}f}"


def decisive(test: HypothesisTest | None) -> float | None:
    """The p value that words rest on: adjusted inside its family where there is one."""
    if test is None:
        return None
    return test.p if test.p_adjusted is None else test.p_adjusted


def shown_by(test: HypothesisTest | None) -> bool:
    """Whether a test shows what it looks for."""
    p = decisive(test)
    return p is not None and p < LEVEL


def p_spoken(test: HypothesisTest) -> str:
    """The p value of a test for running text."""
    if test.p_adjusted is not None:
        return f"p {_sign(test.p_adjusted)} after Holm's adjustment"
    return f"p {_sign(test.p)}" if test.p is not None else f"no p value: {test.note}"


def _sign(p: float | None) -> str:
    text = bare_p(p)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


def tests_table(slug: str, caption: str, tests: Sequence[HypothesisTest]) -> Table:
    """Tests with their statistics, and a column of adjusted p where there is a family."""
    notes = Footnotes()
    adjusted = any(test.p_adjusted is not None for test in tests)
    rows = []
    for test in tests:
        mark = notes.mark(test.note) if test.note else ""
        cells = [
            Cell(test.name, test.about, mark=mark),
            Cell(number(test.statistic, 2), numeric=True),
            Cell(ABSENT if test.df is None else f"{test.df:g}", numeric=True),
            Cell(bare_p(test.p), numeric=True),
        ]
        cells += [Cell(bare_p(test.p_adjusted), numeric=True)] if adjusted else []
        rows.append(Row(tuple(cells)))
    if adjusted:
        notes.mark(HOLM)
    header = [Cell("Test", below="of")]
    header += [Cell(name, numeric=True) for name in ("Statistic", "df", "p")]
    header += [holm_header(notes)] if adjusted else []
    records = tuple(test.model_dump() for test in tests)
    return Table(slug, caption, tuple(header), tuple(rows), records, notes.all(), EXPLORATORY)


HOLM = "Adjusted by Holm's method inside the family of tests of this table, and for no other"


def holm_header(notes: Footnotes) -> Cell:
    """The head of a column of adjusted p values, with its footnote."""
    return Cell("p, Holm", numeric=True, mark=notes.mark(HOLM))


def flat(record: dict[str, object]) -> dict[str, Value]:
    """A record whose nested values are written as text."""
    plain = (str, int, float, type(None))
    return {k: v if isinstance(v, plain) else str(v) for k, v in record.items()}
