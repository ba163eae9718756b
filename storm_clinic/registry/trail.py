"""The audit trail: one append-only, hash-chained table in ``mlruns/trail.db``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """One row: who did what to which version, when."""

    seq: int
    previous: str
    digest: str
    body: Mapping[str, Any]


class Trail:
    """The table. Made on first append; reading an absent one gives no events."""

    def __init__(self, path: Path) -> None:
        raise NotImplementedError

    def events(self) -> tuple[Event, ...]:
        """Every event, oldest first; `RegistryError` if the chain is broken."""
        raise NotImplementedError

    def append(
        self, body: Mapping[str, Any], *, allowed: Callable[[Sequence[Event]], None]
    ) -> Event:
        """Append one event unless ``allowed``, which sees the events under the same lock, raises."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """What is wrong with the chain, a line a finding; empty when it is whole."""
        raise NotImplementedError
