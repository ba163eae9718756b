"""Patients as a model takes them: tiles of their slides in one bag, and what they lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.heads.bag_cache import tile_places
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData
from storm_clinic.study import kind_of

Array = NDArray[Any]
Slide = Array | SlideFeatures


def places_of(slides: Sequence[Slide]) -> list[Array] | None:
    """Where the tiles of each slide lie; None where that is not known of all of them."""
    placed = [
        slide
        for slide in slides
        if isinstance(slide, SlideFeatures)
        and slide.coords is not None
        and slide.slide_mpp is not None
    ]
    if not slides or len(placed) < len(slides):
        return None
    return [tile_places(slide) for slide in placed]


def bags_of(
    patients: Sequence[tuple[Sequence[Array], Sequence[Array] | None]],
    *,
    width: int,
    dtype: str,
    columns: Sequence[str] = (),
) -> Bags:
    """One bag a patient, of tiles and their places; a patient may have none.

    Parameters
    ----------
    patients : sequence of (tiles of each slide, places of each slide or None)
        Either all who have a tile have places, or places are left out.
    width, dtype : int, str
        Of an empty bag.
    columns : sequence of str
        What each number of a tile is, such as a gene.
    """
    nothing = np.empty((0, width), dtype=dtype)
    rows = [np.concatenate([nothing, *tiles]) for tiles, _ in patients]
    nowhere = np.empty((0, 2), np.float32)
    where = []
    for row, (_, places) in zip(rows, patients, strict=True):
        if places is not None or not len(row):
            where.append(np.concatenate([nowhere, *(places or ())]))
    bags = Bags.from_arrays(rows, where if len(where) == len(rows) else None)
    return replace(bags, columns=tuple(columns))


def missing_inputs(data: PatientData, inputs: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """What each patient lacks of the inputs: a tile, a covariate, a table or some columns of it."""
    lacking: list[list[str]] = [[] for _ in range(len(data))]
    for name in inputs:
        if kind_of(name) == "clinical":
            assert data.clinical is not None
            for column in data.clinical:
                for at in np.flatnonzero(data.clinical[column].isna()):
                    lacking[at].append(str(column))
        elif kind_of(name) == "tiles":
            for at in np.flatnonzero(~data.present(name)):
                lacking[at].append(name)
        else:
            absent = data.table(name).isna().sum(axis=1).to_numpy()
            n_columns = data.table(name).shape[1]
            for at in np.flatnonzero(absent):
                some = f"{name}: {absent[at]} of {n_columns} columns"
                lacking[at].append(name if absent[at] == n_columns else some)
    return tuple(tuple(names) for names in lacking)
