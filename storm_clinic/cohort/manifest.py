"""cohort.yaml: what a cohort's tables and columns mean. Declarations only; no table is opened."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from storm_clinic.cohort.declarations import (
    BinnedColumn,
    ColumnDeclaration,
    ContinuousColumn,
    EndpointDeclaration,
    LevelColumn,
    Text,
)
from storm_clinic.cohort.values import canonical
from storm_clinic.errors import CohortError
from storm_clinic.files import Workspace
from storm_clinic.strict_yaml import Name, StrictModel, did_you_mean, parse, read_yaml
from storm_clinic.study import IMPUTED, TILES

UNDECIDED = "DECIDE"  # a value that starts so is a question to a person, not an answer
MANIFEST = "cohort.yaml"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]


class ClinicalTable(StrictModel):
    """One row a patient."""

    path: str = Field(min_length=1, description="CSV or TSV, relative to data_root.")
    patient_id: str = Field(description="Column with the patient's id.")


class SlidesTable(StrictModel):
    """One row a slide."""

    path: str = Field(min_length=1, description="CSV or TSV, relative to data_root.")
    patient_id: str = Field(description="Column with the patient's id.")
    slide_id: str = Field(description="Column with the slide's id.")
    slide_path: str = Field(default="path", description="Column with the slide's file.")
    mpp: str = Field(default="mpp", description="Column with µm per pixel at level 0.")
    scanner: str = Field(default="scanner", description="Column with the scanner.")
    checksum: str = Field(
        default="checksum", description="Column with the file's MD5 or SHA-256, in hexadecimal."
    )


class MeasurementTable(StrictModel):
    """One row a patient, one column a measured quantity, numbers only."""

    path: str = Field(min_length=1, description="CSV, TSV or parquet, relative to data_root.")
    patient_id: str = Field(description="Column with the patient's id.")
    unit: str = Field(min_length=1, description="Unit of all columns, e.g. z-score.")
    columns: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Columns to read; default: all but patient_id."
    )
    missing: tuple[Text, ...] = Field(
        default=(), description="Markers of a missing value here, beside the cohort's."
    )

    @model_validator(mode="after")
    def _consistent(self) -> MeasurementTable:
        named = self.columns or ()
        twice = [name for name, n in Counter(named).items() if n > 1]
        if twice:
            raise ValueError(f"columns: {twice[0]!r} is named more than once")
        if self.patient_id in named:
            raise ValueError(f"columns: {self.patient_id!r} is the patient's id, not a measurement")
        return self


class Tables(StrictModel):
    """The cohort's tables."""

    clinical: ClinicalTable
    slides: SlidesTable | None = None


class Origin(StrictModel):
    """Where the data come from and what may be done with them."""

    source: str = Field(min_length=1, description="Who collected them, under which name.")
    licence: str = Field(min_length=1, description="What they may be used for.")
    citation: str | None = Field(default=None, description="Publication or address.")
    simulated: bool = Field(default=False, description="True where no patient stands behind it.")
    encoders_pretrained: tuple[str, ...] = Field(
        default=(), description="Encoders pre-trained on this source: not external to it."
    )


class Manifest(StrictModel):
    """A whole cohort.yaml."""

    format: Literal[1] = Field(description="Version of this file's format.")
    cohort: Name = Field(description="The cohort's name, the same as its folder's.")
    data_root: str | None = Field(
        default=None, description="Folder of the tables; default: this file's own."
    )
    tables: Tables = Field(description="The tables and their id columns.")
    site: str | None = Field(default=None, description="Column with the hospital.")
    columns: dict[ColumnName, ColumnDeclaration] = Field(
        default_factory=dict, description="Covariates and subgroups."
    )
    endpoints: dict[Name, EndpointDeclaration] = Field(
        default_factory=dict, description="What can be predicted."
    )
    measurements: dict[Name, MeasurementTable] = Field(
        default_factory=dict, description="Tables of numbers that models may see: rna, mutations."
    )
    missing: tuple[Text, ...] = Field(default=(), description="Markers of a missing value.")
    origin: Origin = Field(description="Where the data come from.")

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        for name in ("site", "patient_id"):
            if name in self.columns:
                raise ValueError(f"columns: {name!r} is taken; the hospital is declared by 'site:'")
        for name in self.measurements:
            if name in (*TILES, "clinical", IMPUTED):
                raise ValueError(f"measurements: {name!r} is taken by another input of models")
        for name, column in self.columns.items():
            if isinstance(column, BinnedColumn):
                self._check_binned(name, column)
            elif isinstance(column, LevelColumn):
                self._check_missing(f"columns.{name}", column.meaning, column.missing)
        for name, endpoint in self.endpoints.items():
            self._check_missing(f"endpoints.{name}", endpoint.meaning, endpoint.missing)
        return self

    def _check_binned(self, name: str, column: BinnedColumn) -> None:
        numbers = [n for n, c in self.columns.items() if isinstance(c, ContinuousColumn)]
        if column.source not in numbers:
            raise ValueError(
                f"columns.{name}: {column.source!r} is no continuous column declared here"
                + did_you_mean(column.source, numbers)
            )

    def _check_missing(
        self, where: str, meaning: Mapping[str, int], missing: tuple[str, ...]
    ) -> None:
        markers = {canonical(marker) for marker in (*self.missing, *missing)}
        both = [cell for cell in meaning if canonical(cell) in markers]
        if both:
            raise ValueError(f"{where}: {both[0]!r} is declared both as a value and as missing")


