"""How work that takes long says how far it is."""

from __future__ import annotations

from collections.abc import Callable

# What is done, how many pieces of it are finished, and of how many. What fits say while they go on
# comes from a thread of its own, and what is done then ends in a note (see `with_note`).
Progress = Callable[[str, int, int], None]

_NOTE = " | "


def silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def with_note(what: str, note: str) -> str:
    """What is done, with a note that changes as it goes on."""
    return f"{what}{_NOTE}{note}"


def split_note(what: str) -> tuple[str, str]:
    """What is done, and its note, which is empty where there is none."""
    name, _, note = what.partition(_NOTE)
    return name, note
