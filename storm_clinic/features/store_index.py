"""`index.parquet`: what a store holds, derived from its files and refreshed where they differ."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from storm_clinic.errors import FeatureError, StorageError, UnsafeName
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.file_reader import read_header
from storm_clinic.files import atomic_write, safe_name

INDEX_NAME = "index.parquet"
_SUFFIX = ".h5"
_SCHEMA = pa.schema(
    [
        ("slide_id", pa.string()),
        ("n_tiles", pa.int64()),
        ("width", pa.int64()),
        ("dtype", pa.string()),
        ("slide_digest", pa.string()),
        ("slide_mpp", pa.float64()),
        ("features_digest", pa.string()),
        ("provenance", pa.string()),
        ("n_failed", pa.int64()),
        ("coords_digest", pa.string()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("problem", pa.string()),
    ]
)
Row = dict[str, Any]


def current_index(folder: Path, contract: FeatureContract) -> pd.DataFrame:
    """The index of a store, brought up to date with the files that are there now.

    Only files whose name, size or modification time the stored index does not know are opened.
    """
    schema = _SCHEMA.with_metadata(
        {"format": "storm_clinic/feature-index 1", "contract": contract.digest}
    )
    stored = _read(folder / INDEX_NAME, schema)
    known = {(row["slide_id"], row["bytes"], row["mtime_ns"]): row for row in stored}
    rows = [known.get(key) or _row(folder, key, contract) for key in _files(folder)]
    table = pa.Table.from_pylist(rows, schema=schema)
    if rows != stored:
        _write(folder / INDEX_NAME, table)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Slide id, size and modification time of every feature file, sorted."""
    with os.scandir(folder) as entries:
        found = [(e.name, e.stat()) for e in entries if e.name.endswith(_SUFFIX)]
    return sorted((n.removesuffix(_SUFFIX), s.st_size, s.st_mtime_ns) for n, s in found)


def _row(folder: Path, key: tuple[str, int, int], contract: FeatureContract) -> Row:
    slide_id, size, mtime_ns = key
    row: Row = dict.fromkeys(_SCHEMA.names)
    row |= {"slide_id": slide_id, "bytes": size, "mtime_ns": mtime_ns}
    path = folder / f"{slide_id}{_SUFFIX}"
    try:
        safe_name(slide_id, what=str(path))
        header = asdict(read_header(path, contract))
        if header.pop("slide_id") != slide_id:
            raise FeatureError("holds another slide than its name says", where=path)
    except (FeatureError, UnsafeName) as error:
        counts = {"n_tiles": 0, "width": 0, "n_failed": 0}
        return row | counts | {"problem": str(error)}
    del header["offset"]
    return row | header


def _read(path: Path, schema: pa.Schema) -> list[Row]:
    """Rows of the stored index; none if it is absent, or of another form or contract."""
    try:
        table = pq.read_table(path, memory_map=False, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return []  # absent or damaged: the files are read instead, nothing is lost
    if not table.schema.equals(schema, check_metadata=True):
        return []
    rows: list[Row] = table.to_pylist()
    return rows


def _write(path: Path, table: pa.Table) -> None:
    try:
        with atomic_write(path) as part:
            pq.write_table(table, part, write_page_checksum=True)
    except StorageError:
        # A store may lie on a read-only share; its index is then made anew each time.
        return
