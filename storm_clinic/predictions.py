"""Predictions: the table between models and statistics, from any program. No outcomes inside."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.cohort.text_table import read_text_table
from storm_clinic.cohort.values import is_number
from storm_clinic.errors import CohortError, PredictionsError
from storm_clinic.files import atomic_write, digest_file

Bools = NDArray[np.bool_]

_TEXTS, _COUNTS = ("cohort", "patient_key", "model"), ("repeat", "fold")
_DIGEST = b"storm_clinic_sha256"
KEYS = ("cohort", "patient_key", "model", "repeat", "fold")
_HORIZON = re.compile(r"risk_at_(\d+(?:\.\d+)?)m")


def horizon_column(months: float) -> str:
    """Name of the column with the probability of the event by ``months``."""
    return f"risk_at_{months:g}m"


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row a cohort, patient, model and repeat.

    Columns ``cohort, patient_key, model`` (text), ``repeat, fold`` (integers; -1 where the model
    was not cross-validated), ``risk`` (higher is worse, any scale), then ``risk_at_<months>m``
    (probability of the event by then) or ``p_<class>`` (probabilities that sum to one). A model
    may lack a probability for all of its patients, not for some.

    Raises
    ------
    PredictionsError
        Naming the column or the rows at fault.
    """

    table: pd.DataFrame

    def __post_init__(self) -> None:
        missing = [name for name in (*KEYS, "risk") if name not in self.table]
        if missing:
            raise PredictionsError(
                f"no column {', '.join(missing)}",
                where="predictions",
                fix=f"Needed are {', '.join(KEYS)}, risk, and risk_at_<months>m or p_<class>.",
            )
        unknown = [
            name
            for name in map(str, self.table.columns)
            if name not in (*KEYS, "risk") and not _HORIZON.fullmatch(name) and name[:2] != "p_"
        ]
        if unknown:
            raise PredictionsError(
                f"unknown column {', '.join(unknown)}",
                where="predictions",
                fix="Outcomes and covariates do not belong here.",
            )
        self._check_values()

    def _check_values(self) -> None:
        twice = self.table.duplicated(["cohort", "patient_key", "model", "repeat"])
        if twice.any():
            row = int(np.flatnonzero(twice)[0])
            raise PredictionsError(
                f"{int(twice.sum())} patients are predicted twice by one model and repeat, "
                f"the first in row {row + 2}",
                where="predictions",
            )
        for name in ("risk", *self.probability_columns):
            values = pd.to_numeric(self.table[name], errors="coerce").to_numpy(np.float64)
            legal = np.isfinite(values)
            if name != "risk":
                legal &= (values >= 0) & (values <= 1)
                legal |= self._given_by_nobody(name)
            if not legal.all():
                row = int(np.flatnonzero(~legal)[0])
                raise PredictionsError(
                    f"{int((~legal).sum())} values of {name} are missing or out of range, "
                    f"the first in row {row + 2}: {self.table[name].iloc[row]}",
                    where="predictions",
                )

    def _given_by_nobody(self, name: str) -> Bools:
        """Rows of models that have this probability for no patient at all; shape (n_rows,)."""
        has = self.table[name].notna().groupby(self.table["model"]).transform("any")
        return ~has.to_numpy(dtype=np.bool_)

    @property
    def probability_columns(self) -> list[str]:
        """``risk_at_<months>m`` or ``p_<class>`` columns, in table order."""
        return [c for c in map(str, self.table.columns) if _HORIZON.fullmatch(c) or c[:2] == "p_"]

    @property
    def horizons_months(self) -> tuple[float, ...]:
        """Months at which probabilities are given, ascending."""
        found = (_HORIZON.fullmatch(name) for name in map(str, self.table.columns))
        return tuple(sorted(float(match.group(1)) for match in found if match))

    @property
    def models(self) -> list[str]:
        """Models in order of appearance."""
        return list(dict.fromkeys(self.table["model"]))

    def of(self, *, model: str | None = None, cohort: str | None = None) -> Predictions:
        """The rows of one model, one cohort, or both."""
        keep = np.ones(len(self.table), dtype=bool)
        if model is not None:
            keep &= (self.table["model"] == model).to_numpy()
        if cohort is not None:
            keep &= (self.table["cohort"] == cohort).to_numpy()
        return Predictions(self.table[keep].reset_index(drop=True))

    @classmethod
    def concat(cls, parts: list[Predictions]) -> Predictions:
        """Several tables under one another."""
        return cls(pd.concat([part.table for part in parts], ignore_index=True))

    @classmethod
    def read(cls, path: str | Path) -> Predictions:
        """Read parquet or CSV, by the file's ending.

        Raises
        ------
        PredictionsError
            If the file is absent, not such a table, or holds illegal values.
        """
        path = Path(path)
        try:
            table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
            return cls(table)
        except PredictionsError as error:
            raise PredictionsError(error.problem, where=path, fix=error.fix) from error

    def write(self, path: str | Path) -> str:
        """Write parquet (or CSV, by the ending) atomically; returns the file's SHA-256."""
        path = Path(path)
        with atomic_write(path) as part:
            if path.suffix == ".parquet":
                _write_parquet(self.table, part)
            else:
                self.table.to_csv(part, index=False)
        return digest_file(path)


