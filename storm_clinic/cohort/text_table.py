"""CSV and TSV files as text, every row with the number a spreadsheet shows for it."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from storm_clinic.errors import CohortError
from storm_clinic.files import digest_bytes
from storm_clinic.strict_yaml import did_you_mean

_FREE_BYTES, _MOST_RATIO = 256 << 20, 200  # how far a packed table may unfold
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}


@dataclass(frozen=True, eq=False)
class TextTable:
    """A table as it stands in its file.

    Attributes
    ----------
    path : Path
    frame : DataFrame of str
        The index is the row's number in the file; the header is row 1.
    digest : str
        SHA-256 of the file.
    """

    path: Path
    frame: pd.DataFrame
    digest: str

    def column(self, name: str, *, asked_by: str) -> pd.Series[str]:
        """One column.

        Raises
        ------
        CohortError
            If there is none of that name; the message names the nearest.
        """
        require_column(name, self.frame.columns, where=self.path, asked_by=asked_by)
        return self.frame[name]


@dataclass(frozen=True, eq=False)
class TextRows:
    """A table of which one row at a time is held in cells.

    Iterate once for (row's number in the file, its cells); a `CohortError` follows the last row if
    rows were of another length than the header, and comes at once where the text is no table.

    Attributes
    ----------
    path : Path
    header : list of str
        Empty for a column without a name.
    digest : str
        SHA-256 of the file.
    """

    path: Path
    header: list[str]
    digest: str
    _records: Iterator[tuple[int, list[str]]] = field(repr=False)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        uneven = []
        for number, row in self._records:
            if len(row) == len(self.header):
                yield number, row
            else:
                uneven.append(number)
        if uneven:
            raise CohortError(
                f"the header has {len(self.header)} columns, but not {say_rows(uneven)}",
                where=self.path,
                fix="Quote cells that hold the separator.",
            )


def read_text_table(path: Path) -> TextTable:
    """Read a CSV or TSV (by its ending; ``.gz`` may follow) without interpreting anything.

    Blank lines are skipped but counted; columns without a name are left out.

    Raises
    ------
    CohortError
        If the file is absent, of another kind, not UTF-8, empty, or has rows of unequal length or
        two columns of one name.
    """
    table = open_text_rows(path)
    rows = list(table)
    named = [at for at, name in enumerate(table.header) if name]
    frame = pd.DataFrame(
        [[row[at] for at in named] for _, row in rows],
        index=pd.Index([number for number, _ in rows], name="row"),
        columns=[table.header[at] for at in named],
        dtype=object,
    )
    return TextTable(path, frame, table.digest)


def open_text_rows(path: Path) -> TextRows:
    """As `read_text_table`, for tables too wide to hold as text."""
    delimiter = _delimiter(path)
    try:
        data = path.read_bytes()
        text = _unpacked(data, path) if path.suffix == ".gz" else data
        decoded = text.decode("utf-8-sig")
    except FileNotFoundError:
        raise CohortError("there is no such file", where=path) from None
    except UnicodeDecodeError as problem:
        raise CohortError("not UTF-8 text", where=path, fix="Save it as UTF-8.") from problem
    except (OSError, EOFError, zlib.error) as problem:
        raise CohortError(f"cannot be read: {problem}", where=path) from problem
    records = _records(decoded, delimiter, path)
    _, header = next(records, (0, None))
    if header is None:
        raise CohortError("the file is empty", where=path)
    _check_header(header, path)
    return TextRows(path, header, digest_bytes(data), records)


def _unpacked(data: bytes, path: Path) -> bytes:
    most = max(_FREE_BYTES, _MOST_RATIO * len(data))
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
        text = packed.read(most + 1)
    if len(text) > most:
        raise CohortError(
            f"its {len(data)} bytes unpack to more than {most}, which no table does",
            where=path,
            fix="If it is one, unpack it first.",
        )
    return text


def require_column(name: str, columns: Collection[str], *, where: Path, asked_by: str) -> None:
    """Refuse a column that a table does not have.

    Raises
    ------
    CohortError
        Naming the nearest column.
    """
    if name in columns:
        return
    known = [str(column) for column in columns]
    hint, fix = did_you_mean(name, known), None
    if len(known) == 1 and any(mark in known[0] for mark in ";,\t"):
        hint = "; the header is one word: is another separator used than the ending says?"
        fix = "Save it with commas as .csv, or with tabs as .tsv."
    raise CohortError(f"no column {name!r}, which {asked_by} asks for{hint}", where=where, fix=fix)


def say_rows(rows: Iterable[object]) -> str:
    """Up to ten row numbers in words."""
    numbers = [str(row) for row in rows]
    shown = ", ".join(numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _delimiter(path: Path) -> str:
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if ending.lower() not in _DELIMITERS:
        raise CohortError(
            f"{ending or 'no ending'} is no kind of table that can be read",
            where=path,
            fix="Save it as .csv (commas) or .tsv (tabs), UTF-8.",
        )
    return _DELIMITERS[ending.lower()]


def _records(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            if row:
                yield number, row
    except csv.Error as problem:
        raise CohortError(f"line {reader.line_num}: {problem}", where=path) from problem


def _check_header(header: list[str], path: Path) -> None:
    twice = sorted(name for name, n in Counter(header).items() if name and n > 1)
    if twice:
        raise CohortError(f"the header names column {twice[0]!r} more than once", where=path)
