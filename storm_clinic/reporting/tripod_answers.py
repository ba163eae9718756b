"""How items of a reporting guideline are answered: in full, in part, or by the authors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from storm_clinic.reporting.reported_facts import ReportedFacts

Answered = Literal["answered", "in part", "authors", "not applicable"]
AppliesTo = Literal["D", "E", "D;E"]


@dataclass(frozen=True)
class Answer:
    """How one report answers one item.

    Attributes
    ----------
    answered : {"answered", "in part", "authors", "not applicable"}
    anchors : tuple of str
        Ids of sections of the page.
    what : str
    """

    answered: Answered
    anchors: tuple[str, ...]
    what: str


Rule = Callable[[ReportedFacts], Answer]


@dataclass(frozen=True)
class Item:
    """One item of the guideline and the rule that answers it.

    Attributes
    ----------
    number, section, asks : str
    applies_to : {"D", "E", "D;E"}
    answer : callable
    """

    number: str
    section: str
    asks: str
    applies_to: AppliesTo
    answer: Rule


def in_full(what: str, *anchors: str) -> Answer:
    """Answered by this report."""
    return Answer("answered", anchors, what)


def in_part(what: str, missing: str, *anchors: str) -> Answer:
    """Answered in part; the authors add what is missing."""
    return Answer("in part", anchors, f"{what}; authors must write: {missing}")


def by_authors(missing: str) -> Answer:
    """Nothing in this report answers it."""
    return Answer("authors", (), f"authors must write: {missing}")


def always_authors(missing: str) -> Rule:
    """An item that no data can answer."""
    return lambda _: by_authors(missing)
