"""A clinical table as the columns of a regression, coded once so that every copy is coded alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Bools, Floats
from storm_clinic.errors import StatisticsError


@dataclass(frozen=True, eq=False)
class Design:
    """Columns of a regression.

    Attributes
    ----------
    matrix : float64 array, shape (n_patients, p)
        NaN where a value is missing.
    names : tuple of str, length p
    terms : mapping of str to tuple of int
        Columns that belong together: those of one categorical covariate.
    """

    matrix: Floats
    names: tuple[str, ...]
    terms: Mapping[str, tuple[int, ...]]

    @property
    def complete(self) -> Bools:
        """True for patients without a missing value, shape (n_patients,)."""
        return np.asarray(~np.isnan(self.matrix).any(axis=1))

    def take(self, rows: ArrayLike) -> Design:
        """The patients at these positions (or under this mask)."""
        return replace(self, matrix=self.matrix[np.asarray(rows)])

    def without(self, term: str) -> Design:
        """All columns but those of one term."""
        kept = [at for at in range(len(self.names)) if at not in self.terms[term]]
        position = {at: new for new, at in enumerate(kept)}
        terms = {
            name: tuple(position[at] for at in columns)
            for name, columns in self.terms.items()
            if name != term
        }
        return Design(self.matrix[:, kept], tuple(self.names[at] for at in kept), terms)

    def behind(self, name: str, values: ArrayLike) -> Design:
        """The same with one more column in front.

        Raises
        ------
        StatisticsError
            If there is a term of that name.
        """
        if name in self.terms:
            raise StatisticsError(f"two terms are named {name!r}", fix="Rename one of them.")
        terms = {k: tuple(at + 1 for at in columns) for k, columns in self.terms.items()}
        matrix = np.column_stack([np.asarray(values, dtype=np.float64), self.matrix])
        return Design(matrix, (name, *self.names), {name: (0,), **terms})


def only(name: str, values: ArrayLike) -> Design:
    """A design of one column."""
    return Design(np.asarray(values, dtype=np.float64)[:, None], (name,), {name: (0,)})


@dataclass(frozen=True)
class CodedColumn:
    """How one covariate becomes columns.

    Attributes
    ----------
    name : str
    levels : tuple of str
        The reference first, then one column a level; empty for numbers.
    """

    name: str
    levels: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{self.name}: {level}" for level in self.levels[1:]) or (self.name,)

    def numbers(self, values: pd.Series) -> Floats:
        """(n_patients, n_columns), NaN where the value is missing."""
        if not self.levels:
            return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))[:, None]
        known = values.notna().to_numpy()
        text = values.astype(str).to_numpy()
        strange = known & ~np.isin(text, self.levels)
        if strange.any():
            raise StatisticsError(
                f"level {text[strange][0]!r} of {int(strange.sum())} patients was not there when "
                "the covariate was coded",
                where=self.name,
                fix="Code the covariates on a table that holds every level.",
            )
        hot: Floats = np.asarray(text[:, None] == np.array(self.levels[1:]), dtype=np.float64)
        hot[~known] = np.nan
        return hot


@dataclass(frozen=True)
class Coding:
    """How a table of covariates becomes a design.

    Numbers enter as they are; a categorical covariate as one 0/1 column a level but the reference,
    which is its most frequent level, or the first of an ordered one.

    Attributes
    ----------
    columns : tuple of CodedColumn
    notes : tuple of str
        What was left out, and why.
    """

    columns: tuple[CodedColumn, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: pd.DataFrame) -> Coding:
        """Decide references and leave out what cannot have a coefficient.

        Parameters
        ----------
        table : DataFrame, n_patients rows
            Numbers (NaN where missing) or categorical columns. The same coding serves every
            completed copy of it.
        """
        columns, notes = [], []
        for name in table.columns:
            column, note = _coded(str(name), table[name])
            columns += [column] if column else []
            notes += [note] if note else []
        return cls(tuple(columns), tuple(notes))

    def design(self, table: pd.DataFrame) -> Design:
        """The columns of a table that has these covariates."""
        blocks = [column.numbers(table[column.name]) for column in self.columns]
        names = tuple(name for column in self.columns for name in column.columns)
        terms, at = {}, 0
        for column, block in zip(self.columns, blocks, strict=True):
            terms[column.name] = tuple(range(at, at + block.shape[1]))
            at += block.shape[1]
        matrix = np.concatenate([np.empty((len(table), 0)), *blocks], axis=1)
        return Design(matrix, names, terms)


def _coded(name: str, values: pd.Series) -> tuple[CodedColumn | None, str]:
    known = values.dropna()
    if known.empty:
        return None, f"{name}: no value is known; left out."
    if not isinstance(values.dtype, pd.CategoricalDtype):
        if not pd.api.types.is_numeric_dtype(values.dtype):
            return None, f"{name}: neither numbers nor declared levels; left out."
        if known.nunique() == 1:
            return None, f"{name}: the same in all patients; left out."
        return CodedColumn(name), ""
    counts = known.astype(str).value_counts()
    declared = [str(level) for level in values.cat.categories]
    seen = [level for level in declared if counts.get(level, 0) > 0]
    unseen = [level for level in declared if level not in seen]
    note = f"{name}: no patient is {', '.join(unseen)}." if unseen else ""
    if len(seen) == 1:
        return None, f"{name}: the same in all patients; left out."
    if not values.cat.ordered:
        # max keeps the first of equals, so that the reference does not hang on the order of rows
        first = max(seen, key=lambda level: int(counts[level]))
        seen = [first, *(level for level in seen if level != first)]
    return CodedColumn(name, tuple(seen)), note
