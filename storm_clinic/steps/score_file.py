"""A table as CSV that a spreadsheet may open: no cell of text is taken for a formula."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from storm_clinic.files import csv_text, write_text


def write_guarded_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table atomically.

    Cells of text that begin like a formula get an apostrophe in front; numbers are
    written so that they read back to the last bit.

    Raises
    ------
    StorageError
        If the disk is full or the folder may not be written.
    """
    write_text(path, csv_text(table))
    return path
