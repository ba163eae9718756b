"""The tiles a model looks at most and least, read again from the slides."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import SlideError
from storm_clinic.heads.contract import FittedModel
from storm_clinic.reporting.content import TileGallery, TilePicture
from storm_clinic.steps.study_patients import StudyPatients

_N_TILES = 6
_SIDE_PX = 160  # of a thumbnail in the page


@dataclass(frozen=True)
class _Tile:
    slide_id: str
    corner_level0_px: tuple[int, int]
    said: str  # of the tile, for its caption


def gather_tiles(model: FittedModel, name: str, patients: StudyPatients) -> TileGallery | str:
    """Pictures of a model's most- and least-attended tiles, or why there are none.

    One tile a patient: from the patients with the highest risk the tile with the most attention,
    and from the same patients the one with the least. Attention is shown relative to an equal
    share, so that large and small bags compare.

    Parameters
    ----------
    model : FittedModel
        The very weights whose predictions are reported.
    name : str
        The model's name.
    patients : StudyPatients
        Whom it scored.
    """
    store = patients.store
    if store is None or not store.contract.geometry_known:
        return "the position of tiles on the slides is not known"
    paths = dict(
        zip(patients.cohort.slides["slide_id"], patients.cohort.slides["path"], strict=True)
    )
    if not any(isinstance(path, str) and Path(path).is_file() for path in paths.values()):
        return "the slides are not on this machine"
    attention = model.attention(patients.data)
    if attention is None:
        return "this kind of model has no attention"
    risk = model.predict(patients.data).risk
    riskiest = np.argsort(-risk, kind="stable")
    most = _pictures(patients, paths, attention, riskiest, highest=True)
    least = _pictures(patients, paths, attention, riskiest, highest=False)
    return TileGallery(
        model=name,
        cohort=patients.cohort.name,
        most=tuple(most),
        least=tuple(least),
        note="One tile from each of the patients with the highest predicted risk; attention "
        "relative to an equal share of all tiles of the patient.",
    )


def tiles_of_patient(
    patients: StudyPatients, at: int, scores: NDArray[np.float64]
) -> tuple[list[TilePicture], list[TilePicture]] | None:
    """Pictures of one patient's tiles with the highest and the lowest scores.

    Parameters
    ----------
    patients : StudyPatients
        Whom the model scored.
    at : int
        Position of the patient.
    scores : float array, shape (n_tiles,)
        What a map says of each tile, in the order of the bag.

    Returns
    -------
    (highest, lowest), or None where tiles cannot be read again.
    """
    store = patients.store
    if store is None or not store.contract.geometry_known or not np.isfinite(scores).all():
        return None
    paths = dict(
        zip(patients.cohort.slides["slide_id"], patients.cohort.slides["path"], strict=True)
    )
    places: list[tuple[str, tuple[int, int]]] = []
    for slide_id in patients.slide_ids[at]:
        slide = store.read(slide_id)
        if slide.coords is None:
            return None
        places += [(slide_id, (int(x), int(y))) for x, y in slide.coords]
    order = np.argsort(-scores, kind="stable")
    rows = []
    for chosen in (order[:_N_TILES], order[::-1][:_N_TILES]):
        tiles = [_Tile(*places[int(row)], said=f"score {scores[row]:.3g}") for row in chosen]
        rows.append(_readable(patients, paths, tiles))
    return (rows[0], rows[1]) if rows[0] else None


def _readable(
    patients: StudyPatients, paths: dict[str, Any], tiles: list[_Tile]
) -> list[TilePicture]:
    found = []
    for tile in tiles:
        try:
            picture = _read(patients, paths.get(tile.slide_id), tile)
        except SlideError:
            continue  # a slide that went bad since extraction
        if picture is not None:
            found.append(picture)
    return found


def _pictures(
    patients: StudyPatients,
    paths: dict[str, Any],
    attention: list[NDArray[np.float32]],
    order: NDArray[np.int64],
    *,
    highest: bool,
) -> list[TilePicture]:
    found: list[TilePicture] = []
    for tile in _tiles(patients, attention, order, highest=highest):
        try:
            picture = _read(patients, paths.get(tile.slide_id), tile)
        except SlideError:
            continue  # a slide that went bad since extraction: the next patient's tile is shown
        if picture is not None:
            found.append(picture)
        if len(found) == _N_TILES:
            break
    return found


def _tiles(
    patients: StudyPatients,
    attention: list[NDArray[np.float32]],
    order: NDArray[np.int64],
    *,
    highest: bool,
) -> Iterator[_Tile]:
    assert patients.store is not None
    for at in order:
        if not len(attention[at]):
            continue  # this patient has no slide
        share = attention[at] * len(attention[at])
        row = int(np.argmax(share) if highest else np.argmin(share))
        start = row
        for slide_id in patients.slide_ids[at]:
            slide = patients.store.read(slide_id)
            if start < slide.n_tiles and slide.coords is not None:
                x, y = (int(value) for value in slide.coords[start])
                yield _Tile(slide_id, (x, y), f"attention {share[row]:.2g} x an equal share")
                break
            start -= slide.n_tiles


def _read(patients: StudyPatients, path: Any, tile: _Tile) -> TilePicture | None:
    from PIL import Image

    from storm_clinic.slides.reader import open_slide

    assert patients.store is not None
    contract = patients.store.contract
    assert contract.mpp is not None
    assert contract.tile_px is not None
    if not isinstance(path, str) or not Path(path).is_file():
        return None
    # The mpp that extraction settled on, whatever it was derived from.
    slide_mpp = patients.store.read(tile.slide_id).slide_mpp
    with open_slide(path, mpp_override=slide_mpp) as slide:
        pixels = slide.read(tile.corner_level0_px, contract.tile_px, contract.mpp)
    image = Image.fromarray(pixels).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    side_um = contract.tile_px * contract.mpp
    return TilePicture(
        f"data:image/jpeg;base64,{data}",
        f"{tile.said}; {side_um:.0f} µm wide",
    )
