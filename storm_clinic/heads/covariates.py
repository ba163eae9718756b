"""Clinical tables as numbers: fitted on training patients, stored with the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.errors import CohortError, TrainingError
from storm_clinic.heads.missing_values import NormalModel

Floats = NDArray[np.float64]
Kind = Literal["continuous", "ordinal", "nominal"]

_LEAST_MISSING = 5  # patients without a value, below which its absence cannot be learned from


@dataclass(frozen=True)
class Covariate:
    """One column of the clinical table.

    Attributes
    ----------
    name : str
    kind : "continuous", "ordinal" or "nominal"
    levels : tuple of str
        In order; an ordinal level counts as its position.
    seen : tuple of str
        Levels that occur in training; the first is a nominal covariate's reference.
    """

    name: str
    kind: Kind
    levels: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()

    @classmethod
    def of(cls, column: pd.Series) -> Covariate:
        """Read kind and levels from a typed column."""
        name = str(column.name)
        if isinstance(column.dtype, pd.CategoricalDtype):
            levels = tuple(str(level) for level in column.cat.categories)
            present = set(column.dropna().astype(str))
            seen = tuple(level for level in levels if level in present)
            return cls(name, "ordinal" if column.cat.ordered else "nominal", levels, seen)
        if not pd.api.types.is_numeric_dtype(column.dtype):
            raise CohortError(
                f"is {column.dtype}, neither numbers nor declared levels",
                where=f"column {name!r}",
                fix="Declare its kind in cohort.yaml.",
            )
        return cls(name, "continuous")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the numbers it becomes."""
        if self.kind == "nominal":
            return tuple(f"{self.name}={level}" for level in self.seen[1:])
        return (self.name,)

    def numbers(self, table: pd.DataFrame) -> tuple[Floats, int]:
        """Its values as numbers with NaN, (n_patients, n_features), and how many were unheard of.

        A declared level that never occurred in training has no coefficient: of a nominal
        covariate it counts as missing, of an ordinal one its position does.
        """
        if self.name not in table:
            raise CohortError(
                "the model needs this covariate and the table lacks it",
                where=f"column {self.name!r}",
            )
        if self.kind == "continuous":
            return self._continuous(table[self.name])[:, None], 0
        codes = self._codes(table[self.name])
        if self.kind == "ordinal":
            seen = [self.levels.index(level) for level in self.seen]
            return codes[:, None], int((~np.isnan(codes) & ~np.isin(codes, seen)).sum())
        position = {self.levels.index(level): at for at, level in enumerate(self.seen)}
        at = np.array(
            [position.get(int(code), np.nan) if code == code else np.nan for code in codes]
        )
        hot = (at[:, None] == np.arange(1, max(len(self.seen), 1))).astype(np.float64)
        hot[np.isnan(at)] = np.nan
        return hot, int((np.isnan(at) & ~np.isnan(codes)).sum())

    def _continuous(self, column: pd.Series) -> Floats:
        try:
            values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise CohortError(
                f"holds something that is no number: {error}", where=f"column {self.name!r}"
            ) from error
        if np.isinf(values).any():
            raise CohortError("holds an infinite value", where=f"column {self.name!r}")
        return np.asarray(values)

    def _codes(self, column: pd.Series) -> Floats:
        """Position of each level, NaN where missing."""
        text = column.astype(object).where(column.notna(), None)
        position = {level: float(at) for at, level in enumerate(self.levels)}
        unknown = sorted({str(value) for value in text if value is not None} - set(position))
        if unknown:
            raise CohortError(
                f"unknown level {unknown[0]!r}; the model knows {', '.join(self.levels)}",
                where=f"column {self.name!r}",
                fix="Declare in cohort.yaml which known level it is, or that it means missing.",
            )
        return np.array([np.nan if value is None else position[str(value)] for value in text])


