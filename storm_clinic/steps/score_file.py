"""A table as CSV that a spreadsheet may open: no cell of text is taken for a formula."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from storm_clinic.files import atomic_write

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_guarded_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table atomically.

    Cells of text that begin like a formula (``= + - @``, tab, carriage return) get an apostrophe
    in front; numbers are written so that they read back to the last bit.

    Raises
    ------
    StorageError
        If the disk is full or the folder may not be written.
    """
    guarded = table.copy()
    for name in guarded.select_dtypes("object").columns:
        guarded[name] = guarded[name].map(_guarded)
    with atomic_write(path) as part:
        guarded.to_csv(part, index=False, lineterminator="\n")
    return path


def _guarded(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
