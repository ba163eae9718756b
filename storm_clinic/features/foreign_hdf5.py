"""Tile embeddings in HDF5 that other programs made; layouts are told apart by what is in the file.

``features`` and ``coords`` (TRIDENT, CLAM), ``feats`` and ``coords`` in µm (STAMP), ``features``
alone, and AnnData (``X`` and ``obsm/spatial``). Text of variable length is read, which our own
files may not have (`storm_clinic.features.guarded_file`): HDF5 may follow a damaged one for ever,
so call this by way of `storm_clinic.features.foreign_reading`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from storm_clinic.errors import FeatureError
from storm_clinic.features.foreign_description import ForeignFile, refusal, tile_shape
from storm_clinic.features.slide_features import Array

# Names under which a file may state its geometry; TRIDENT says patch_size, overlap and encoder.
_TILE_PX = ("storm_clinic_tile_px", "tile_px", "patch_size", "region_px", "tile_size_px")
_OVERLAP_PX = ("storm_clinic_overlap_px", "overlap_px", "overlap")
_VALUES = ("features", "feats", "X")  # names under which tile embeddings lie


def describe_hdf5(path: Path) -> list[ForeignFile]:
    """What a file holds and says, without reading its values: one slide, or one a row.

    Raises
    ------
    FeatureError
        If it cannot be read or is none of the layouts; names file and key.
    """
    with _opened(path) as file:
        name = _values_name(file, path)
        dataset = _dataset(file, path, name)
        n_tiles, width = tile_shape(dataset.shape, path)
        if dataset.dtype.kind != "f":
            raise refusal(path, name, f"must be floating point, is {dataset.dtype}")
        known = _attributes(file, path)
        _coords_in_um(file, known, path)  # places without a unit are refused before any import
        tile_px = _whole(known, _TILE_PX, path)
        described = ForeignFile(
            path,
            path.name.removesuffix(path.suffix),
            n_tiles,
            width,
            dataset.dtype.name,
            mpp=_mpp(known, tile_px),
            tile_px=tile_px,
            overlap_px=_whole(known, _OVERLAP_PX, path),
            tile_level0_px=_number(known, ("patch_size_level0",)),
            magnification=_number(known, ("target_magnification",)),
            licence=_text(known, "storm_clinic_licence"),
            encoder=_text(known, "storm_clinic_encoder")
            or _text(known, "encoder")
            or _text(known, "extractor"),
            slide_mpp=_number(known, ("storm_clinic_slide_mpp",)),
        )
        if _text(known, "storm_clinic_obs") != "slides":
            return [described]
        return [
            replace(described, slide_id=name, n_tiles=1, row=row, slide_mpp=None)
            for row, name in enumerate(_obs_names(file, path))
        ]


def read_hdf5(path: Path) -> tuple[Array, Array | None, bool]:
    """Features, shape (n_tiles, width); coordinates as they are, if any; and whether in µm.

    Raises
    ------
    FeatureError
        As `describe_hdf5`.
    """
    with _opened(path) as file:
        dataset = _dataset(file, path, _values_name(file, path))
        features: Array = dataset[()].reshape(tile_shape(dataset.shape, path))
        name = _coords_name(file)
        coords = None if name is None else _dataset(file, path, name)[()]
        return features, coords, _coords_in_um(file, _attributes(file, path), path)


def _values_name(file: h5py.File, path: Path) -> str:
    for name in _VALUES:
        if name in file:
            return name
    held = ", ".join(sorted(file)) or "nothing"
    raise refusal(path, "features", f"there is no such dataset; the file holds {held}")


def _coords_name(file: h5py.File) -> str | None:
    if "coords" in file:
        return "coords"
    # Of AnnData only files that we wrote say what their places are counted in.
    return "obsm/spatial" if "obsm/spatial" in file and "uns/storm_clinic" in file else None


def _coords_in_um(file: h5py.File, known: dict[str, Any], path: Path) -> bool:
    """Whether places are in µm; a layout that had both units must say which.

    STAMP's files carry ``unit``; those of its first version do not, and count in 256/224 µm.
    """
    if "feats" not in file or "coords" not in file:
        return False
    unit = _text(known, "unit")
    if unit not in ("um", "px"):
        raise refusal(
            path,
            "attribute unit",
            "is absent or neither um nor px, so that nobody knows what coords are counted in; "
            "extract again with a newer STAMP, or remove coords and import with --geometry-unknown",
        )
    return unit == "um"


def _mpp(known: dict[str, Any], tile_px: int | None) -> float | None:
    """µm per pixel of a tile as it was read: stated, or STAMP's tile in µm over its pixels."""
    stated = _number(known, ("storm_clinic_mpp", "mpp"))
    if stated is not None or not tile_px:
        return stated
    tile_um = _number(known, ("tile_size_um",))
    if tile_um is None and _text(known, "unit") == "um":
        tile_um = _number(known, ("tile_size",))  # STAMP 2.0
    return None if tile_um is None else tile_um / tile_px


def _obs_names(file: h5py.File, path: Path) -> list[str]:
    obs = file["obs"]
    name = obs.attrs.get("_index", "_index")
    return [str(value) for value in _dataset(obs, path, str(name)).asstr()[()]]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FeatureError:
        raise
    # h5py raises these, depending on the HDF5 call that met the damage.
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise FeatureError(f"cannot be read as HDF5: {reason}", where=path) from error


def _dataset(file: h5py.Group, path: Path, name: str) -> h5py.Dataset:
    """A dataset whose values lie in this very file."""
    if name not in file:
        held = ", ".join(sorted(file)) or "nothing"
        raise refusal(path, name, f"there is no such dataset; the file holds {held}")
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise refusal(path, name, "is a link to somewhere else")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise refusal(path, name, "must be a dataset")
    if dataset.is_virtual or dataset.external:
        raise refusal(path, name, "keeps its values in another file")
    return dataset


def _attributes(file: h5py.File, path: Path) -> dict[str, Any]:
    """Attributes of the file and of both datasets; a dataset's own go first."""
    known = dict(file.attrs)
    for name in ("features", "coords"):
        if name in file:
            known |= dict(_dataset(file, path, name).attrs)
    if "uns/storm_clinic" in file:  # AnnData keeps such things as scalar datasets
        group = file["uns/storm_clinic"]
        known |= {f"storm_clinic_{key}": _dataset(group, path, key)[()] for key in group}
    return known


def _number(known: dict[str, Any], names: tuple[str, ...]) -> float | None:
    for name in names:
        value = known.get(name)
        # TRIDENT writes -1 or the text "None" where it does not know.
        if (
            isinstance(value, int | float | np.integer | np.floating)
            and math.isfinite(value)
            and value >= 0
        ):
            return float(value)
    return None


def _whole(known: dict[str, Any], names: tuple[str, ...], path: Path) -> int | None:
    value = _number(known, names)
    if value is not None and value != int(value):
        raise refusal(path, f"attribute {names[0]}", f"must be a whole number, is {value}")
    return None if value is None else int(value)


def _text(known: dict[str, Any], name: str) -> str | None:
    value = known.get(name)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text if isinstance(text, str) and text not in ("", "None") else None
