"""Tables of the report: cells for the page, records for the CSV beside it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import ClassVar

from storm_clinic.files import harmless_cell
from storm_clinic.reporting.notation import interval_of, value_of
from storm_clinic.validation.evidence import Estimate

Value = str | int | float | None


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a second smaller line, and how it is set."""

    text: str
    below: str = ""
    numeric: bool = False
    strong: bool = False
    indent: bool = False
    mark: str = ""  # footnote
    tone: str = ""  # "pass", "warn", "fail" or "na"
    refers: bool = False  # "section 7" in it becomes a link


@dataclass(frozen=True)
class Row:
    """One line of a table; a heading spans all columns."""

    cells: tuple[Cell, ...]
    heading: bool = False


@dataclass(frozen=True)
class Table:
    """A table on the page, and the same as records for CSV.

    Attributes
    ----------
    slug : str
        Name of the CSV file and of the element; unique on the page.
    caption : str
    header : tuple of Cell
    rows : tuple of Row
    notes : tuple of (mark, text)
        Footnotes; a missing number points to its reason here.
    records : tuple of dict
        Unrounded values, one dict a line of the CSV.
    label : str
        Whether its numbers were named before or are exploratory; empty where it infers nothing.
    style : str
        Class of the element.
    """

    slug: str
    caption: str
    header: tuple[Cell, ...]
    rows: tuple[Row, ...]
    records: tuple[Mapping[str, Value], ...]
    notes: tuple[tuple[str, str], ...] = ()
    label: str = ""
    style: str = ""
    folded: bool = False  # shown on a click; in print it is in its CSV file only
    block: ClassVar[str] = "table"

    def to_csv(self) -> str:
        """The records as CSV."""
        return to_csv(self.records)


def to_csv(records: Sequence[Mapping[str, Value]]) -> str:
    """Records as CSV text in which no cell can run as a formula."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([harmless_cell(name) for name in columns])
    for record in records:
        writer.writerow([harmless_cell(record.get(name)) for name in columns])
    return buffer.getvalue()


class Footnotes:
    """Reasons for missing numbers, each marked once by a letter."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, reason: str) -> str:
        """The letter of this reason."""
        return self._marks.setdefault(reason, _letters(len(self._marks)))

    def all(self) -> tuple[tuple[str, str], ...]:
        """Letter and reason, in order."""
        return tuple((mark, reason) for reason, mark in self._marks.items())


def _letters(position: int) -> str:
    text = ""
    while position >= 0:
        text = chr(ord("a") + position % 26) + text
        position = position // 26 - 1
    return text


def estimate_cell(estimate: Estimate | None, notes: Footnotes, *, strong: bool = False) -> Cell:
    """Value over its interval; a gap carries the letter of its reason."""
    if estimate is None:
        return Cell("", numeric=True)
    mark = notes.mark(estimate.note) if estimate.note else ""
    below = "" if estimate.value is None else interval_of(estimate)
    return Cell(value_of(estimate), below, numeric=True, strong=strong, mark=mark)


def estimate_records(estimates: Iterable[Estimate], kind: str) -> tuple[dict[str, Value], ...]:
    """Estimates as records, nothing rounded."""
    return tuple({"kind": kind, **estimate.model_dump()} for estimate in estimates)
