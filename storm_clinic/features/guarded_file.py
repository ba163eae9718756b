"""HDF5 files of fixed form, opened with trust in nothing that they hold.

What our files may hold is fixed (docs/formats.md), so whatever else HDF5 can express is refused:
soft and external links, virtual datasets, storage outside the file, chunks and filters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5l

from storm_clinic.errors import FeatureError
from storm_clinic.features.slide_features import Array, digest_array

Known = Mapping[str, Any]
AGAIN = "The file is damaged; make it again."


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file to read; damage met inside becomes a `FeatureError` that names it."""
    with damage(path):
        try:
            file = h5py.File(path, "r")
        except FileNotFoundError:
            raise FeatureError("there is no such file", where=path) from None
        with file:
            yield file


@contextmanager
def damage(where: str | Path) -> Iterator[None]:
    """Turn what h5py raises on damage into a `FeatureError` that names the place."""
    try:
        yield
    # Which of these it is depends on the HDF5 call that met the damage.
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise FeatureError(f"cannot be read as HDF5: {reason}", where=where, fix=AGAIN) from error


def attributes_of(node: h5py.HLObject, where: str | Path) -> Known:
    """All attributes of a file or dataset: numbers, and text of fixed length.

    Raises
    ------
    FeatureError
        If one is text of variable length: HDF5 keeps that in a heap without checksum, and may
        follow a damaged heap for ever.
    """
    names: list[bytes] = []
    h5a.iterate(node.id, lambda name, *_: names.append(name))
    found = {}
    for raw in names:
        name = raw.decode("utf-8", "replace")
        # Opened once, which `node.attrs` would do for each question that it is asked.
        attribute = h5a.open(node.id, raw)
        kind = attribute.dtype
        if kind.hasobject:
            raise FeatureError(
                f"attribute {name} must be text of fixed length or a number, is of type {kind}",
                where=where,
            )
        if kind.subdtype or attribute.shape != ():
            found[name] = node.attrs[raw]
        else:
            value = np.zeros((), kind)
            attribute.read(value)
            found[name] = value[()]
    return found


def check_links(file: h5py.Group, path: Path) -> None:
    """Refuse a group with soft or external links.

    Raises
    ------
    FeatureError
        Naming the link.
    """
    for name in file.id:
        if file.id.links.get_info(name).type != h5l.TYPE_HARD:
            shown = name.decode("utf-8", "replace")
            raise FeatureError("is a link to somewhere else", where=f"{path}: {shown}")


def dataset_of(
    group: h5py.Group, path: Path, name: str, kind: tuple[str, int], *, chunked: bool = False
) -> h5py.Dataset:
    """A dataset of a type and a number of dimensions: contiguous, or in chunks without filters.

    Raises
    ------
    FeatureError
        If it is absent, something else, or its values are not all there.
    """
    where = f"{path}: {name}"
    if name not in group:
        raise FeatureError("there is no such dataset", where=where, fix=AGAIN)
    with damage(where):
        dataset = group[name]
        _check_dataset(dataset, name, kind, where, path.stat().st_size, chunked)
    return dataset


def _check_dataset(
    dataset: Any, name: str, form: tuple[str, int], where: str, file_bytes: int, chunked: bool
) -> None:
    if not isinstance(dataset, h5py.Dataset):
        raise FeatureError("must be a dataset", where=where)
    kind, n_dimensions = form
    storage, dtype, shape = dataset.id.get_create_plist(), dataset.dtype, dataset.shape
    layout = storage.get_layout()
    # Attributes of the storage come first: reading a virtual dataset would open other files.
    elsewhere = layout == h5d.VIRTUAL or storage.get_external_count()
    if elsewhere or (layout == h5d.CHUNKED) != chunked:
        asked = "in chunks" if chunked else "contiguously"
        raise FeatureError(f"must be stored {asked} in this file", where=where)
    if storage.get_nfilters():  # a filter is code that reading would run
        raise FeatureError("must be stored without filters", where=where)
    if (dtype.kind if len(kind) == 1 else dtype.str) != kind:
        raise FeatureError(f"must not be of type {dtype}", where=where)
    if shape is None or len(shape) != n_dimensions or (name.endswith("coords") and shape[1] != 2):
        raise FeatureError(f"must not be of shape {shape}", where=where)
    n_bytes = math.prod(shape) * dtype.itemsize
    if chunked:
        if not n_bytes <= dataset.id.get_storage_size() <= file_bytes:
            raise FeatureError("its values are not all there", where=where, fix=AGAIN)
        return
    offset = dataset.id.get_offset()
    if n_bytes and (offset is None or offset + n_bytes > file_bytes):
        raise FeatureError("its values are not all there", where=where, fix=AGAIN)


def values_of(dataset: h5py.Dataset, where: str) -> Array:
    """All values, held against the digest they were written with."""
    with damage(where):
        values: Array = dataset[()]
    if digest_array(values) != text_of(attributes_of(dataset, where), where, "sha256"):
        raise FeatureError(
            "its values are not those that were written (SHA-256 differs)", where=where, fix=AGAIN
        )
    return values


def text_of(known: Known, where: str | Path, name: str, *, optional: bool = False) -> str | None:
    """An attribute that is text; None where an optional one is absent."""
    value = _attribute(known, where, name, optional)
    if value is None:
        return None
    if not isinstance(value, bytes | str):
        raise FeatureError(f"attribute {name} must be text, is {value}", where=where)
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise FeatureError(f"attribute {name} is no UTF-8", where=where, fix=AGAIN) from error


def number_of(
    known: Known, where: str | Path, name: str, *, optional: bool = False
) -> float | None:
    """An attribute that is a number; None where an optional one is absent."""
    value = _attribute(known, where, name, optional)
    if value is None:
        return None
    if not isinstance(value, np.integer | np.floating):
        shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        raise FeatureError(f"attribute {name} must be a number, is {shown}", where=where)
    return value.item()


def _attribute(known: Known, where: str | Path, name: str, optional: bool) -> Any:
    if name not in known:
        if optional:
            return None
        raise FeatureError(f"attribute {name} is missing", where=where, fix=AGAIN)
    return known[name]
