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

Answered = Literal["answered", "in part", "authors"]


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
    answered : {"answered", "in part", "authors"}
        By this report, in part, or left to the authors.
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
    """Every item of TRIPOD+AI, in the statement's order."""
    return ()
