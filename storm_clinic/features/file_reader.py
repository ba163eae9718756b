"""Read one feature file, trusting nothing in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.file_writer import FORMAT, FORMAT_VERSION, contract_attributes
from storm_clinic.features.guarded_file import (
    AGAIN,
    Known,
    attributes_of,
    check_links,
    dataset_of,
    number_of,
    opened,
    text_of,
    values_of,
)
from storm_clinic.features.slide_features import (
    SlideFeatures,
    largest_magnitude,
    nonfinite_rows,
)

_KINDS = {
    "features": ("f", 2),
    "coords": ("<i8", 2),
    "tissue": ("<f2", 1),
    "failed_coords": ("<i8", 2),
}
_TEXTS = ("slide_digest", "slide_mpp_source", "vendor", "source_digest", "runtime", "precision")


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
    with opened(path) as file:
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
    with opened(path) as file:
        known, datasets = _contents(file, path, contract)
        arrays: dict[str, Any] = {
            name: values_of(dataset, f"{path}: {name}") for name, dataset in datasets.items()
        }
    facts: dict[str, Any] = {name: text_of(known, path, name, optional=True) for name in _TEXTS}
    facts["slide_id"] = text_of(known, path, "slide_id")
    for name in ("slide_mpp", "batch_size"):
        facts[name] = number_of(known, path, name, optional=True)
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
        raise FeatureError(error.problem, where=path, fix=AGAIN) from error


def _contents(
    file: h5py.File, path: Path, contract: FeatureContract
) -> tuple[Known, dict[str, h5py.Dataset]]:
    """The root's attributes and the file's datasets, of the form and contract they must have."""
    known = attributes_of(file, path)
    _check_version(known, path)
    check_links(file, path)
    _check_contract(known, path, contract)
    datasets = {
        name: dataset_of(file, path, name, kind) for name, kind in _KINDS.items() if name in file
    }
    if "features" not in datasets:
        raise FeatureError("there is no such dataset", where=f"{path}: features", fix=AGAIN)
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
                fix=AGAIN,
            )
    return known, datasets


def _header(known: Known, datasets: dict[str, h5py.Dataset], path: Path) -> FileHeader:
    features = datasets["features"]
    digests = {
        name: str(text_of(attributes_of(datasets[name], path), path, "sha256"))
        for name in ("features", "coords")
        if name in datasets
    }
    return FileHeader(
        slide_id=str(text_of(known, path, "slide_id")),
        n_tiles=features.shape[0],
        width=features.shape[1],
        dtype=features.dtype.name,
        offset=features.id.get_offset() or 0,
        features_digest=digests["features"],
        slide_digest=text_of(known, path, "slide_digest", optional=True),
        slide_mpp=number_of(known, path, "slide_mpp", optional=True),
        provenance=str(text_of(known, path, "provenance")),
        n_failed=len(datasets["failed_coords"]) if "failed_coords" in datasets else 0,
        coords_digest=digests.get("coords"),
    )


def _check_version(known: Known, path: Path) -> None:
    if text_of(known, path, "format", optional=True) != FORMAT:
        raise FeatureError(
            "not a feature file of this program",
            where=path,
            fix="Bring features made elsewhere in with 'storm-clinic features import'.",
        )
    found = number_of(known, path, "format_version")
    if found != FORMAT_VERSION:
        raise FeatureError(
            f"format_version {found:g} is not {FORMAT_VERSION}, the one this version reads",
            where=path,
            fix="Update storm-clinic.",
        )


def _check_contract(known: Known, path: Path, contract: FeatureContract) -> None:
    differing = []
    for name, asked in contract_attributes(contract).items():
        text = isinstance(asked, str) or (asked is None and name == "encoder_digest")
        read = text_of if text else number_of
        found = read(known, path, name, optional=True)
        if found != asked:
            differing.append(f"{name} is {found!r}, not {asked!r}")
    if differing:
        raise ContractMismatch(
            f"made in another way than its store's contract says: {'; '.join(differing)}",
            where=path,
            fix="Move the file to a store of its own kind, or make it again.",
        )
