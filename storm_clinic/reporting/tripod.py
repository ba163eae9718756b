"""TRIPOD+AI item by item: what this report answers, in which section, and what authors must write.

Every answer is decided by what the report holds, never assumed. Wordings are short ones of this
house; the full items are in the statement.

References
----------
Collins et al., TRIPOD+AI statement, BMJ 385 (2024) e078378.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.reported_facts import ReportedFacts
from storm_clinic.reporting.tripod_answers import Answered, AppliesTo, Item
from storm_clinic.reporting.tripod_methods import METHODS
from storm_clinic.reporting.tripod_results import FRONT, OPEN_SCIENCE, RESULTS

__all__ = ["Answered", "TripodRow", "tripod_rows"]


@dataclass(frozen=True)
class TripodRow:
    """One item of TRIPOD+AI as this report answers it.

    Attributes
    ----------
    item : str
        Number of the item, e.g. "8a".
    section : str
        Part of the statement: Title, Abstract, Introduction, Methods, ...
    asks : str
        What the item asks for, in short words.
    applies_to : str
        "D" (development), "E" (evaluation) or "D;E".
    answered : {"answered", "in part", "authors", "not applicable"}
        By this report, in part, or left to the authors; the last where the item is about a part
        (development or evaluation) that this report does not hold.
    anchors : tuple of str
        Ids of the page's sections where it is answered; empty where it is not.
    what : str
        What stands there, and what is missing: "authors must write: ...".
    """

    item: str
    section: str
    asks: str
    applies_to: Literal["D", "E", "D;E"]
    answered: Answered
    anchors: tuple[str, ...]
    what: str

    def record(self) -> dict[str, str]:
        """One row of the CSV."""
        return {
            "item": self.item,
            "section": self.section,
            "asks": self.asks,
            "applies_to": self.applies_to,
            "answered": self.answered,
            "where": "; ".join(self.anchors),
            "what": self.what,
        }


def tripod_rows(content: ReportContent) -> tuple[TripodRow, ...]:
    """Every item of TRIPOD+AI, in the statement's order.

    Anchors name sections of the page that hold something for this content. Items of development
    do not apply where another program made the predictions, those of evaluation not before a
    validation.
    """
    facts = ReportedFacts(content)
    return tuple(_row(item, facts) for item in (*FRONT, *METHODS, *OPEN_SCIENCE, *RESULTS))


def _row(item: Item, facts: ReportedFacts) -> TripodRow:
    missing = _not_held(item.applies_to, facts)
    if missing:
        return TripodRow(
            item.number, item.section, item.asks, item.applies_to, "not applicable", (), missing
        )
    found = item.answer(facts)
    return TripodRow(
        item.number,
        item.section,
        item.asks,
        item.applies_to,
        found.answered,
        found.anchors,
        found.what,
    )


def _not_held(applies_to: AppliesTo, facts: ReportedFacts) -> str:
    if applies_to == "D" and not facts.developed:
        return "about development, which another program did: see its own report"
    if applies_to == "E" and not facts.validated:
        return "about evaluation on other patients, which was not made yet"
    return ""