def _read_csv(path: Path) -> pd.DataFrame:
    """Every cell as text first: pandas would shift a row that is longer than the header."""
    try:
        cells = read_text_table(path).frame.reset_index()
    except CohortError as error:
        raise PredictionsError(f"cannot be read: {error.problem}", fix=error.fix) from error
    rows = cells.pop("row")
    columns: dict[str, pd.Series[Any]] = {}
    for name in cells.columns:
        if name in _COUNTS:
            columns[name] = _whole_numbers(name, cells[name], rows)
        else:
            columns[name] = cells[name] if name in _TEXTS else _numbers(name, cells[name], rows)
    return _with_folds(pd.DataFrame(columns, index=cells.index))


def _whole_numbers(name: str, cells: pd.Series[str], rows: pd.Series[int]) -> pd.Series[int]:
    _refuse(cells, ~cells.str.fullmatch(r"-?[0-9]{1,9}"), f"values of {name} are no integers", rows)
    return cells.astype(np.int64)


def _numbers(name: str, cells: pd.Series[str], rows: pd.Series[int]) -> pd.Series[float]:
    empty = cells == ""
    _refuse(cells, ~(is_number(cells) | empty), f"values of {name} are no numbers", rows)
    return cells.mask(empty, "nan").astype(np.float64)


def _refuse(cells: pd.Series[str], bad: pd.Series[bool], what: str, rows: pd.Series[int]) -> None:
    if bad.any():
        first = int(np.flatnonzero(bad.to_numpy())[0])
        raise PredictionsError(
            f"{int(bad.sum())} {what}, the first in row {rows.iloc[first]}: {cells.iloc[first]!r}",
            fix="Write decimals with a point, and nothing else in the cell.",
        )


def _with_folds(table: pd.DataFrame) -> pd.DataFrame:
    """Other programs seldom cross-validate."""
    absent = {name: -1 for name in _COUNTS if name not in table}
    return table.assign(**absent)


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    held = {**(arrow.schema.metadata or {}), _DIGEST: _content_digest(table).encode()}
    pq.write_table(arrow.replace_schema_metadata(held), path)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrow = pq.ParquetFile(path).read()
        twice = [name for name, n in Counter(arrow.column_names).items() if n > 1]
        if twice:
            raise PredictionsError(f"column {twice[0]} is there twice")
        # What pandas noted about itself is not needed, and need not be true.
        table = arrow.replace_schema_metadata(None).to_pandas()
    # Which of these it is depends on where the damage lies.
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, pa.ArrowException) as e:
        raise PredictionsError(f"cannot be read: {e}") from e
    for name, kind in zip(arrow.column_names, arrow.schema.types, strict=True):
        right = {**dict.fromkeys(_TEXTS, _is_text), **dict.fromkeys(_COUNTS, pa.types.is_integer)}
        column = arrow.column(name)
        if not right.get(name, _is_number)(kind) or (name in right and column.null_count):
            raise PredictionsError(f"column {name} is of type {kind}, or has gaps")
    stated = (arrow.schema.metadata or {}).get(_DIGEST)
    if stated is not None and stated.decode("ascii", "replace") != _content_digest(table):
        raise PredictionsError(
            "its values are not those that were written (SHA-256 differs)",
            fix="The file is damaged; make it again.",
        )
    return _with_folds(table)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _content_digest(table: pd.DataFrame) -> str:
    """SHA-256 over names and cells, whatever a file keeps them in."""
    digest = hashlib.sha256()
    for name in table.columns:
        cells = table[name]
        if name in _TEXTS:
            data = "\0".join(map(str, cells)).encode("utf-8", "surrogatepass")
        else:
            data = cells.to_numpy(np.dtype("<f8")).tobytes()
        digest.update(f"{name}\n{len(data)}\n".encode("utf-8", "surrogatepass") + data)
    return digest.hexdigest()
