"""A table of measurements as a few numbers a patient, learned on training patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.errors import TrainingError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FEWEST = 2  # measured patients, below which nothing varies


@dataclass(frozen=True, eq=False)
class TableEncoder:
    """Standardised columns, or their leading principal components where there are many.

    A gap in a measured row counts as the column's mean. A patient in whom nothing was measured is
    absent: zeros stand in for him, and `encode` says so beside them.

    Attributes
    ----------
    name : str
        Of the input.
    columns : tuple of str
        Those that vary in training, in order.
    centre, scale : float64 arrays, shape (n_columns,)
    axes : float64 array, shape (n_columns, n_numbers)
        What the standardised columns are multiplied by; each number then has unit variance.
    """

    name: str
    columns: tuple[str, ...]
    centre: Floats
    scale: Floats
    axes: Floats

    @classmethod
    def fit(cls, name: str, table: pd.DataFrame, n_components: int) -> TableEncoder:
        """Learn from the training patients' rows.

        Parameters
        ----------
        name : str
            Of the input, for messages.
        table : DataFrame, shape (n_patients, n_columns)
            float64, NaN where a value is missing.
        n_components : int
            More columns than this become so many principal components.

        Raises
        ------
        TrainingError
            If fewer than two patients were measured, or nothing varies.
        """
        values = table.to_numpy(np.float64)
        values = values[~np.isnan(values).all(axis=1)]
        if len(values) < _FEWEST:
            raise TrainingError(
                f"only {len(values)} of {len(table)} training patients have it",
                where=f"input {name!r}",
                fix="Leave it out, or use fewer folds.",
            )
        seen = ~np.isnan(values).all(axis=0)
        centre, spread = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        centre[seen] = np.nanmean(values[:, seen], axis=0)
        spread[seen] = np.nanstd(values[:, seen], axis=0)
        kept = spread > 1e-9 * np.maximum(np.abs(centre), 1e-12)
        if not kept.any():
            raise TrainingError(
                "no column varies among the training patients", where=f"input {name!r}"
            )
        centre, spread = centre[kept], spread[kept]
        columns = tuple(str(c) for c, keep in zip(table.columns, kept, strict=True) if keep)
        standardised = np.nan_to_num((values[:, kept] - centre) / spread)
        return cls(name, columns, centre, spread, _axes(standardised, n_components))

    @property
    def n_numbers(self) -> int:
        return int(self.axes.shape[1])

    def encode(self, table: pd.DataFrame) -> tuple[Floats, Bools, tuple[str, ...]]:
        """Numbers (n_patients, n_numbers), who was measured (n_patients,), and notes on them."""
        known = [column for column in self.columns if column in table.columns]
        values = table.reindex(columns=list(self.columns)).to_numpy(np.float64)
        present = ~np.isnan(values).all(axis=1)
        notes = []
        if len(known) < len(self.columns):
            lost = len(self.columns) - len(known)
            notes.append(
                f"{self.name}: {lost} of {len(self.columns)} columns are not in this table; "
                "their training means stand in"
            )
        if not present.all():
            notes.append(f"{self.name}: not measured in {int((~present).sum())} patients; masked")
        standardised = np.nan_to_num((values - self.centre) / self.scale)
        # Summed row by row: a matrix product rounds by how many patients come together.
        numbers = np.stack([(row[:, None] * self.axes).sum(axis=0) for row in standardised])
        return numbers, present, tuple(notes)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays = {"centre": self.centre, "scale": self.scale, "axes": self.axes}
        return arrays, {"name": self.name, "columns": list(self.columns)}

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> TableEncoder:
        """The same, from what was stored."""
        return cls(
            name=settings["name"],
            columns=tuple(settings["columns"]),
            centre=arrays["centre"],
            scale=arrays["scale"],
            axes=arrays["axes"],
        )


def _axes(standardised: Floats, n_components: int) -> Floats:
    if standardised.shape[1] <= n_components:
        return np.eye(standardised.shape[1])
    _, spread, axes = np.linalg.svd(standardised - standardised.mean(axis=0), full_matrices=False)
    spread, axes = spread[:n_components], axes[:n_components]
    varies = spread > 1e-9 * spread[0]
    return np.asarray(axes[varies].T / (spread[varies] / np.sqrt(len(standardised))))
