"""Write one slide's features as one HDF5 file: once, atomically, the same bytes for the same input.

The format is specified in docs/formats.md. Metadata carries checksums (HDF5's version-2 object
headers), strings have fixed length so that they lie under those checksums, and every dataset
carries the SHA-256 of its values: a flipped bit is found, not computed with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import (
    Array,
    SlideFeatures,
    digest_array,
    largest_magnitude,
    nonfinite_rows,
)
from storm_clinic.files import atomic_write

FORMAT = "storm_clinic/slide-features"
FORMAT_VERSION = 1
_LIBVER = ("v110", "v110")  # fixed, so that another HDF5 writes the same bytes; checksummed
_ALIGNMENT = 64  # bytes; memory maps start on a cache line
_F16_MAX = float(np.finfo(np.float16).max)


def fit_features(slide: SlideFeatures, contract: FeatureContract) -> Array:
    """The slide's features in the contract's type, refused where that would lose something.

    Raises
    ------
    FeatureError
        If there are none, one is not finite, a value does not fit float16, or the width or type
        is not the contract's.
    """
    features, where = slide.features, f"slide {slide.slide_id}: features"
    if contract.provenance == "extracted" and slide.coords is None:
        raise FeatureError("extracted features need the tiles' coordinates", where=where)
    if slide.n_tiles == 0:
        raise FeatureError("there is no tile", where=where)
    if features.shape[1] != contract.width:
        raise ContractMismatch(
            f"{features.shape[1]} values a tile, but the store's contract says {contract.width}",
            where=where,
        )
    if features.dtype.kind != "f":
        raise FeatureError(f"must be floating point, is {features.dtype}", where=where)
    largest = largest_magnitude(features)
    if not math.isfinite(largest):
        raise FeatureError(nonfinite_rows(features), where=where)
    if contract.provenance == "declared":
        if features.dtype.name != contract.dtype:
            raise ContractMismatch(
                f"dtype is {features.dtype.name}, but the store's contract says {contract.dtype}",
                where=where,
            )
        return np.ascontiguousarray(features, dtype=np.dtype(contract.dtype).newbyteorder("<"))
    if contract.dtype == "float16" and largest > _F16_MAX:
        raise FeatureError(
            f"the value {largest:g} does not fit float16 (±{_F16_MAX:g})",
            where=where,
            fix="Check the encoder's output and its preprocessing.",
        )
    return np.ascontiguousarray(features, dtype=np.dtype(contract.dtype).newbyteorder("<"))


def write_slide_file(path: Path, slide: SlideFeatures, contract: FeatureContract) -> None:
    """Write one slide atomically; equal input gives equal bytes.

    Raises
    ------
    FeatureError
        If the features do not fit the contract; see `fit_features`.
    StorageError
        If the disk is full or the folder may not be written.
    """
    arrays: dict[str, Array | None] = {
        "features": fit_features(slide, contract),
        "coords": _as_type(slide.coords, "<i8"),
        "tissue": _as_type(slide.tissue, "<f2"),
        "failed_coords": _as_type(slide.failed_coords, "<i8"),
    }
    attributes = _attributes(slide, contract)
    with atomic_write(path) as part, new_hdf5(part) as file:
        set_attributes(file, attributes)
        for name, array in arrays.items():
            if array is not None:
                write_array(file, name, array)


@contextmanager
def new_hdf5(part: Path) -> Iterator[h5py.File]:
    """A new HDF5 file of the form that docs/formats.md states."""
    try:
        with h5py.File(
            part, "w", libver=_LIBVER, alignment_threshold=1, alignment_interval=_ALIGNMENT
        ) as file:
            yield file
    except RuntimeError as error:
        # h5py reports a write that fails while closing in this way; see `storage_errors`.
        raise OSError(str(error)) from error


def write_array(group: h5py.Group, name: str, array: Array) -> h5py.Dataset:
    """Store an array contiguously, with its digest."""
    dataset = group.create_dataset(name, data=array, track_times=False)
    set_attributes(dataset, {"sha256": digest_array(array)})
    return dataset


def _as_type(array: Array | None, dtype: str) -> Array | None:
    return None if array is None else np.ascontiguousarray(array, dtype=dtype)


def _attributes(slide: SlideFeatures, contract: FeatureContract) -> dict[str, Any]:
    found = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "storm_clinic_version": package_version(),
        "slide_id": slide.slide_id,
        "slide_digest": slide.slide_digest,
        "slide_mpp": slide.slide_mpp,
        "slide_mpp_source": slide.slide_mpp_source,
        "vendor": slide.vendor,
        "source_digest": slide.source_digest,
        "runtime": slide.runtime,
        "precision": slide.precision,
        "batch_size": slide.batch_size,
        "tile_um": contract.tile_um,
        "licence": contract.licence,
        **contract_attributes(contract),
    }
    return {name: value for name, value in found.items() if value is not None}


def contract_attributes(contract: FeatureContract) -> dict[str, Any]:
    """The part of the contract that every file repeats."""
    return {
        "provenance": contract.provenance,
        "encoder": contract.encoder,
        "encoder_digest": contract.encoder_digest,
        "mpp": contract.mpp,
        "tile_px": contract.tile_px,
    }


@cache
def package_version() -> str:
    """Of this program."""
    return version("storm-clinic")


def set_attributes(target: Any, attributes: Mapping[str, Any]) -> None:
    """Set attributes in the order of their names: text of fixed length, int64 or float64."""
    for name, value in sorted(attributes.items()):
        if isinstance(value, str):
            # Variable-length strings would lie in HDF5's heap, which has no checksum.
            data = value.encode("utf-8")
            target.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", max(len(data), 1)))
        else:
            kind = np.int64 if isinstance(value, int) else np.float64
            target.attrs.create(name, value, dtype=kind)
