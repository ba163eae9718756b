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
from storm_clinic.steps.tile_sources import TileSource

_N_TILES = 6
_SIDE_PX = 160  # of a thumbnail in the page


@dataclass(frozen=True)
class _Tile:
    slide_id: str
    corner_level0_px: tuple[int, int]
    said: str  # of the tile, for its caption


def gather_tiles(
    model: FittedModel, name: str, patients: StudyPatients, source: TileSource
) -> TileGallery | str:
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
    source : TileSource
        Of the input whose tiles the model's attention weighs.
    """
    if not source.store.contract.geometry_known:
        return "the position of tiles on the slides is not known"
    paths = _paths(patients)
    if not any(isinstance(path, str) and Path(path).is_file() for path in paths.values()):
        return "the slides are not on this machine"
    attention = model.attention(patients.data)
    if attention is None:
        return "this kind of model has no attention"
    risk = model.predict(patients.data).risk
    riskiest = np.argsort(-risk, kind="stable")
    most = _pictures(source, paths, attention, riskiest, highest=True)
    least = _pictures(source, paths, attention, riskiest, highest=False)
    return TileGallery(
        model=name,
        cohort=patients.cohort.name,
        most=tuple(most),
        least=tuple(least),
        note="One tile from each of the patients with the highest predicted risk; attention "
        "relative to an equal share of all tiles of the patient.",
    )


def tiles_of_patient(
    patients: StudyPatients, source: TileSource, at: int, scores: NDArray[np.float64]
) -> tuple[list[TilePicture], list[TilePicture]] | None:
    """Pictures of one patient's tiles with the highest and the lowest scores.

    Parameters
    ----------
    patients : StudyPatients
        Whom the model scored.
    source : TileSource
        Of the input whose tiles are shown.
    at : int
        Position of the patient.
    scores : float array, shape (n_tiles,)
        What a map says of each tile, in the order of the bag.

    Returns
    -------
    (highest, lowest), or None where tiles cannot be read again.
    """
    if not source.store.contract.geometry_known or not np.isfinite(scores).all():
        return None
    paths = _paths(patients)
    places: list[tuple[str, tuple[int, int]]] = []
    for slide in source.layouts(at):
        if slide.coords is None:
            return None
        places += [(slide.slide_id, (int(x), int(y))) for x, y in slide.coords]
    order = np.argsort(-scores, kind="stable")
    rows = []
    for chosen in (order[:_N_TILES], order[::-1][:_N_TILES]):
        tiles = [_Tile(*places[int(row)], said=f"score {scores[row]:.3g}") for row in chosen]
        rows.append(_readable(source, paths, tiles))
    return (rows[0], rows[1]) if rows[0] else None


def _paths(patients: StudyPatients) -> dict[str, Any]:
    slides = patients.cohort.slides
    return dict(zip(slides["slide_id"], slides["path"], strict=True))


def _readable(source: TileSource, paths: dict[str, Any], tiles: list[_Tile]) -> list[TilePicture]:
    found = []
    for tile in tiles:
        try:
            picture = _read(source, paths.get(tile.slide_id), tile)
        except SlideError:
            continue  # a slide that went bad since extraction
        if picture is not None:
            found.append(picture)
    return found


def _pictures(
    source: TileSource,
    paths: dict[str, Any],
    attention: list[NDArray[np.float32]],
    order: NDArray[np.int64],
    *,
    highest: bool,
) -> list[TilePicture]:
    found: list[TilePicture] = []
    for tile in _tiles(source, attention, order, highest=highest):
        try:
            picture = _read(source, paths.get(tile.slide_id), tile)
        except SlideError:
            continue  # a slide that went bad since extraction: the next patient's tile is shown
        if picture is not None:
            found.append(picture)
        if len(found) == _N_TILES:
            break
    return found


def _tiles(
    source: TileSource,
    attention: list[NDArray[np.float32]],
    order: NDArray[np.int64],
    *,
    highest: bool,
) -> Iterator[_Tile]:
    for at in order:
        if not len(attention[at]):
            continue  # this patient has no slide
        share = attention[at] * len(attention[at])
        row = int(np.argmax(share) if highest else np.argmin(share))
        start = row
        for slide in source.layouts(at):
            if start < slide.n_tiles and slide.coords is not None:
                x, y = (int(value) for value in slide.coords[start])
                yield _Tile(slide.slide_id, (x, y), f"attention {share[row]:.2g} x an equal share")
                break
            start -= slide.n_tiles


def _read(source: TileSource, path: Any, tile: _Tile) -> TilePicture | None:
    from PIL import Image

    from storm_clinic.slides.reader import open_slide

    contract = source.store.contract
    assert contract.mpp is not None
    assert contract.tile_px is not None
    if not isinstance(path, str) or not Path(path).is_file():
        return None
    # The mpp that extraction settled on, whatever it was derived from.
    slide_mpp = source.store.read(tile.slide_id).slide_mpp
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
