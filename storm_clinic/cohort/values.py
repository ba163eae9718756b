"""What a cell of a table says: a number, a missing value, or one of the declared codes."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# float() would also take "nan", "1_000" and " 7 ".
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def canonical(text: str) -> str:
    """One spelling for equal values: "1" for "1.0" and "+1"; text that is no number as it is."""
    if not _NUMBER.fullmatch(text):
        return text
    number = float(text)
    return str(int(number)) if number.is_integer() else repr(number)


def is_number(texts: pd.Series[str]) -> pd.Series[bool]:
    """Where a cell is a finite decimal number with a point, not a comma."""
    return texts.map({text: _is_number(text) for text in texts.unique()}).astype(bool)


def is_among(texts: pd.Series[str], values: Collection[str]) -> pd.Series[bool]:
    """Where a cell equals one of these values, numbers compared as numbers."""
    wanted = {canonical(value) for value in values}
    return texts.map({text: canonical(text) in wanted for text in texts.unique()}).astype(bool)


def to_numbers(texts: pd.Series[str], missing: Collection[str]) -> NDArray[np.float64]:
    """Cells as float64, NaN where a missing marker stands; shape (n_rows,)."""
    shown = texts.mask(is_among(texts, missing), "nan")
    return shown.to_numpy(dtype=object).astype(np.float64)


@dataclass(frozen=True)
class NumberReader:
    """Reads one cell at a time, for tables too wide to hold as text.

    Attributes
    ----------
    words, numbers : frozenset
        Markers of a missing value: those that are no number, and those that are.
    """

    words: frozenset[str]
    numbers: frozenset[float]

    @classmethod
    def of(cls, missing: Collection[str]) -> NumberReader:
        """With these markers."""
        numbers = {marker for marker in missing if _NUMBER.fullmatch(marker)}
        return cls(frozenset(set(missing) - numbers), frozenset(map(float, numbers)))

    def read(self, text: str) -> float | None:
        """The cell's number, NaN where a missing marker stands, None where it is neither."""
        if not _NUMBER.fullmatch(text):
            return math.nan if text in self.words else None
        number = float(text)
        if number in self.numbers:
            return math.nan
        return number if math.isfinite(number) else None


def to_codes(texts: pd.Series[str], codes: Mapping[str, int]) -> NDArray[np.int64]:
    """Each cell's code, numbers compared as numbers, -1 for a cell without; shape (n_rows,)."""
    known = {canonical(value): code for value, code in codes.items()}
    found = {text: known.get(canonical(text), -1) for text in texts.unique()}
    return texts.map(found).to_numpy(dtype=np.int64)


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and bool(np.isfinite(float(text)))
