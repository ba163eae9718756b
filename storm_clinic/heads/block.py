"""One input as a block of a design matrix: standardised, reduced, masked where it is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.errors import InputError, TrainingError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FEWEST = 2  # patients with an input, below which nothing of it varies


@dataclass(frozen=True, eq=False)
class Block:
    """How an input's columns become numbers, learned from the training patients who have it.

    A gap in a measured row counts as the column's training mean. A patient without the input
    counts as average in all of it; where there is an indicator, it says that this is a guess.

    Attributes
    ----------
    kept : bool array, shape (n_columns,)
        Columns that vary in training.
    centre, scale : float64 arrays, shape (n_kept,)
        Taken from and divided out of each.
    axes : float64 array, shape (n_kept, n_components), optional
        Principal axes with which the standardised columns are multiplied; each component then has
        unit variance in training.
    indicator : bool
        Whether a last 0/1 column says who lacks the input.
    """

    kept: Bools
    centre: Floats
    scale: Floats
    axes: Floats | None
    indicator: bool

    @classmethod
    def fit(cls, name: str, values: Floats, *, n_components: int, indicator: bool) -> Block:
        """Learn from training patients.

        Parameters
        ----------
        name : str
            Of the input, for messages.
        values : float64 array, shape (n_patients, n_columns)
            NaN where a value is missing; a row of NaN where the patient lacks the input.
        n_components : int
            More columns than this become so many principal components; 0 keeps all columns.
        indicator : bool
            Whether absence is itself a covariate.

        Raises
        ------
        TrainingError
            If fewer than two patients have the input, or nothing of it varies.
        """
        measured = values[~rows_missing(values)]
        if len(measured) < _FEWEST:
            raise TrainingError(
                f"only {len(measured)} of {len(values)} training patients have it",
                where=f"input {name!r}",
                fix="Leave it out, or use fewer folds.",
            )
        seen: Bools = np.asarray(~np.isnan(measured).all(axis=0))
        centre, spread = np.zeros(len(seen)), np.zeros(len(seen))
        centre[seen] = np.nanmean(measured[:, seen], axis=0)
        spread[seen] = np.nanstd(measured[:, seen], axis=0)
        kept = spread > 1e-9 * np.maximum(np.abs(centre), 1e-12)
        if not kept.any():
            raise TrainingError(
                "nothing of it varies among the training patients", where=f"input {name!r}"
            )
        plain = cls(kept, centre[kept], spread[kept], None, indicator)
        if not 0 < n_components < int(kept.sum()):
            return plain
        axes = _principal_axes(plain._standardised(measured), n_components)
        return cls(kept, centre[kept], spread[kept], axes, indicator)

    @property
    def n_dropped(self) -> int:
        """Columns that do not vary in training."""
        return int((~self.kept).sum())

    @property
    def n_numbers(self) -> int:
        """Columns of the design matrix."""
        numbers = len(self.centre) if self.axes is None else self.axes.shape[1]
        return int(numbers) + self.indicator

    def encode(self, values: Floats) -> Floats:
        """Numbers without gaps, shape (n_patients, n_numbers)."""
        numbers = self._standardised(values)
        if self.axes is not None:
            # Summed row by row: a matrix product rounds by how many patients come together.
            axes = self.axes
            rows = [(row[:, None] * axes).sum(axis=0) for row in numbers]
            numbers = np.array(rows).reshape(-1, axes.shape[1])
        if not self.indicator:
            return numbers
        return np.column_stack([numbers, rows_missing(values).astype(np.float64)])

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays = {"kept": self.kept, "centre": self.centre, "scale": self.scale}
        if self.axes is not None:
            arrays["axes"] = self.axes
        return arrays, {"reduced": self.axes is not None, "indicator": self.indicator}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Block:
        """The same, from what was stored."""
        return cls(
            kept=arrays["kept"],
            centre=arrays["centre"],
            scale=arrays["scale"],
            axes=arrays["axes"] if settings["reduced"] else None,
            indicator=bool(settings["indicator"]),
        )

    def _standardised(self, values: Floats) -> Floats:
        standardised = (values[:, self.kept] - self.centre) / self.scale
        standardised[np.isnan(standardised)] = 0.0
        return np.asarray(standardised)


def table_values(name: str, table: pd.DataFrame, columns: tuple[str, ...]) -> Floats:
    """A table's columns in this order, NaN where one is absent.

    Raises
    ------
    InputError
        If a value is infinite; names the column.
    """
    values = table.reindex(columns=list(columns)).to_numpy(np.float64)
    infinite = np.isinf(values).any(axis=0)
    if infinite.any():
        raise InputError(
            f"column {columns[int(np.argmax(infinite))]!r} holds an infinite value",
            where=f"input {name!r}",
        )
    return values


def rows_missing(values: Floats) -> Bools:
    """Who lacks the input: rows without any value."""
    return np.asarray(np.isnan(values).all(axis=1))


def _principal_axes(standardised: Floats, n_components: int) -> Floats:
    """Leading axes of centred columns, (n_columns, n_components), scaled to unit variance."""
    _, spread, axes = np.linalg.svd(standardised, full_matrices=False)
    spread, axes = spread[:n_components], axes[:n_components]
    # Centred rows span one dimension less than there are rows; what rounding leaves is no axis.
    varies = spread > 1e-9 * spread[0]
    return np.ascontiguousarray(axes[varies].T / (spread[varies] / np.sqrt(len(standardised))))
