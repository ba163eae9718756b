"""Predictions that another program wrote: read leniently where nothing is ambiguous, else refused.

What R, SAS or a spreadsheet writes differs in small things: row names in a column without a name,
``NA``, survival instead of risk, one model and so no column that names it. Those are understood.
A decimal comma, a percentage or a misspelt column is not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from storm_clinic.cohort.outcome import Classes, Outcome
from storm_clinic.cohort.text_table import read_text_table, say_rows
from storm_clinic.cohort.values import is_among, is_number
from storm_clinic.errors import CohortError, PredictionsError
from storm_clinic.files import digest_file
from storm_clinic.predictions import horizon_column

MISSING = ("", "NA", "NaN", "nan", "N/A", "NULL", ".")
PATIENT_ID, PATIENT_KEY = "patient_id", "patient_key"
_HORIZON = re.compile(r"(risk|survival)_at_(\d+(?:\.\d+)?)m")
_NAMES = ("cohort", "model", "repeat", "fold", "risk")
_LOOKS_LIKE = re.compile(r"(risk|surv|p_|prob)", re.IGNORECASE)
_WRITE_FROM_R = 'In R: write.csv(x, "predictions.csv", row.names = FALSE).'


@dataclass(frozen=True, eq=False)
class ForeignPredictions:
    """A file of predictions, typed, its patients as they are named there.

    Attributes
    ----------
    path : Path
    digest : str
        SHA-256 of the file.
    by : {"patient_id", "patient_key"}
        How the file names patients.
    table : DataFrame
        ``patient, model, repeat, fold, risk`` and probability columns; the index is the row's
        number in the file. NaN where the file has no value.
    notes : tuple of str
        What was understood or left aside, for the reader of the report.
    """

    path: Path
    digest: str
    by: str
    table: pd.DataFrame = field(repr=False)
    notes: tuple[str, ...]

    @property
    def horizons_months(self) -> tuple[float, ...]:
        """Months for which there are risks, ascending."""
        found = (_HORIZON.fullmatch(str(name)) for name in self.table.columns)
        return tuple(sorted(float(match.group(2)) for match in found if match))

    @property
    def models(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(self.table["model"]))

    @property
    def cross_validated(self) -> bool:
        """Whether the file says in which fold each patient was held out."""
        return bool((self.table["fold"] >= 0).any())


def read_foreign(
    path: Path, *, cohort: str, id_column: str, outcome: Outcome
) -> ForeignPredictions:
    """Read a CSV, TSV or parquet file of predictions.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``, ``.tsv`` or ``.parquet``.
    cohort : str
        Rows of other cohorts, where the file has a column ``cohort``, are left aside.
    id_column : str
        The cohort's own name of the patient's id, accepted beside ``patient_id``.
    outcome : Outcome
        Of any patients: its kind says which columns are probabilities, its levels their names.

    Raises
    ------
    PredictionsError
        Naming column or rows: no column that names patients, a cell that is no number, a
        probability outside 0 to 1, one patient predicted twice, or nothing that predicts.
    """
    frame, digest = _read(path)
    reader = _Reader(path, frame, notes=[])
    by, patients = reader.patients(id_column)
    keep = reader.of_cohort(cohort)
    table = pd.DataFrame(
        {
            "patient": patients,
            "model": reader.models(path.stem),
            "repeat": reader.whole_numbers("repeat"),
            "fold": reader.whole_numbers("fold"),
        },
        index=frame.index,
    )
    probabilities = reader.probabilities(outcome)
    table["risk"] = reader.risk(probabilities, outcome)
    table = table.assign(**probabilities)[keep]
    reader.note_unused({id_column if by == PATIENT_ID else by, PATIENT_ID})
    if table.empty:
        raise PredictionsError(f"no row of cohort {cohort!r}", where=path)
    _check_once(table, path)
    return ForeignPredictions(path, digest, by, table, tuple(reader.notes))


def _read(path: Path) -> tuple[pd.DataFrame, str]:
    """Every cell as text, indexed by the row's number in the file."""
    if path.suffix == ".parquet":
        try:
            frame = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise PredictionsError(f"cannot be read: {error}", where=path) from error
        shown = frame.astype(object).where(frame.notna(), "").map(_as_text)
        return shown.set_axis(range(1, len(shown) + 1)), digest_file(path)
    try:
        found = read_text_table(path)
    except CohortError as error:
        fix = error.fix or _WRITE_FROM_R
        raise PredictionsError(error.problem, where=error.where, fix=fix) from error
    frame = found.frame.map(str.strip)
    if len(frame.columns) == 1 and any(mark in frame.columns[0] for mark in ";\t,"):
        raise PredictionsError(
            "the header is one word: another separator is used than the ending says",
            where=path,
            fix="Save it with commas and decimal points as .csv, or with tabs as .tsv.",
        )
    if frame.empty:
        raise PredictionsError("there is no row under the header", where=path)
    return frame, found.digest


