"""What a network sees of patients: tiles, encoded tables, covariates, and who lacks what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData
from storm_clinic.heads.covariates import Covariates
from storm_clinic.heads.design import (
    add_prefix,
    check_tiles,
    drop_prefix,
    encode_clinical,
    fit_covariates,
    restore_covariates,
    with_covariates,
)
from storm_clinic.heads.table_encoder import TableEncoder
from storm_clinic.study import kind_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TileScale:
    """Mean and standard deviation of each feature over the training tiles of one input.

    Attributes
    ----------
    centre, scale : float64 array, shape (width,)
    columns : tuple of str
        What each feature is, such as a gene; empty where they have no names.
    """

    centre: Floats
    scale: Floats
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Encoded:
    """Some patients as a network takes them.

    Attributes
    ----------
    tiles : dict of str to (Bags, TileScale)
    tables : dict of str to float64 array, shape (n_patients, n_numbers)
        By `table_key`.
    present : dict of str to bool array, shape (n_patients,)
        Who has which tiles and tables.
    clinical : float64 array, shape (n_patients, n_covariates)
    notes : tuple of str
    """

    tiles: dict[str, tuple[Bags, TileScale]]
    tables: dict[str, Floats]
    present: dict[str, Bools]
    clinical: Floats
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clinical)


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """How patients become what a network takes, learned on training patients.

    Attributes
    ----------
    tiles : dict of str to TileScale
        By input, in the order of the study file.
    tables : dict of str to TableEncoder
    covariates : Covariates, optional
    """

    tiles: dict[str, TileScale]
    tables: dict[str, TableEncoder]
    covariates: Covariates | None

    @classmethod
    def fit(cls, data: PatientData, inputs: tuple[str, ...], n_components: int) -> NetworkInputs:
        """Learn scales of tiles, encodings of tables and of covariates.

        Raises
        ------
        InputError, TrainingError
            If an input is not there, or nothing of it varies.
        """
        tiles = {}
        for name in (name for name in inputs if kind_of(name) == "tiles"):
            bags = data.tiles(name)
            tiles[name] = TileScale(*bags.tile_moments(), bags.columns)
        tables = {
            name: TableEncoder.fit(name, data.table(name), n_components)
            for name in inputs
            if kind_of(name) == "table"
        }
        return cls(tiles, tables, fit_covariates(data, inputs))

    @property
    def widths(self) -> dict[str, int]:
        """Numbers of each tile, by input, and of each table, by `table_key`."""
        of_tiles = {name: len(scale.centre) for name, scale in self.tiles.items()}
        of_tables = {table_key(name): encoder.n_numbers for name, encoder in self.tables.items()}
        return of_tiles | of_tables

    @property
    def notes(self) -> tuple[str, ...]:
        """What the clinical preprocessing dropped in training, and why."""
        return () if self.covariates is None else self.covariates.notes

    def encode(self, data: PatientData) -> Encoded:
        """Patients as the network takes them.

        Raises
        ------
        InputError
            If an input is not there.
        ContractMismatch
            If tiles have another width than in training.
        """
        clinical, notes = encode_clinical(self.covariates, data)
        tiles, tables, present = {}, {}, {}
        for name, scale in self.tiles.items():
            bags = data.tiles(name)
            check_tiles(data, name, len(scale.centre), scale.columns)
            tiles[name], present[name] = (bags, scale), data.present(name)
            if not present[name].all():
                n_absent = int((~present[name]).sum())
                notes = (*notes, f"{name}: {n_absent} patients have no tile; masked")
        for name, encoder in self.tables.items():
            key = table_key(name)
            tables[key], present[key], more = encoder.encode(data.table(name))
            notes = (*notes, *more)
        return Encoded(tiles, tables, present, clinical, notes)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, scale in self.tiles.items():
            arrays |= add_prefix(name, {"centre": scale.centre, "scale": scale.scale})
        tables = []  # a list: the order of inputs is part of the model, and JSON may sort keys
        for name, encoder in self.tables.items():
            more, rules = encoder.state()
            tables.append(rules)
            arrays |= add_prefix(name, more)
        settings: dict[str, Any] = {"tiles": list(self.tiles), "tables": tables}
        named = {name: list(s.columns) for name, s in self.tiles.items() if s.columns}
        if named:  # models of tiles without names are stored as they always were
            settings["columns"] = named
        return with_covariates(arrays, settings, self.covariates)

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> NetworkInputs:
        """The same, from what was stored."""
        columns = settings.get("columns", {})
        tiles = {
            name: TileScale(
                arrays[f"{name}.centre"], arrays[f"{name}.scale"], tuple(columns.get(name, ()))
            )
            for name in settings["tiles"]
        }
        tables = {
            rules["name"]: TableEncoder.from_state(drop_prefix(rules["name"], arrays), rules)
            for rules in settings["tables"]
        }
        return cls(tiles, tables, restore_covariates(arrays, settings))


def table_key(name: str) -> str:
    """What a table is called inside a network, where ``values`` or ``type`` would be taken."""
    return f"{name} table"
