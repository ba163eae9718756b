"""What a model says of each tile of a patient: attention, occlusion and attribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storm_clinic.explanations.faithfulness import DeletionCurve, deletion_curve
from storm_clinic.explanations.occlusion import blocks, occlusion
from storm_clinic.heads.contract import FittedModel, PatientData, attended_input
from storm_clinic.heads.network_head import NetworkModel
from storm_clinic.steps.tile_sources import TileLayout

if TYPE_CHECKING:
    from storm_clinic.explanations.attribution import Attribution

Floats = NDArray[np.float64]

_MOST_GROUPS = 400  # tiles of a patient that are left out one by one; beyond, squares of tiles are


@dataclass(frozen=True, eq=False)
class TileMap:
    """A value for each tile of one input, in the order of the patient's bag."""

    input_name: str
    values: Floats


@dataclass(frozen=True, eq=False)
class PatientMaps:
    """What a model says of one patient's tiles.

    Attributes
    ----------
    at : int
        Position of the patient.
    layouts : dict of str to tuple of TileLayout
        By each input of tiles that the patient has: the slides of its bag.
    maps : dict of str to TileMap
        By the map's name, see `map_name`.
    curves : dict of str to DeletionCurve
        By the map's name; none of a map that cannot be put in order, or of a single tile.
    attribution : Attribution, optional
        As far as it was tried; it is among the maps only where it is complete.
    why_none : str, optional
        Why no map shows attribution.
    """

    at: int
    layouts: Mapping[str, tuple[TileLayout, ...]]
    maps: Mapping[str, TileMap]
    curves: Mapping[str, DeletionCurve]
    attribution: Attribution | None
    why_none: str | None


@dataclass(frozen=True, eq=False)
class Sheet:
    """Tiles of one slide that lie alike, with all that maps say of them.

    A slide has one where the image's tiles are STORM's too, and two where they are not.
    """

    layout: TileLayout
    inputs: list[str] = field(default_factory=list)
    values: dict[str, Floats] = field(default_factory=dict)


def map_name(kind: str, input_name: str, inputs: tuple[str, ...]) -> str:
    """``occlusion`` of a model that looks at the image alone; ``occlusion-storm`` and so on else.

    Parameters
    ----------
    kind : str
        ``attention``, ``occlusion`` or ``attribution``.
    input_name : str
        Whose tiles it is about.
    inputs : tuple of str
        All inputs of tiles that the model sees.
    """
    return kind if inputs == ("image",) else f"{kind}-{input_name}"


def why_not_attributed(model: FittedModel) -> str | None:
    """Why nothing can be attributed to the tiles of any patient; None where it can."""
    if not isinstance(model, NetworkModel):
        return f"a model of {model.head!r} has no gradients"
    from storm_clinic.explanations.attribution import is_available

    if not is_available():
        return "captum is not installed (pip install 'storm-clinic[models]')"
    return None


def patient_maps(
    model: FittedModel,
    patient: PatientData,
    at: int,
    inputs: tuple[str, ...],
    layouts: Mapping[str, tuple[TileLayout, ...]],
    *,
    seed: int,
) -> PatientMaps:
    """Ask a model about every tile of one patient.

    Parameters
    ----------
    model : FittedModel
        Whose weights are asked.
    patient : PatientData
        Of one patient with a tile.
    at : int
        Position of the patient.
    inputs : tuple of str
        Inputs of tiles that the model sees.
    layouts : dict of str to tuple of TileLayout
        By each input of tiles that the patient has: the slides of its bag.
    seed : int
        Of the random orders of deletion curves.
    """
    maps: dict[str, TileMap] = {}
    attended = attended_input(inputs)
    attention = model.attention(patient)
    if attention is not None and len(attention[0]):
        share = attention[0].astype(np.float64) * len(attention[0])
        maps[map_name("attention", attended, inputs)] = TileMap(attended, share)
    for name, slides in layouts.items():
        lost = occlusion(model, patient, _groups(slides), input_name=name)
        maps[map_name("occlusion", name, inputs)] = TileMap(name, lost)
    attribution, why_none = _attribute(model, patient)
    if attribution is not None and why_none is None:
        for name, added in attribution.by_tile.items():
            maps[map_name("attribution", name, inputs)] = TileMap(name, added)
    curves = {
        name: deletion_curve(model, patient, own.values, seed=seed, input_name=own.input_name)
        for name, own in maps.items()
        if len(own.values) > 1 and np.isfinite(own.values).all()
    }
    return PatientMaps(at, layouts, maps, curves, attribution, why_none)


def sheets(item: PatientMaps) -> list[Sheet]:
    """One a slide, and one more for tiles of another input that lie elsewhere on it."""
    found: list[Sheet] = []
    for input_name, slides in item.layouts.items():
        own = {n: map_.values for n, map_ in item.maps.items() if map_.input_name == input_name}
        start = 0
        for layout in slides:
            here = slice(start, start + layout.n_tiles)
            start = here.stop
            sheet = next((sheet for sheet in found if sheet.layout.lies_as(layout)), None)
            if sheet is None:
                sheet = Sheet(layout)
                found.append(sheet)
            sheet.inputs.append(input_name)
            sheet.values.update({name: values[here] for name, values in own.items()})
    return found


def _attribute(model: FittedModel, patient: PatientData) -> tuple[Attribution | None, str | None]:
    """What tiles add to the risk, and why it may not be shown."""
    why_not = why_not_attributed(model)
    if why_not is not None:
        return None, why_not
    from storm_clinic.explanations.attribution import attribute

    found = attribute(model, patient)
    if found.complete:
        return found, None
    change = found.risk - found.baseline_risk
    return found, (
        f"the attribution is not complete: after {found.n_steps} steps its shares miss the change "
        f"of the risk ({change:.3g}) by {found.gap:.2g}"
    )


def _groups(slides: tuple[TileLayout, ...]) -> NDArray[np.int64]:
    """Groups of tiles of all of a patient's slides; tiles of two slides never share one."""
    n_tiles = sum(slide.n_tiles for slide in slides)
    parts, first = [], 0
    for slide in slides:
        most = max(2, _MOST_GROUPS * slide.n_tiles // n_tiles)
        own = blocks(slide.coords, slide.n_tiles, slide.side_px, most)
        parts.append(own + first)
        first += int(own.max()) + 1
    return np.concatenate(parts)
