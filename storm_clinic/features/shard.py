"""Which slides are whose, where many processes share the work without speaking to each other."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from storm_clinic.errors import InputError

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1; slides are dealt out by a hash of their id."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(
                f"there is no part {self.index} of {self.count}",
                where="shard",
                fix="Parts are counted from 1: 1/8 to 8/8.",
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``.

        Raises
        ------
        InputError
            If it is not that, or i lies outside 1 to n.
        """
        found = _SHARD.fullmatch(text.strip())
        if found is None:
            raise InputError(f"{text!r} is not of the form i/n, such as 2/8", where="shard")
        return cls(int(found[1]), int(found[2]))

    def takes(self, slide_id: str) -> bool:
        """Whether this slide belongs to this part; the same on every machine."""
        digest = hashlib.sha256(slide_id.encode("utf-8")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
