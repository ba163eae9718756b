"""A table of measurements as a few numbers a patient, for networks: a block that is masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.heads.block import Block, rows_missing, table_values

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TableEncoder:
    """A table's columns as a `Block`, and who lacks them all.

    A patient in whom nothing was measured is absent: zeros stand in for him, and `encode` says so
    beside them, so that the network masks them.

    Attributes
    ----------
    name : str
        Of the input.
    columns : tuple of str
        In the order of training.
    block : Block
    """

    name: str
    columns: tuple[str, ...]
    block: Block

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
        InputError
            If a value is infinite.
        TrainingError
            If fewer than two patients were measured, or nothing varies.
        """
        columns = tuple(str(column) for column in table.columns)
        values = table_values(name, table, columns)
        block = Block.fit(name, values, n_components=n_components, indicator=False)
        return cls(name, columns, block)

    @property
    def n_numbers(self) -> int:
        return self.block.n_numbers

    def encode(self, table: pd.DataFrame) -> tuple[Floats, Bools, tuple[str, ...]]:
        """Numbers (n_patients, n_numbers), who was measured (n_patients,), and notes on them."""
        values = table_values(self.name, table, self.columns)
        present = ~rows_missing(values)
        notes = []
        lost = sum(column not in table.columns for column in self.columns)
        if lost:
            notes.append(
                f"{self.name}: {lost} of {len(self.columns)} columns are not in this table; "
                "their training means stand in"
            )
        if not present.all():
            notes.append(f"{self.name}: not measured in {int((~present).sum())} patients; masked")
        return self.block.encode(values), present, tuple(notes)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays, rules = self.block.state()
        return arrays, {"name": self.name, "columns": list(self.columns), **rules}

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> TableEncoder:
        """The same, from what was stored."""
        return cls(settings["name"], tuple(settings["columns"]), Block.from_state(arrays, settings))