def read_manifest(path: Path) -> Manifest:
    """Read a cohort.yaml.

    Raises
    ------
    CohortError
        Naming file, line and field: a key that is unknown, missing or wrong, or a value that
        still says ``DECIDE``.
    """
    waiting = find_undecided(path)
    if waiting:
        lines = "1 line waits" if len(waiting) == 1 else f"{len(waiting)} lines wait"
        head = f"{lines} for a decision; write each answer in place of its {UNDECIDED}:"
        raise CohortError("\n  - ".join([head, *waiting]), where=path)
    return parse(Manifest, read_yaml(path, CohortError), where=str(path), error=CohortError)


def find_undecided(path: Path) -> list[str]:
    """Lines of a cohort.yaml whose value still says ``DECIDE``: line, field and question."""
    document = read_yaml(path, CohortError)
    return [f"line {line}, {field}: {text}" for field, line, text in _undecided(document)]


def find_manifest(name_or_path: str | Path, workspace: Workspace) -> Path:
    """Path of a cohort.yaml, from a cohort's name, its folder or the file itself.

    Raises
    ------
    CohortError
        If there is none; the message names the nearest cohort of the workspace.
    """
    given = Path(name_or_path).expanduser()
    if given.suffix in (".yaml", ".yml"):
        return workspace.path(given)
    if len(given.parts) > 1 or given.is_absolute():
        return workspace.path(given) / MANIFEST
    path = workspace.cohorts / given / MANIFEST
    if not path.is_file():
        known = sorted(found.parent.name for found in workspace.cohorts.glob(f"*/{MANIFEST}"))
        raise CohortError(
            f"there is no cohort {str(given)!r}{did_you_mean(str(given), known)}",
            where=path,
            fix=f"Write one with: storm-clinic init {given}",
        )
    return path


def data_folder(manifest: Manifest, path: Path, workspace: Workspace) -> Path:
    """Folder of the tables: ``data_root`` with ``${VARIABLE}`` filled in, else the manifest's own.

    Raises
    ------
    CohortError
        If a variable is not set, or the folder does not exist.
    """
    if manifest.data_root is None:
        return path.parent
    for variable in _VARIABLE.findall(manifest.data_root):
        if not os.environ.get(variable):
            raise CohortError(
                f"data_root is {manifest.data_root}, but the variable {variable} is not set",
                where=path,
                fix=f"Set it to the folder meant there: export {variable}=/path/to/data",
            )
    filled = _VARIABLE.sub(lambda match: os.environ[match.group(1)], manifest.data_root)
    folder = workspace.path(filled)
    if not folder.is_dir():
        raise CohortError(
            f"data_root {folder} is no folder on this machine",
            where=path,
            fix="Correct data_root, or put the tables there.",
        )
    return folder


def _undecided(node: Any, at: str = "") -> Iterator[tuple[str, int, str]]:
    if isinstance(node, CommentedMap):
        items = [(str(key), node.lc.key(key)[0] + 1, value) for key, value in node.items()]
    elif isinstance(node, CommentedSeq):
        items = [(str(i), node.lc.item(i)[0] + 1, value) for i, value in enumerate(node)]
    else:
        return
    for key, line, value in items:
        field = f"{at}.{key}" if at else key
        if isinstance(value, str) and value.startswith(UNDECIDED):
            yield field, line, value.removeprefix(UNDECIDED).lstrip(": ") or "not decided"
        yield from _undecided(value, field)
