"""Read one feature file, trusting nothing in it.

What a file may hold is fixed (docs/formats.md), so whatever else HDF5 can express is refused: soft
and external links, virtual datasets, storage outside the file, chunks and filters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.file_writer import FORMAT, FORMAT_VERSION, contract_attributes
from storm_clinic.features.slide_features import (
    Array,
    SlideFeatures,
    digest_array,
    largest_magnitude,
    nonfinite_rows,
)

Known = Mapping[str, Any]
_AGAIN = "The file is damaged; make it again."
_KINDS = {
    "features": ("f", 2),
    "coords": ("<i8", 2),
    "tissue": ("<f2", 1),
    "failed_coords": ("<i8", 2),
}


@dataclass(frozen=True)
class FileHeader:
    """What a feature file says about itself; ``features`` lies at byte ``offset``, contiguous."""

    slide_id: str
    n_tiles: int
    width: int
    dtype: str
    offset: int
    features_digest: str
    slide_digest: str | None
    slide_mpp: float | None
    provenance: str
    n_failed: int
    coords_digest: str | None


def read_header(path: Path, contract: FeatureContract) -> FileHeader:
    """Read what a feature file says about itself; no values.

    Raises
    ------
    FeatureError
        If it is absent, damaged, of a newer version, or not such a file; names file and key.
    ContractMismatch
        If it was not made under ``contract``.
    """
    with _opened(path) as file:
        known, datasets = _contents(file, path, contract)
        return _header(known, datasets, path)


def read_slide_file(
    path: Path, contract: FeatureContract, *, allow_nonfinite: bool = False
) -> SlideFeatures:
    """Read one slide, every array checked against its digest.

    Parameters
    ----------
    path : Path
        The file.
    contract : FeatureContract
        Of the store the file lies in.
    allow_nonfinite : bool
        Return NaN and infinity instead of refusing them; only checks want that.

    Raises
    ------
    FeatureError
        If it is absent, damaged, of a newer version, or not such a file, or a value is not
        finite; names file and key.
    ContractMismatch
        If it was not made under ``contract``.
    """
    with _opened(path) as file:
        known, datasets = _contents(file, path, contract)
        arrays: dict[str, Any] = {
            name: _values(dataset, f"{path}: {name}") for name, dataset in datasets.items()
        }
    facts: dict[str, Any] = {
        name: _text(known, path, name, optional=True)
        for name in ("slide_digest", "slide_mpp_source", "vendor", "source_digest")
    }
    facts["slide_id"] = _text(known, path, "slide_id")
    facts["slide_mpp"] = _number(known, path, "slide_mpp", optional=True)
    features = arrays["features"]
    if not allow_nonfinite and not math.isfinite(largest_magnitude(features)):
        raise FeatureError(
            nonfinite_rows(features),
            where=f"{path}: features",
            fix="Make the file again, or leave the slide out.",
        )
    try:
        return SlideFeatures(**arrays, **facts)
    except FeatureError as error:
        raise FeatureError(error.problem, where=path, fix=_AGAIN) from error


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    with _damage(path):
        try:
            file = h5py.File(path, "r")
        except FileNotFoundError:
            raise FeatureError("there is no such file", where=path) from None
        with file:
            yield file


@contextmanager
def _damage(where: str | Path) -> Iterator[None]:
    """Turn what h5py raises on damage into a `FeatureError` that names the place."""
    try:
        yield
    # Which of these it is depends on the HDF5 call that met the damage.
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise FeatureError(f"cannot be read as HDF5: {reason}", where=where, fix=_AGAIN) from error


def _contents(
    file: h5py.File, path: Path, contract: FeatureContract
) -> tuple[Known, dict[str, h5py.Dataset]]:
    """The root's attributes and the file's datasets, of the form and contract they must have."""
    known = dict(file.attrs)
    _check_version(known, path)
    _check_links(file, path)
    _check_contract(known, path, contract)
    datasets = {name: _dataset(file, path, name) for name in _KINDS if name in file}
    if "features" not in datasets:
        raise FeatureError("there is no such dataset", where=f"{path}: features", fix=_AGAIN)
    features = datasets["features"]
    n_tiles, width = features.shape
    if width != contract.width or features.dtype.name != contract.dtype:
        raise ContractMismatch(
            f"{width} values a tile as {features.dtype.name}, but the store's contract says "
            f"{contract.width} as {contract.dtype}",
            where=f"{path}: features",
        )
    for name in ("coords", "tissue"):
        if name in datasets and len(datasets[name]) != n_tiles:
            raise FeatureError(
                f"{len(datasets[name])} rows, but features has {n_tiles}",
                where=f"{path}: {name}",
                fix=_AGAIN,
            )
    return known, datasets


def _header(known: Known, datasets: dict[str, h5py.Dataset], path: Path) -> FileHeader:
    features = datasets["features"]
    digests = {
        name: str(_text(datasets[name].attrs, path, "sha256"))
        for name in ("features", "coords")
        if name in datasets
    }
    return FileHeader(
        slide_id=str(_text(known, path, "slide_id")),
        n_tiles=features.shape[0],
        width=features.shape[1],
        dtype=features.dtype.name,
        offset=features.id.get_offset() or 0,
        features_digest=digests["features"],
        slide_digest=_text(known, path, "slide_digest", optional=True),
        slide_mpp=_number(known, path, "slide_mpp", optional=True),
        provenance=str(_text(known, path, "provenance")),
        n_failed=len(datasets["failed_coords"]) if "failed_coords" in datasets else 0,
        coords_digest=digests.get("coords"),
    )


def _check_version(known: Known, path: Path) -> None:
    if _text(known, path, "format", optional=True) != FORMAT:
        raise FeatureError(
            "not a feature file of this program",
            where=path,
            fix="Bring features made elsewhere in with 'storm-clinic features import'.",
        )
    found = _number(known, path, "format_version")
    if found != FORMAT_VERSION:
        raise FeatureError(
            f"format_version {found:g} is not {FORMAT_VERSION}, the one this version reads",
            where=path,
            fix="Update storm-clinic.",
        )


def _check_links(file: h5py.File, path: Path) -> None:
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise FeatureError("is a link to somewhere else", where=f"{path}: {name}")


def _check_contract(known: Known, path: Path, contract: FeatureContract) -> None:
    differing = []
    for name, asked in contract_attributes(contract).items():
        text = isinstance(asked, str) or (asked is None and name == "encoder_digest")
        read = _text if text else _number
        found = read(known, path, name, optional=True)
        if found != asked:
            differing.append(f"{name} is {found!r}, not {asked!r}")
    if differing:
        raise ContractMismatch(
            f"made in another way than its store's contract says: {'; '.join(differing)}",
            where=path,
            fix="Move the file to a store of its own kind, or make it again.",
        )


def _dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    """A dataset whose type, shape and storage are what the format says."""
    where = f"{path}: {name}"
    with _damage(where):
        dataset = file[name]
        _check_dataset(dataset, name, where, path.stat().st_size)
    return dataset


def _check_dataset(dataset: Any, name: str, where: str, file_bytes: int) -> None:
    if not isinstance(dataset, h5py.Dataset):
        raise FeatureError("must be a dataset", where=where)
    kind, n_dimensions = _KINDS[name]
    # Attributes of the storage come first: reading a virtual dataset would open other files.
    if dataset.is_virtual or dataset.external or dataset.chunks:
        raise FeatureError("must be stored contiguously in this file", where=where)
    if (dataset.dtype.kind if kind == "f" else dataset.dtype.str) != kind:
        raise FeatureError(f"must not be of type {dataset.dtype}", where=where)
    shape = dataset.shape
    if shape is None or len(shape) != n_dimensions or (name.endswith("coords") and shape[1] != 2):
        raise FeatureError(f"must not be of shape {shape}", where=where)
    offset = dataset.id.get_offset()
    if dataset.nbytes and (offset is None or offset + dataset.nbytes > file_bytes):
        raise FeatureError("its values are not all there", where=where, fix=_AGAIN)


def _values(dataset: h5py.Dataset, where: str) -> Array:
    with _damage(where):
        values: Array = dataset[()]
    if digest_array(values) != _text(dataset.attrs, where, "sha256"):
        raise FeatureError(
            "its values are not those that were written (SHA-256 differs)", where=where, fix=_AGAIN
        )
    return values


def _text(known: Known, where: str | Path, name: str, *, optional: bool = False) -> str | None:
    value = _attribute(known, where, name, optional)
    if value is None:
        return None
    if not isinstance(value, bytes | str):
        raise FeatureError(f"attribute {name} must be text, is {value}", where=where)
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _number(known: Known, where: str | Path, name: str, *, optional: bool = False) -> float | None:
    value = _attribute(known, where, name, optional)
    if value is None:
        return None
    if not isinstance(value, np.integer | np.floating):
        raise FeatureError(f"attribute {name} must be a number, is {value}", where=where)
    return value.item()


def _attribute(known: Known, where: str | Path, name: str, optional: bool) -> Any:
    if name not in known:
        if optional:
            return None
        raise FeatureError(f"attribute {name} is missing", where=where, fix=_AGAIN)
    return known[name]
