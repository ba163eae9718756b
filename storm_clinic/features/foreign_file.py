"""Read tile embeddings that other programs made, and what their files say about themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storm_clinic.features.foreign_description import ForeignFile, refusal
from storm_clinic.features.foreign_hdf5 import describe_hdf5, read_hdf5
from storm_clinic.features.foreign_tensor import describe_tensor, read_tensor
from storm_clinic.features.slide_features import Array

SUFFIXES = (".h5", ".hdf5", ".h5ad", ".pt")


def describe_foreign(path: Path) -> list[ForeignFile]:
    """What a file holds and says, without reading its values: one slide, or one a row.

    Raises
    ------
    FeatureError
        If it cannot be read or is none of the layouts; names file and key.
    """
    return [describe_tensor(path)] if path.suffix == ".pt" else describe_hdf5(path)


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
        features, coords = read_tensor(path)
    else:
        features, coords, in_um = read_hdf5(path)
    if row is not None:
        return features[[row]], None
    if coords is not None and in_um:
        coords = _to_level0(coords, slide_mpp, path)
    return features, None if coords is None else _as_coords(coords, len(features), path)


def _to_level0(coords: Array, slide_mpp: float | None, path: Path) -> Array:
    if slide_mpp is None:
        raise refusal(
            path,
            "coords",
            "are in µm, and the slide's own µm per pixel is not known; state it in the column "
            "mpp of the cohort's slides table",
        )
    if coords.dtype.kind not in "iuf" or not np.isfinite(coords).all():
        raise refusal(path, "coords", "must be finite numbers")
    return np.rint(coords.astype(np.float64) / slide_mpp)


def _as_coords(coords: Array, n_tiles: int, path: Path) -> NDArray[np.int64]:
    pairs = coords[0] if coords.ndim == 3 and len(coords) == 1 else coords
    if pairs.shape != (n_tiles, 2):
        raise refusal(path, "coords", f"must be ({n_tiles}, 2), is {coords.shape}")
    # Only whole pixels can be exact level-0 corners; others may be µm.
    if pairs.dtype.kind in "if" and (pairs < 0).any():
        raise refusal(path, "coords", "must not be negative")
    if pairs.dtype.kind not in "iuf" or not np.array_equal(pairs, np.floor(pairs)):
        raise refusal(path, "coords", "must be whole level-0 pixels")
    return pairs.astype(np.int64)
