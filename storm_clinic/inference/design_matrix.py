"""Covariates as columns of a design matrix: one way for every table of the same cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError


@dataclass(frozen=True)
class CodedVariable:
    """How one covariate becomes columns.

    Attributes
    ----------
    name : str
    levels : tuple of str
        Those that get a column each; empty for a continuous covariate, which is its own column.
    reference : str
        The level that the others are compared with; empty for a continuous covariate.
    """

    name: str
    levels: tuple[str, ...] = ()
    reference: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns, e.g. ``age`` or ``stage: III against I``."""
        if not self.levels:
            return (self.name,)
        return tuple(f"{self.name}: {level} against {self.reference}" for level in self.levels)


@dataclass(frozen=True, eq=False)
class Design:
    """A design matrix without an intercept.

    Attributes
    ----------
    matrix : float64 array, shape (n_patients, p)
    names : tuple of str, length p
    terms : mapping of str to positions of columns
        Columns that are tested together.
    """

    matrix: Floats
    names: tuple[str, ...]
    terms: Mapping[str, tuple[int, ...]]

    def before(self, column: Floats, name: str) -> Design:
        """The same with one more covariate, in front."""
        terms = {name: (0,)} | {t: tuple(k + 1 for k in at) for t, at in self.terms.items()}
        return Design(np.column_stack([column, self.matrix]), (name, *self.names), terms)


@dataclass(frozen=True)
class Coding:
    """How a table of covariates becomes a design matrix, decided once.

    A categorical covariate is compared with its first level that occurs if its levels are ordered,
    else with its most frequent one.

    Attributes
    ----------
    variables : tuple of CodedVariable
    notes : tuple of str
        What was left out, and why.
    """

    variables: tuple[CodedVariable, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: pd.DataFrame) -> Coding:
        """Decide from what is known in a table.

        Parameters
        ----------
        table : DataFrame
            float64 (NaN where missing) or categorical columns, one row a patient.

        Raises
        ------
        StatisticsError
            If a column is of another type.
        """
        variables, notes = [], []
        for name in table:
            coded, note = _coded(str(name), table[name])
            variables += [] if coded is None else [coded]
            notes += [note] if note else []
        return cls(tuple(variables), tuple(notes))

    @property
    def names(self) -> tuple[str, ...]:
        """Covariates that have columns."""
        return tuple(variable.name for variable in self.variables)

    @property
    def continuous(self) -> tuple[str, ...]:
        """Those that are their own column."""
        return tuple(variable.name for variable in self.variables if not variable.levels)

    def without(self, name: str) -> Coding:
        """The same but for one covariate."""
        return Coding(tuple(v for v in self.variables if v.name != name), self.notes)

    def complete(self, table: pd.DataFrame) -> pd.Series:
        """True for patients in whom all coded covariates are known."""
        return table[list(self.names)].notna().all(axis=1)

    def design(self, table: pd.DataFrame) -> Design:
        """Columns of a table without missing values, shape (n_patients, p); p may be 0.

        Raises
        ------
        StatisticsError
            If a coded covariate has a missing value, or a level that this coding has not.
        """
        columns: list[Floats] = []
        names: list[str] = []
        terms: dict[str, tuple[int, ...]] = {}
        for variable in self.variables:
            values = table[variable.name]
            if values.isna().any():
                raise StatisticsError(
                    f"{int(values.isna().sum())} patients lack {variable.name}",
                    fix="Leave out incomplete patients, or impute them before.",
                )
            own = _columns(variable, values)
            terms[variable.name] = tuple(range(len(names), len(names) + len(own)))
            columns += own
            names += variable.columns
        matrix = np.column_stack(columns) if columns else np.empty((len(table), 0))
        return Design(matrix, tuple(names), terms)


def _coded(name: str, values: pd.Series) -> tuple[CodedVariable | None, str]:
    """The coding of one column, and what was left out of it."""
    known = values.dropna()
    if known.empty:
        return None, f"{name} is left out: no patient has a known value"
    if not isinstance(values.dtype, pd.CategoricalDtype):
        if not pd.api.types.is_float_dtype(values.dtype):
            raise StatisticsError(
                f"{name} is neither a number nor a category",
                fix="Declare it as continuous, ordinal or nominal.",
            )
        if not np.isfinite(known).all():
            raise StatisticsError(f"{name} has an infinite value")
        if known.nunique() == 1:
            return None, f"{name} is left out: every known value is {known.iloc[0]:g}"
        return CodedVariable(name), ""
    counts = known.value_counts(sort=False)
    seen = [level for level in values.cat.categories if counts[level] > 0]
    unseen = [str(level) for level in values.cat.categories if counts[level] == 0]
    if len(seen) == 1:
        return None, f"{name} is left out: every known value is {seen[0]}"
    ordered = bool(values.cat.ordered)
    reference = seen[0] if ordered else max(seen, key=lambda level: counts[level])
    levels = tuple(str(level) for level in seen if level != reference)
    note = f"no patient with {name} {', '.join(unseen)}" if unseen else ""
    return CodedVariable(name, levels, str(reference)), note


def _columns(variable: CodedVariable, values: pd.Series) -> list[Floats]:
    if not variable.levels:
        return [values.to_numpy(np.float64)]
    labels = values.astype(str).to_numpy()
    unknown = sorted(set(labels) - {variable.reference, *variable.levels})
    if unknown:
        raise StatisticsError(
            f"{variable.name} has levels that were not seen before: {', '.join(unknown)}"
        )
    return [np.asarray(labels == level, dtype=np.float64) for level in variable.levels]