def _as_text(cell: object) -> str:
    return repr(float(cell)) if isinstance(cell, float | np.floating) else str(cell)


@dataclass(eq=False)
class _Reader:
    path: Path
    frame: pd.DataFrame
    notes: list[str]

    def patients(self, id_column: str) -> tuple[str, pd.Series[str]]:
        for name, by in (
            (PATIENT_KEY, PATIENT_KEY),
            (PATIENT_ID, PATIENT_ID),
            (id_column, PATIENT_ID),
        ):
            if name in self.frame:
                cells = self.frame[name]
                empty = is_among(cells, MISSING)
                if empty.any():
                    raise self._error(f"{name} is empty in {_rows(cells[empty])}")
                return by, cells
        raise self._error(
            "no column names the patients",
            fix=f"Name it {PATIENT_ID} (or {id_column}, as the cohort's table does). Columns "
            f"here: {', '.join(map(str, self.frame.columns)) or 'none with a name'}.",
        )

    def of_cohort(self, cohort: str) -> pd.Series[bool]:
        if "cohort" not in self.frame:
            return pd.Series(True, index=self.frame.index)
        keep = self.frame["cohort"] == cohort
        if not keep.any():
            held = ", ".join(sorted(set(self.frame["cohort"]))[:5])
            raise self._error(f"no row of cohort {cohort!r}", fix=f"Cohorts there: {held}.")
        if not keep.all():
            self.notes.append(
                f"{int((~keep).sum())} of {len(keep)} rows of the file are about other cohorts."
            )
        return keep

    def models(self, default: str) -> pd.Series[str]:
        if "model" not in self.frame:
            name = re.sub(r"[^a-z0-9_-]+", "-", default.lower()).strip("-_")[:64] or "model"
            return pd.Series(name, index=self.frame.index)
        cells = self.frame["model"]
        empty = is_among(cells, MISSING)
        if empty.any():
            raise self._error(f"model is empty in {_rows(cells[empty])}")
        return cells

    def whole_numbers(self, name: str) -> pd.Series[int]:
        """Column of repeats or folds; -1 where the file has none."""
        if name not in self.frame:
            return pd.Series(-1, index=self.frame.index)
        values = self._numbers(name)
        wrong = (values % 1 != 0) & values.notna()
        if wrong.any():
            raise self._error(f"{name} is no whole number in {_rows(values[wrong])}")
        return values.fillna(-1).astype(np.int64)

    def probabilities(self, outcome: Outcome) -> dict[str, pd.Series[float]]:
        self._refuse_misspelt(outcome)
        if isinstance(outcome, Classes):
            return self._of_classes(outcome.levels)
        found: dict[str, pd.Series[float]] = {}
        for name in map(str, self.frame.columns):
            match = _HORIZON.fullmatch(name)
            if match is None:
                continue
            kind, months = match.group(1), float(match.group(2))
            if months <= 0:
                raise self._error(f"{name}: a horizon lies after month 0")
            column = horizon_column(months)
            if column in found:
                raise self._error(f"two columns are about month {months:g}")
            values = self._probability(name)
            found[column] = values if kind == "risk" else 1 - values
        return dict(sorted(found.items(), key=lambda item: float(item[0][8:-1])))

    def _of_classes(self, levels: tuple[str, ...]) -> dict[str, pd.Series[float]]:
        given = {level: f"p_{level}" for level in levels if f"p_{level}" in self.frame}
        found = {level: self._probability(column) for level, column in given.items()}
        if len(levels) == 2 and len(found) == 1:
            [(level, values)] = found.items()
            other = next(name for name in levels if name != level)
            found[other] = 1 - values
        if found and len(found) < len(levels):
            lacking = ", ".join(f"p_{level}" for level in levels if level not in found)
            raise self._error(f"no column {lacking}", fix="Give the probability of every class.")
        if found:
            total = sum(found.values())
            wrong = (np.abs(np.asarray(total) - 1) > 1e-3) & np.isfinite(np.asarray(total))
            if wrong.any():
                rows = _rows(self.frame[wrong].index)
                raise self._error(f"probabilities of the classes do not sum to 1 in {rows}")
        return {f"p_{level}": found[level] for level in levels if level in found}

    def risk(
        self, probabilities: dict[str, pd.Series[float]], outcome: Outcome
    ) -> pd.Series[float]:
        if "risk" in self.frame:
            return self._numbers("risk")
        if not probabilities:
            wanted = (
                ", ".join(f"p_{level}" for level in outcome.levels)
                if isinstance(outcome, Classes)
                else "risk_at_<months>m or survival_at_<months>m"
            )
            raise self._error("nothing is predicted", fix=f"Name a column risk, or {wanted}.")
        last = list(probabilities)[-1]
        self.notes.append(f"The file has no column risk; patients are ranked by {last}.")
        return probabilities[last]

    def note_unused(self, named: set[str]) -> None:
        unused = [
            name
            for name in map(str, self.frame.columns)
            if name not in (*_NAMES, *named) and not _HORIZON.fullmatch(name) and name[:2] != "p_"
        ]
        if unused:
            self.notes.append(
                f"Columns of the file that were not used: {', '.join(unused)} (outcomes and "
                "covariates come from the cohort's own tables)."
            )

    def _refuse_misspelt(self, outcome: Outcome) -> None:
        """A column that looks like a prediction and is none would silently be lost."""
        levels = outcome.levels if isinstance(outcome, Classes) else ()
        for name in map(str, self.frame.columns):
            legal = name in _NAMES or name in {f"p_{level}" for level in levels}
            legal |= not levels and _HORIZON.fullmatch(name) is not None
            if not legal and _LOOKS_LIKE.match(name):
                fix = "Predictions are named risk (any scale), "
                fix += (
                    "and " + ", ".join(f"p_{level}" for level in levels)
                    if levels
                    else "risk_at_60m or survival_at_60m (probabilities, month in the name)"
                )
                raise self._error(
                    f"column {name!r} looks like a prediction, but is none", fix=fix + "."
                )

    def _probability(self, name: str) -> pd.Series[float]:
        values = self._numbers(name)
        wrong = (values < 0) | (values > 1)
        if wrong.any():
            raise self._error(
                f"{name} lies outside 0 to 1 in {_rows(values[wrong])}",
                fix="Probabilities are needed, not percentages or linear predictors.",
            )
        return values

    def _numbers(self, name: str) -> pd.Series[float]:
        cells = self.frame[name]
        empty = is_among(cells, MISSING)
        wrong = ~is_number(cells) & ~empty
        if wrong.any():
            first = cells[wrong].iloc[0]
            raise self._error(
                f"{name} is no number in {_rows(cells[wrong])}, the first is {first!r}",
                fix="Write decimals with a point. A missing value is empty or NA.",
            )
        return cells.mask(empty, "nan").astype(np.float64)

    def _error(self, problem: str, *, fix: str | None = None) -> PredictionsError:
        return PredictionsError(problem, where=self.path, fix=fix)


def _check_once(table: pd.DataFrame, path: Path) -> None:
    twice = table.duplicated(["patient", "model", "repeat"], keep=False)
    if twice.any():
        first = table[twice]
        raise PredictionsError(
            f"a patient is predicted more than once by model {first['model'].iloc[0]!r}: "
            f"{_rows(first)}",
            where=path,
            fix="Give one row a patient and model (and repeat); name models in a column model.",
        )


def _rows(found: pd.Series[float] | pd.Series[str] | pd.DataFrame | pd.Index[int]) -> str:
    index: Iterable[object] = found if isinstance(found, pd.Index) else found.index
    return say_rows(index)
