"""What a patient's risk loses when tiles are left out: of any model, on its own weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import FittedModel, PatientData

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TILES_AT_ONCE = 200_000  # copied tiles of the bags that are predicted together


def risks_of_parts(
    model: FittedModel, patient: PatientData, parts: Sequence[Ints], *, input_name: str = "image"
) -> Floats:
    """Risk of one patient if only some tiles of an input were there, part by part.

    Everything else of the patient, such as covariates and other inputs of tiles, stays.

    Parameters
    ----------
    model : FittedModel
        Whose weights are asked.
    patient : PatientData
        Of one patient, with bags of that input.
    parts : sequence of int64 arrays
        Rows of the tiles that stay; none may be empty.
    input_name : str
        An input of tiles that the model sees.

    Returns
    -------
    float64 array, shape (n_parts,)
    """
    bags = patient.tiles(input_name)
    n_besides = sum(int(own.sizes[0]) for own in patient.all_tiles.values() if own is not bags)
    found = []
    for chunk in _chunks(parts, n_besides):
        values = [bags.bag(0)[rows] for rows in chunk]
        places = None
        if bags.has_places:
            whole = bags.gather_places(slice(0, 1))
            places = [whole[rows] for rows in chunk]
        copies = patient.take(np.zeros(len(chunk), dtype=np.int64))
        some = replace(Bags.from_arrays(values, places), columns=bags.columns)
        found.append(model.predict(copies.with_tiles(input_name, some)).risk)
    return np.concatenate(found) if found else np.empty(0)


def occlusion(
    model: FittedModel,
    patient: PatientData,
    groups: NDArray[np.int64],
    *,
    input_name: str = "image",
) -> Floats:
    """How much of the risk goes when a group of tiles is left out, for every tile.

    Parameters
    ----------
    model : FittedModel
        Whose weights are asked.
    patient : PatientData
        Of one patient.
    groups : int64 array, shape (n_tiles,)
        Tiles of one number are left out together; a number a tile leaves out each alone.
    input_name : str
        An input of tiles that the model sees; tiles of other inputs stay.

    Returns
    -------
    float64 array, shape (n_tiles,)
        Risk with all tiles minus risk without the tile's group, over the group's tiles: positive
        where the tile raises the risk. NaN where nothing would be left.
    """
    names, of_tile, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return np.full(len(groups), np.nan)
    rows = np.arange(len(groups))
    parts = [rows[of_tile != number] for number in range(len(names))]
    whole = model.predict(patient).risk[0]
    lost = (whole - risks_of_parts(model, patient, parts, input_name=input_name)) / sizes
    return np.asarray(lost[of_tile])


def blocks(coords: Ints | None, n_tiles: int, pitch_px: float | None, most: int) -> Ints:
    """Group neighbouring tiles so that at most about ``most`` groups are left out.

    Tiles stay alone while they are few; else squares of the grid are joined, 2 x 2, 3 x 3 and so
    on. Where nobody knows where tiles lie, neighbours in the file's order are joined.

    Parameters
    ----------
    coords : int64 array, shape (n_tiles, 2), optional
        Top-left corners, level-0 px.
    n_tiles : int
        Of the slide or patient.
    pitch_px : float, optional
        Distance of neighbouring tiles, level-0 px.
    most : int
        Groups.

    Returns
    -------
    int64 array, shape (n_tiles,)
    """
    if n_tiles <= most:
        return np.arange(n_tiles)
    if coords is None or pitch_px is None:
        return np.arange(n_tiles) * most // n_tiles
    side = 1
    while True:
        side += 1
        cells = np.floor(coords / (pitch_px * side)).astype(np.int64)
        _, groups = np.unique(cells, axis=0, return_inverse=True)
        if groups.max() < most:
            return np.asarray(groups.ravel(), dtype=np.int64)


def _chunks(parts: Sequence[Ints], n_besides: int) -> Iterator[list[Ints]]:
    """Parts that are looked at together; each comes with a copy of the tiles of other inputs."""
    chunk: list[Ints] = []
    n_tiles = 0
    for part in parts:
        if chunk and n_tiles + len(part) + n_besides > _TILES_AT_ONCE:
            yield chunk
            chunk, n_tiles = [], 0
        chunk.append(part)
        n_tiles += len(part) + n_besides
    if chunk:
        yield chunk
