"""Tables of numbers, one row a patient: wide ones are read strictly, and never held as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.text_table import open_text_rows, require_column
from storm_clinic.cohort.values import NumberReader
from storm_clinic.errors import CohortError
from storm_clinic.files import digest_file

Floats = NDArray[np.float64]
_MOST_CELLS = 5


@dataclass(frozen=True, eq=False)
class NumberTable:
    """The wanted columns of a table, as numbers.

    Attributes
    ----------
    path : Path
    digest : str
        SHA-256 of the file.
    n_columns : int
        Columns of the file that have a name.
    ids : list of str, length n_rows
    rows : list of int, length n_rows
        Number of each row in the file: a text file's header is row 1, parquet starts at 1.
    columns : list of str
    values : float64 array, shape (n_rows, len(columns))
        NaN where a missing marker stands.
    """

    path: Path
    digest: str
    n_columns: int
    ids: list[str] = field(repr=False)
    rows: list[int]
    columns: list[str]
    values: Floats


def read_number_table(
    path: Path,
    *,
    id_column: str,
    columns: Sequence[str] | None,
    missing: Collection[str],
    declared_by: str,
) -> NumberTable:
    """Read a CSV or TSV (``.gz`` may follow) or a parquet file.

    Parameters
    ----------
    path : Path
        The file.
    id_column : str
        Column of the rows' ids.
    columns : sequence of str, optional
        Columns to read, in this order; all others without it.
    missing : collection of str
        Markers of a missing value. In parquet null and NaN mean the same.
    declared_by : str
        Field of cohort.yaml that asks for the table.

    Raises
    ------
    CohortError
        If the file is no such table, lacks a column, names one twice, or a cell is neither a finite
        number nor missing; names columns, rows and cells.
    """
    read = _read_parquet if path.suffix.lower() == ".parquet" else _read_text
    wanted = _Wanted(path, id_column, columns, declared_by)
    return read(wanted, NumberReader.of(missing))


@dataclass(frozen=True)
class _Wanted:
    path: Path
    id_column: str
    columns: Sequence[str] | None
    declared_by: str

    def among(self, header: list[str]) -> tuple[int, dict[str, int]]:
        """Position of the ids, and of every column that is read, by name."""
        places = {name: at for at, name in enumerate(header) if name}
        asked = ((self.id_column, "patient_id"), *((n, "columns") for n in self.columns or ()))
        for name, key in asked:
            asked_by = f"{self.declared_by}.{key}"
            require_column(name, places, where=self.path, asked_by=asked_by)
        named = places if self.columns is None else self.columns
        at = {name: places[name] for name in named if name != self.id_column}
        if not at:
            raise CohortError(f"has no column beside {self.id_column!r}", where=self.path)
        return places[self.id_column], at


@dataclass
class _Refused:
    """Cells that are no number."""

    n: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, column: str, row: int, cell: str) -> None:
        self.n += 1
        if len(self.shown) < _MOST_CELLS:
            self.shown.append(f"column {column!r}, row {row}: {cell!r}")

    def check(self, wanted: _Wanted) -> None:
        if not self.n:
            return
        what = "1 cell is no number" if self.n == 1 else f"{self.n} cells are no numbers"
        more = f" and {self.n - _MOST_CELLS} more" if self.n > _MOST_CELLS else ""
        raise CohortError(
            f"{what} ({wanted.declared_by}): {'; '.join(self.shown)}{more}",
            where=wanted.path,
            fix="Correct them (decimal point, no unit in the cell), or declare them under missing.",
        )


def _read_text(wanted: _Wanted, reader: NumberReader) -> NumberTable:
    table = open_text_rows(wanted.path)
    at_id, at = wanted.among(table.header)
    names, places = list(at), list(at.values())
    ids, rows, values, refused = [], [], [], _Refused()
    for number, cells in table:
        found = [reader.read(cells[place]) for place in places]
        if None in found:
            for name, place, value in zip(names, places, found, strict=True):
                if value is None:
                    refused.add(name, number, cells[place])
        ids.append(cells[at_id])
        rows.append(number)
        values.append(np.array(found, dtype=np.float64))
    refused.check(wanted)
    stacked = np.array(values).reshape(len(rows), len(names))
    n_columns = sum(map(bool, table.header))
    return NumberTable(wanted.path, table.digest, n_columns, ids, rows, names, stacked)


def _read_parquet(wanted: _Wanted, reader: NumberReader) -> NumberTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        digest = digest_file(wanted.path)
        table = pq.ParquetFile(wanted.path).read()
    except FileNotFoundError:
        raise CohortError("there is no such file", where=wanted.path) from None
    except (OSError, pa.ArrowException) as problem:
        raise CohortError(f"cannot be read: {problem}", where=wanted.path) from problem
    header = list(table.column_names)
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise CohortError(f"the header names column {twice[0]!r} more than once", where=wanted.path)
    at_id, at = wanted.among(header)
    ids = [text or "" for text in _texts(table.column(at_id), wanted.id_column, wanted.path)]
    refused = _Refused()
    values = np.empty((len(ids), len(at)))
    for number, (name, place) in enumerate(at.items()):
        values[:, number] = _numbers(table.column(place), name, wanted.path, reader, refused)
    refused.check(wanted)
    rows = list(range(1, len(ids) + 1))
    return NumberTable(wanted.path, digest, len(header), ids, rows, list(at), values)


def _numbers(column: Any, name: str, path: Path, reader: NumberReader, refused: _Refused) -> Floats:
    import pyarrow as pa

    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        texts = _texts(column, name, path)
        found = [np.nan if text is None else reader.read(text) for text in texts]
        for row, (value, text) in enumerate(zip(found, texts, strict=True), start=1):
            if value is None:
                refused.add(name, row, str(text))
        return np.array(found, dtype=np.float64)
    values = np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64).copy()
    values[np.isin(values, list(reader.numbers))] = np.nan
    for at in np.flatnonzero(np.isinf(values)):
        refused.add(name, int(at) + 1, str(values[at]))
    return values


def _texts(column: Any, name: str, path: Path) -> list[str | None]:
    """The cells as text, None where there is none."""
    import pyarrow as pa

    try:
        return list(column.cast(pa.string()).to_pylist())
    except pa.ArrowException as problem:
        raise CohortError(
            f"column {name!r} is of type {column.type}, which is neither number nor text",
            where=path,
        ) from problem
