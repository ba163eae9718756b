"""How work that takes long says how far it is."""

from __future__ import annotations

from collections.abc import Callable

# What is done, how many pieces of it are finished, and of how many.
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""
