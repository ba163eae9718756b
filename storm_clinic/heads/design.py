"""Tiles, tables and clinical covariates as one design matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import ContractMismatch, InputError
from storm_clinic.heads.block import Block, rows_missing, table_values
from storm_clinic.heads.contract import Option, PatientData
from storm_clinic.heads.covariates import Covariates, missing_indicators
from storm_clinic.heads.tile_pooling import N_PARTS, pool
from storm_clinic.study import kind_of

Floats = NDArray[np.float64]


def components_option(default: int) -> Option:
    """The option ``components`` of heads on a design matrix."""
    about = "Principal components of each input with more columns than that; 0 keeps all columns."
    return Option(default, about, 0, 512)


def fit_covariates(data: PatientData, inputs: tuple[str, ...]) -> Covariates | None:
    """Preprocessing of the clinical table, if it is among the inputs."""
    if "clinical" not in inputs:
        return None
    if data.clinical is None or not len(data.clinical.columns):
        raise InputError("the model sees the input 'clinical', and there is no covariate")
    return Covariates.fit(data.clinical)


def encode_clinical(
    covariates: Covariates | None, data: PatientData
) -> tuple[Floats, tuple[str, ...]]:
    """Clinical block, (n_patients, n_covariates), without columns where it is no input."""
    if covariates is None:
        return np.empty((len(data), 0)), ()
    if data.clinical is None:
        raise InputError("the model sees the input 'clinical', and these patients have no table")
    return covariates.encode(data.clinical)


@dataclass(frozen=True, eq=False)
class Design:
    """A block for each input of tiles or a table, in the order of the inputs; then the covariates.

    Attributes
    ----------
    pooling : str
        How tiles become one row; see `storm_clinic.heads.tile_pooling`.
    columns : dict of str to tuple of str
        By input: a table's columns in training, in order; empty for tiles.
    blocks : dict of str to Block
    covariates : Covariates, optional
    notes : tuple of str
        What was dropped in training, and why.
    """

    pooling: str
    columns: Mapping[str, tuple[str, ...]]
    blocks: Mapping[str, Block]
    covariates: Covariates | None
    notes: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        data: PatientData,
        inputs: tuple[str, ...],
        *,
        pooling: str = "mean",
        n_components: int = 0,
    ) -> tuple[Design, Floats]:
        """Learn from training patients; also gives their matrix, so that tiles are read once.

        Parameters
        ----------
        data : PatientData
            Training patients, and nobody else.
        inputs : tuple of str
            What the model sees; nothing else of the data is looked at.
        pooling : str
            As `storm_clinic.heads.tile_pooling.pool`.
        n_components : int
            Principal components of each block with more columns; 0 keeps all columns.

        Raises
        ------
        InputError
            If an input is not there, or holds an infinite value.
        TrainingError
            If nothing of an input varies.
        """
        names = [name for name in inputs if kind_of(name) != "clinical"]
        columns = {name: _columns_of(data, name) for name in names}
        values = {name: _values(data, name, columns[name], pooling) for name in names}
        absent = {name: rows_missing(rows) for name, rows in values.items()}
        indicators, notes = missing_indicators(absent)
        blocks = {
            name: Block.fit(name, rows, n_components=n_components, indicator=name in indicators)
            for name, rows in values.items()
        }
        notes = (*_dropped(blocks), *notes)
        covariates = fit_covariates(data, inputs)
        if covariates is not None:
            notes = (*notes, *covariates.notes)
        parts = [block.encode(values[name]) for name, block in blocks.items()]
        matrix = np.hstack([*parts, encode_clinical(covariates, data)[0]])
        return cls(pooling, columns, blocks, covariates, notes), matrix

    @property
    def n_block_columns(self) -> int:
        """Columns that come from tiles and tables; the rest are clinical."""
        return sum(block.n_numbers for block in self.blocks.values())

    def encode(self, data: PatientData) -> tuple[Floats, tuple[str, ...]]:
        """Design matrix without gaps, (n_patients, n_columns), and notes on these patients.

        Raises
        ------
        InputError
            If these patients come without an input, or it holds an infinite value.
        ContractMismatch
            If embeddings have another width than those that the model was trained on.
        """
        parts, notes = [], []
        for name, block in self.blocks.items():
            if kind_of(name) == "tiles":
                width = len(block.kept) // N_PARTS[self.pooling]
                check_tiles(data, name, width, self.columns[name])
            values = _values(data, name, self.columns[name], self.pooling)
            parts.append(block.encode(values))
            notes += self._notes_on(data, name, values)
        clinical, more = encode_clinical(self.covariates, data)
        return np.hstack([*parts, clinical]), (*notes, *more)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays: dict[str, NDArray[Any]] = {}
        blocks = []
        for name, block in self.blocks.items():
            more, rules = block.state()
            arrays |= add_prefix(f"block.{name}", more)
            blocks.append({"name": name, "columns": list(self.columns[name]), **rules})
        settings = {"pooling": self.pooling, "blocks": blocks, "notes": list(self.notes)}
        return with_covariates(arrays, settings, self.covariates)

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Design:
        """The same, from what was stored."""
        blocks = {
            rules["name"]: Block.from_state(drop_prefix(f"block.{rules['name']}", arrays), rules)
            for rules in settings["blocks"]
        }
        return cls(
            pooling=settings["pooling"],
            columns={rules["name"]: tuple(rules["columns"]) for rules in settings["blocks"]},
            blocks=blocks,
            covariates=restore_covariates(arrays, settings),
            notes=tuple(settings["notes"]),
        )

    def _notes_on(self, data: PatientData, name: str, values: Floats) -> list[str]:
        notes = []
        n_absent = int(rows_missing(values).sum())
        if n_absent:
            guess = "its training mean stands in"
            if self.blocks[name].indicator:
                guess = "its training mean and an indicator stand in"
            notes.append(f"{name}: missing in {n_absent} patients; {guess}")
        if kind_of(name) == "tiles":
            return notes
        wanted = self.columns[name]
        lost = [column for column in wanted if column not in data.table(name).columns]
        if lost:
            notes.append(
                f"{name}: {len(lost)} of {len(wanted)} columns are not in this table, the first "
                f"is {lost[0]}; training means stand in"
            )
        return notes


def _columns_of(data: PatientData, name: str) -> tuple[str, ...]:
    if kind_of(name) == "tiles":
        return data.tiles(name).columns
    return tuple(str(column) for column in data.table(name).columns)


def _values(data: PatientData, name: str, columns: tuple[str, ...], pooling: str) -> Floats:
    """One row a patient, NaN where a value is missing: pooled tiles, or a table's columns."""
    if kind_of(name) == "tiles":
        return pool(data.tiles(name), pooling)
    return table_values(name, data.table(name), columns)


