"""Predictions: the table between models and statistics, from any program. No outcomes inside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.errors import PredictionsError
from storm_clinic.files import atomic_write, digest_file

Bools = NDArray[np.bool_]

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
            table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
        except (OSError, ValueError) as error:
            raise PredictionsError(f"cannot be read: {error}", where=path) from error
        try:
            return cls(table)
        except PredictionsError as error:
            raise PredictionsError(error.problem, where=path, fix=error.fix) from error

    def write(self, path: str | Path) -> str:
        """Write parquet (or CSV, by the ending) atomically; returns the file's SHA-256."""
        path = Path(path)
        with atomic_write(path) as part:
            if path.suffix == ".parquet":
                self.table.to_parquet(part, index=False)
            else:
                self.table.to_csv(part, index=False)
        return digest_file(path)


def _read_csv(path: Path) -> pd.DataFrame:
    text = dict.fromkeys(("cohort", "patient_key", "model"), str)
    table = pd.read_csv(
        path,
        dtype=text,
        keep_default_na=False,
        na_values={"risk": [""]},
        float_precision="round_trip",  # pandas' default reader may be off by the last bit
    )
    # Other programs seldom cross-validate.
    for name in ("repeat", "fold"):
        if name not in table:
            table[name] = -1
    return table
