"""TRIPOD+AI and PROBAST+AI as tables whose answers point to sections of this page."""

from __future__ import annotations

from collections.abc import Sequence

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import ABSENT, listed
from storm_clinic.reporting.probast import probast_rows
from storm_clinic.reporting.sections import placed
from storm_clinic.reporting.tables import Cell, Row, Table
from storm_clinic.reporting.tripod import tripod_rows

_ANSWERED = {"answered": "pass", "in part": "warn", "authors": "na", "not applicable": "na"}
_SIGNALS = {"low": "pass", "high": "fail", "unclear": "warn"}
_APPLIES = {"D": "development", "E": "evaluation", "D;E": "both"}


def tripod_table(content: ReportContent, slug: str = "tripod-table") -> Table | None:
    """Every item of TRIPOD+AI: whether it is answered here, where, and what is missing."""
    found = tripod_rows(content)
    if not found:
        return None
    rows: list[Row] = []
    for at, item in enumerate(found):
        if at == 0 or found[at - 1].section != item.section:
            rows.append(Row((Cell(item.section, strong=True),), heading=True))
        rows.append(
            Row(
                (
                    Cell(item.item),
                    Cell(item.asks, _APPLIES[item.applies_to]),
                    Cell(item.answered, tone=_ANSWERED[item.answered]),
                    _where(content, item.anchors),
                    Cell(item.what, refers=True),
                )
            )
        )
    names = ("Item", "Asks for", "Answered", "Where", "What stands there, and what is missing")
    records = tuple(item.record() for item in found)
    caption = "TRIPOD+AI (2024): what this report answers and what authors must write"
    return Table(slug, caption, tuple(map(Cell, names)), tuple(rows), records, style="words")


def probast_table(content: ReportContent, slug: str = "probast-table") -> Table | None:
    """Signals of bias by domain; no overall judgement."""
    found = probast_rows(content)
    if not found:
        return None
    rows: list[Row] = []
    for at, item in enumerate(found):
        heading = f"{item.part}: {item.domain}".capitalize()
        if at == 0 or (found[at - 1].part, found[at - 1].domain) != (item.part, item.domain):
            rows.append(Row((Cell(heading, strong=True),), heading=True))
        rows.append(
            Row(
                (
                    Cell(item.question),
                    Cell(item.asks),
                    Cell(item.signal, tone=_SIGNALS.get(item.signal, "na")),
                    _where(content, item.anchors),
                    Cell(item.reason, refers=True),
                )
            )
        )
    names = ("Question", "Asks", "Concern", "Where", "What it rests on")
    records = tuple(item.record() for item in found)
    caption = "PROBAST+AI (2025): signals of bias that these data show; no overall judgement"
    return Table(slug, caption, tuple(map(Cell, names)), tuple(rows), records, style="words")


def _where(content: ReportContent, anchors: Sequence[str]) -> Cell:
    """The sections of this page that these ids name; one that is not here is left out."""
    numbers = {section.key: section.number for section in placed(content)}
    there = sorted({numbers[key] for key in anchors if key in numbers})
    return Cell(listed([f"section {n}" for n in there]) or ABSENT, refers=True)
