"""What a section is made of: headings, words, pictures, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from markupsafe import Markup

from storm_clinic.reporting.tables import Table


@dataclass(frozen=True)
class Heading:
    """What the blocks behind it are about, e.g. a cohort."""

    text: str
    level: Literal[3, 4] = 3
    block: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Words:
    """A paragraph: a finding by rule, a plain remark, a caution, or why nothing is shown."""

    text: str
    kind: Literal["finding", "small", "caution", "absent"] = "finding"
    block: ClassVar[str] = "words"


@dataclass(frozen=True)
class Picture:
    """A figure with its caption."""

    svg: Markup
    caption: str
    block: ClassVar[str] = "picture"


Block = Heading | Words | Picture | Table


def folded(blocks: Sequence[Block]) -> list[Block]:
    """The tables among some blocks, shown on a click."""
    return [replace(block, folded=True) for block in blocks if isinstance(block, Table)]


def absent(what: str, note: str) -> Words:
    """One line that says why something is not shown."""
    reason = note.strip().rstrip(".") or "no reason was recorded"
    return Words(f"{what} cannot be shown: {reason}.", "absent")


def made(*methods: str) -> list[Words]:
    """How something was made, each way said once."""
    ways = [text.strip().rstrip(".") for text in dict.fromkeys(methods) if text.strip()]
    ways = [text[:1].upper() + text[1:] for text in ways]
    return [Words(f"{'. '.join(ways)}.", "small")] if ways else []


def cautions(*notes: str) -> list[Words]:
    """Notes that go with shown numbers, each said once."""
    said = [text.strip().rstrip(".") for text in dict.fromkeys(notes) if text.strip()]
    return [Words(f"{text[:1].upper()}{text[1:]}.", "caution") for text in said]
