"""What a cell of a table says: a number, a missing value, or one of the declared codes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

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


def to_codes(texts: pd.Series[str], codes: Mapping[str, int]) -> NDArray[np.int64]:
    """Each cell's code, numbers compared as numbers, -1 for a cell without; shape (n_rows,)."""
    known = {canonical(value): code for value, code in codes.items()}
    found = {text: known.get(canonical(text), -1) for text in texts.unique()}
    return texts.map(found).to_numpy(dtype=np.int64)


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and bool(np.isfinite(float(text)))