def check_tiles(data: PatientData, name: str, width: int, columns: tuple[str, ...]) -> None:
    """Refuse tiles of another width, or with other columns, than the model was trained on.

    Raises
    ------
    ContractMismatch
        Naming both widths, or a column that is not the same.
    """
    bags = data.tiles(name)
    if bags.columns != columns:
        pairs = zip_longest(columns, bags.columns, fillvalue="nothing")
        ours, theirs = next(pair for pair in pairs if pair[0] != pair[1])
        raise ContractMismatch(
            f"has {theirs} where the model was trained on {ours}, of {len(columns)} columns",
            where=f"input {name!r}",
            fix="Make the STORM files with the checkpoint and the genes of the model's.",
        )
    if bags.width != width:
        raise ContractMismatch(
            f"embeddings have {bags.width} features, the model was trained on {width}",
            where=f"input {name!r}",
            fix="Use features of the encoder that the model was trained with.",
        )


def _dropped(blocks: Mapping[str, Block]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {block.n_dropped} of {len(block.kept)} columns do not vary in training, dropped"
        for name, block in blocks.items()
        if block.n_dropped
    )


def with_covariates(
    arrays: dict[str, NDArray[Any]], settings: dict[str, Any], covariates: Covariates | None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """A state, with the clinical preprocessing's added where there is one."""
    if covariates is None:
        return arrays, {**settings, "covariates": None}
    more, rules = covariates.state()
    return arrays | add_prefix("covariates", more), {**settings, "covariates": rules}


def restore_covariates(
    arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
) -> Covariates | None:
    """The clinical preprocessing of a state, or None."""
    if settings["covariates"] is None:
        return None
    return Covariates.from_state(drop_prefix("covariates", arrays), settings["covariates"])


def add_prefix(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays under ``prefix.name``."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def drop_prefix(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays that are stored under ``prefix.``."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