@dataclass(frozen=True, eq=False)
class Covariates:
    """How a clinical table becomes a design matrix, learned from training patients.

    Continuous columns are standardised, ordinal levels become their position and are
    standardised, nominal ones become 0/1 columns without their reference, centred. Gaps are
    filled by the conditional mean of a multivariate normal. A column missing in at least five
    training patients also gives a 0/1 column that says so. Columns that never vary are dropped.

    Attributes
    ----------
    columns : tuple of Covariate
    centre, scale : float64 arrays, shape (n_numbers,)
        Taken from and divided out of each number.
    kept : bool array, shape (n_numbers,)
        Numbers that vary in training.
    normal : NormalModel
        Of the kept numbers.
    indicators : tuple of str
        Columns whose absence is itself a covariate.
    never_missing : tuple of str
        Columns without a single gap in training.
    notes : tuple of str
        What was dropped, and why.
    """

    columns: tuple[Covariate, ...]
    centre: Floats
    scale: Floats
    kept: NDArray[np.bool_]
    normal: NormalModel
    indicators: tuple[str, ...]
    never_missing: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def fit(cls, table: pd.DataFrame) -> Covariates:
        """Learn from the training patients' table.

        Raises
        ------
        CohortError
            If a column is neither numbers nor declared levels.
        TrainingError
            If no column varies.
        """
        columns = tuple(Covariate.of(table[name]) for name in table.columns)
        numbers = np.hstack([column.numbers(table)[0] for column in columns])
        names = [name for column in columns for name in column.features]
        observed = ~np.isnan(numbers).all(axis=0)
        centre, scale = np.zeros(len(names)), np.ones(len(names))
        centre[observed] = np.nanmean(numbers[:, observed], axis=0)
        deviation = np.zeros(len(names))
        deviation[observed] = np.nanstd(numbers[:, observed], axis=0)
        kept = deviation > 1e-9 * np.maximum(np.abs(centre), 1.0)
        if not kept.any():
            raise TrainingError(
                "no clinical covariate varies among the training patients",
                where=", ".join(column.name for column in columns),
            )
        # A rare level's 0/1 column, divided by its deviation, would reach far too high.
        graded = np.array([c.kind != "nominal" for c in columns for _ in c.features])
        scale[kept & graded] = deviation[kept & graded]
        standardised = ((numbers - centre) / scale)[:, kept]
        missing = {column.name: table[column.name].isna().to_numpy() for column in columns}
        never_missing = tuple(name for name, gaps in missing.items() if not gaps.any())
        indicators, notes = missing_indicators(missing)
        constant = [name for name, keep in zip(names, kept, strict=True) if not keep]
        constant += [c.name for c in columns if not c.features]
        notes = (*(f"{name}: does not vary in training, dropped" for name in constant), *notes)
        normal = NormalModel.fit(standardised)
        return cls(columns, centre, scale, kept, normal, indicators, never_missing, notes)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the design's columns."""
        names = [name for column in self.columns for name in column.features]
        kept = [name for name, keep in zip(names, self.kept, strict=True) if keep]
        return (*kept, *(f"{name} missing" for name in self.indicators))

    def encode(self, table: pd.DataFrame) -> tuple[Floats, tuple[str, ...]]:
        """Design matrix without gaps, (n_patients, n_features), and notes on these patients.

        Raises
        ------
        CohortError
            Naming the column that is absent or holds an unknown level.
        """
        parts, notes = [], []
        for column in self.columns:
            numbers, n_unseen = column.numbers(table)
            parts.append(numbers)
            if n_unseen:
                counts = "by its position" if column.kind == "ordinal" else "as missing"
                notes.append(
                    f"{column.name}: {n_unseen} patients have a level that never occurred in "
                    f"training; it counts {counts}"
                )
            n_missing = int(table[column.name].isna().sum())
            if n_missing and column.name in self.never_missing:
                notes.append(
                    f"{column.name}: missing in {n_missing} patients, never in training; filled in"
                )
        standardised = ((np.hstack(parts) - self.centre) / self.scale)[:, self.kept]
        missing = table[list(self.indicators)].isna().to_numpy(np.float64)
        return np.hstack([self.normal.fill(standardised), missing]), tuple(notes)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays = {
            "centre": self.centre,
            "scale": self.scale,
            "kept": self.kept,
            "normal_mean": self.normal.mean,
            "normal_covariance": self.normal.covariance,
        }
        columns = [
            {"name": c.name, "kind": c.kind, "levels": list(c.levels), "seen": list(c.seen)}
            for c in self.columns
        ]
        settings = {
            "columns": columns,
            "indicators": list(self.indicators),
            "never_missing": list(self.never_missing),
            "notes": list(self.notes),
        }
        return arrays, settings

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> Covariates:
        """The same, from what was stored."""
        columns = tuple(
            Covariate(c["name"], c["kind"], tuple(c["levels"]), tuple(c["seen"]))
            for c in settings["columns"]
        )
        return cls(
            columns=columns,
            centre=arrays["centre"],
            scale=arrays["scale"],
            kept=arrays["kept"],
            normal=NormalModel(arrays["normal_mean"], arrays["normal_covariance"]),
            indicators=tuple(settings["indicators"]),
            never_missing=tuple(settings["never_missing"]),
            notes=tuple(settings["notes"]),
        )


def missing_indicators(
    missing: Mapping[str, NDArray[np.bool_]],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of what absence can be learned: where at least five patients lack it and five have it.

    Parameters
    ----------
    missing : dict of str to bool array, shape (n_patients,)
        Which training patients lack each column, or each input.

    Returns
    -------
    tuple of str
        Those of which a 0/1 column says who lacks them.
    tuple of str
        Notes on the others that somebody lacks.
    """
    indicators: list[str] = []
    notes = []
    for name, gaps in missing.items():
        n_missing = int(gaps.sum())
        if not n_missing:
            continue
        twin = next((other for other in indicators if (missing[other] == gaps).all()), None)
        if min(n_missing, len(gaps) - n_missing) < _LEAST_MISSING:
            few = "missing" if n_missing < _LEAST_MISSING else "known"
            notes.append(f"{name}: {few} in under {_LEAST_MISSING} patients, no indicator of it")
        elif twin:
            notes.append(f"{name}: missing in the same patients as {twin}, one indicator for both")
        else:
            indicators.append(name)
    return tuple(indicators), tuple(notes)
