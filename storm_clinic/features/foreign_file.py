"""Read tile embeddings that other programs made, and what their files say about themselves.

Layouts are told apart by what is in the file and not by its name: HDF5 with ``features`` and
``coords`` (TRIDENT, CLAM), with ``feats`` and ``coords`` in µm (STAMP), with ``features`` alone,
AnnData (``X`` and ``obsm/spatial``), and a tensor saved by torch (CLAM).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import FeatureError
from storm_clinic.features.slide_features import Array

SUFFIXES = (".h5", ".hdf5", ".h5ad", ".pt")
# Names under which a file may state its geometry; TRIDENT says patch_size, overlap and encoder.
_TILE_PX = ("storm_clinic_tile_px", "tile_px", "patch_size", "region_px", "tile_size_px")
_OVERLAP_PX = ("storm_clinic_overlap_px", "overlap_px", "overlap")
_VALUES = ("features", "feats", "X")  # names under which tile embeddings lie


@dataclass(frozen=True)
class ForeignFile:
    """One file of somebody else's, as it describes itself; None where it says nothing.

    ``tile_level0_px`` is a tile's side in level-0 px, ``magnification`` the nominal objective the
    tiles were read at. ``slide_mpp`` is the slide's own µm/px. ``row`` is the slide's row in a file
    whose rows are slides.
    """

    path: Path
    slide_id: str
    n_tiles: int
    width: int
    dtype: str
    mpp: float | None = None
    tile_px: int | None = None
    overlap_px: int | None = None
    tile_level0_px: float | None = None
    magnification: float | None = None
    encoder: str | None = None
    slide_mpp: float | None = None
    row: int | None = None
    licence: str | None = None

    def stated(self) -> str:
        """What the file says of encoder and geometry, for people."""
        names = ("encoder", "mpp", "tile_px", "overlap_px", "magnification")
        found = ((name, getattr(self, name)) for name in names)
        return ", ".join(f"{name} {value}" for name, value in found if value is not None)


def describe_foreign(path: Path) -> list[ForeignFile]:
    """What a file holds and says, without reading its values: one slide, or one a row.

    Raises
    ------
    FeatureError
        If it cannot be read or is none of the layouts; names file and key.
    """
    slide_id = path.name.removesuffix(path.suffix)
    if path.suffix == ".pt":
        features, _ = _load_tensor(path)
        n_tiles, width = _tile_shape(tuple(features.shape), path)
        return [ForeignFile(path, slide_id, n_tiles, width, _tensor_dtype(features, path))]
    with _opened(path) as file:
        name = _values_name(file, path)
        dataset = _dataset(file, path, name)
        n_tiles, width = _tile_shape(dataset.shape, path)
        if dataset.dtype.kind != "f":
            raise _refusal(path, name, f"must be floating point, is {dataset.dtype}")
        known = _attributes(file, path)
        _coords_in_um(file, known, path)  # places without a unit are refused before any import
        tile_px = _whole(known, _TILE_PX, path)
        described = ForeignFile(
            path,
            slide_id,
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


def read_foreign(
    path: Path, *, slide_mpp: float | None = None, row: int | None = None
) -> tuple[Array, NDArray[np.int64] | None]:
    """Features, shape (n_tiles, width), and coordinates, shape (n_tiles, 2), where there are any.

    Parameters
    ----------
    path : Path
        A file that `describe_foreign` described.
    slide_mpp : float, optional
        µm per level-0 px of the slide; needed where the file states places in µm.
    row : int, optional
        Of a file whose rows are slides.

    Raises
    ------
    FeatureError
        If it cannot be read, coordinates are not one pair a tile and not whole level-0 px, or they
        are in µm and the slide's own µm/px is not known.
    """
    in_um = False
    if path.suffix == ".pt":
        tensor, coords = _load_tensor(path)
        shape = _tile_shape(tuple(tensor.shape), path)
        _tensor_dtype(tensor, path)
        values: Array = (tensor.float() if _is_bfloat16(tensor) else tensor).numpy()
        features = values.reshape(shape)
    else:
        with _opened(path) as file:
            dataset = _dataset(file, path, _values_name(file, path))
            features = dataset[()].reshape(_tile_shape(dataset.shape, path))
            name = _coords_name(file)
            coords = None if name is None else _dataset(file, path, name)[()]
            in_um = _coords_in_um(file, _attributes(file, path), path)
        if row is not None:
            return features[[row]], None
    if coords is not None and in_um:
        coords = _to_level0(coords, slide_mpp, path)
    return features, None if coords is None else _as_coords(coords, len(features), path)


def _values_name(file: h5py.File, path: Path) -> str:
    for name in _VALUES:
        if name in file:
            return name
    held = ", ".join(sorted(file)) or "nothing"
    raise _refusal(path, "features", f"there is no such dataset; the file holds {held}")


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
        raise _refusal(
            path,
            "attribute unit",
            "is absent or neither um nor px, so that nobody knows what coords are counted in; "
            "extract again with a newer STAMP, or remove coords and import with --geometry-unknown",
        )
    return unit == "um"


def _to_level0(coords: Array, slide_mpp: float | None, path: Path) -> Array:
    if slide_mpp is None:
        raise _refusal(
            path,
            "coords",
            "are in µm, and the slide's own µm per pixel is not known; state it in the column "
            "mpp of the cohort's slides table",
        )
    if coords.dtype.kind not in "iuf" or not np.isfinite(coords).all():
        raise _refusal(path, "coords", "must be finite numbers")
    return np.rint(coords.astype(np.float64) / slide_mpp)


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


def _tile_shape(shape: Any, path: Path) -> tuple[int, int]:
    """(n_tiles, width) of (n, d) or (1, n, d)."""
    if shape is not None and len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if shape is None or 0 in shape:
        raise _refusal(path, "features", "there is no tile")
    if len(shape) == 1:
        raise _refusal(path, "features", f"is one vector of {shape[0]}, not one a tile")
    if len(shape) != 2:
        raise _refusal(path, "features", f"must be (n_tiles, width), is {tuple(shape)}")
    return int(shape[0]), int(shape[1])


def _as_coords(coords: Array, n_tiles: int, path: Path) -> NDArray[np.int64]:
    pairs = coords[0] if coords.ndim == 3 and len(coords) == 1 else coords
    if pairs.shape != (n_tiles, 2):
        raise _refusal(path, "coords", f"must be ({n_tiles}, 2), is {coords.shape}")
    # Only whole pixels can be exact level-0 corners; others may be µm.
    if pairs.dtype.kind in "if" and (pairs < 0).any():
        raise _refusal(path, "coords", "must not be negative")
    if pairs.dtype.kind not in "iuf" or not np.array_equal(pairs, np.floor(pairs)):
        raise _refusal(path, "coords", "must be whole level-0 pixels")
    return pairs.astype(np.int64)


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
        raise _refusal(path, name, f"there is no such dataset; the file holds {held}")
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise _refusal(path, name, "is a link to somewhere else")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise _refusal(path, name, "must be a dataset")
    if dataset.is_virtual or dataset.external:
        raise _refusal(path, name, "keeps its values in another file")
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
        raise _refusal(path, f"attribute {names[0]}", f"must be a whole number, is {value}")
    return None if value is None else int(value)


def _text(known: dict[str, Any], name: str) -> str | None:
    value = known.get(name)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text if isinstance(text, str) and text not in ("", "None") else None


def _load_tensor(path: Path) -> tuple[Any, Array | None]:
    """The tensor of a torch file, mapped and not yet read, and coordinates if it names them."""
    import torch  # only who imports .pt files needs it

    try:
        # weights_only refuses everything but tensors and plain containers.
        held = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch documents no list of what it raises on damage
        reason = " ".join(str(error).split())[:200]
        raise FeatureError(f"cannot be read as a tensor: {reason}", where=path) from error
    coords = None
    if isinstance(held, dict):
        if "features" not in held:
            names = ", ".join(map(str, held)) or "nothing"
            raise _refusal(path, "features", f"there is no such entry; the file holds {names}")
        coords = held.get("coords")
        held = held["features"]
    if not isinstance(held, torch.Tensor) or held.layout != torch.strided:
        raise _refusal(path, "features", f"must be a dense tensor, is {type(held).__name__}")
    if coords is not None and not isinstance(coords, torch.Tensor):
        raise _refusal(path, "coords", f"must be a tensor, is {type(coords).__name__}")
    return held.detach(), None if coords is None else coords.detach().numpy()


def _tensor_dtype(tensor: Any, path: Path) -> str:
    if not tensor.is_floating_point():
        raise _refusal(path, "features", f"must be floating point, is {tensor.dtype}")
    # numpy has no bfloat16; float32 holds its values exactly.
    return "float32" if _is_bfloat16(tensor) else str(tensor.dtype).removeprefix("torch.")


def _is_bfloat16(tensor: Any) -> bool:
    return str(tensor.dtype) == "torch.bfloat16"


def _refusal(path: Path, key: str, problem: str) -> FeatureError:
    return FeatureError(problem, where=f"{path}: {key}")
