"""The verb `explain`: where on the slides a model's risks come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.errors import InputError, SlideError
from storm_clinic.explanations.curve_picture import draw_curves
from storm_clinic.explanations.faithfulness import (
    DeletionCurve,
    Faithfulness,
    deletion_curve,
    judge,
)
from storm_clinic.explanations.maps import SlideMap, write_geojson, write_ome_tiff, write_overlay
from storm_clinic.explanations.occlusion import blocks, occlusion
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace, csv_text, safe_name, storage_errors, write_text
from storm_clinic.heads.contract import FittedModel
from storm_clinic.progress import Progress
from storm_clinic.registry.identity import load_keys
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.versions import Referring, reference_of
from storm_clinic.reporting.content import TileGallery
from storm_clinic.steps.attended_tiles import gather_tiles, tiles_of_patient
from storm_clinic.steps.gallery_page import write_gallery
from storm_clinic.steps.study_patients import StudyPatients, scored_patients

Floats = NDArray[np.float64]

_MOST_GROUPS = 400  # tiles of a patient that are left out one by one; beyond, squares of tiles are
_PICTURE_PX = 1200  # longer side of the thumbnail under a map
_COLUMNS = ("slide_id", "patient_key", "n_tiles", "attention", "occlusion", "overlay", "reason")


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was written, and whether the maps can be believed.

    Attributes
    ----------
    folder : Path
    table : DataFrame
        One row a slide: ``slide_id, patient_key, n_tiles``, whether ``attention``, ``occlusion``
        and ``overlay`` were written, and ``reason`` where something was not.
    faithfulness : dict of str to Faithfulness
        By map; a map of which nothing can be said is absent.
    """

    folder: Path
    table: pd.DataFrame
    faithfulness: dict[str, Faithfulness]


@dataclass(frozen=True, eq=False)
class _OnSlide:
    """Where one slide's tiles lie, as far as it is known; their embeddings are not needed."""

    slide_id: str
    n_tiles: int
    coords: NDArray[np.int64] | None
    slide_mpp: float | None
    side_px: float | None  # of a tile, level-0 px

    @classmethod
    def read(cls, store: FeatureStore, slide_id: str) -> _OnSlide:
        slide, tile_um = store.read(slide_id), store.contract.tile_um
        side = tile_um / slide.slide_mpp if tile_um and slide.slide_mpp else None
        return cls(slide_id, slide.n_tiles, slide.coords, slide.slide_mpp, side)


@dataclass(frozen=True, eq=False)
class _Explained:
    """Maps of one patient's tiles, in the order of the bag."""

    at: int
    slides: tuple[_OnSlide, ...]
    values: dict[str, Floats]


def explain(
    model: str | Referring,
    *,
    cohort: str,
    out: str | Path,
    patients: int = 10,
    workspace: Workspace | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Maps of attention and of occlusion on a cohort's slides, by the weights that predict.

    For the patients with the highest risks: each tile's attention, where the head has any, and how
    much of the risk goes when the tile is left out. Written are ``<slide>.geojson`` for QuPath,
    ``<slide>.ome.tiff``, ``<slide>-<map>.png`` over the slide where it is on this machine,
    ``tiles.csv``, ``deletion.csv`` and ``deletion.png`` with the deletion curves, and
    ``gallery.html``.

    Parameters
    ----------
    model : str, or what `train`, `lock` or `validate` gave
        ``name`` (its latest version) or ``name:version``; its candidate is explained.
    cohort : str
        Whose slides.
    out : str or Path
        Folder; made if absent, files of the same names are replaced.
    patients : int
        How many patients, the highest risks first.
    workspace : Workspace, optional
        The current folder by default.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Raises
    ------
    RegistryError, CohortError, FeatureError
        If model, cohort or features cannot be read.
    InputError
        If the model does not look at slides.
    """
    workspace = workspace or Workspace()
    version = Registry(workspace).find(reference_of(model))
    study, fitted = version.bundle.study, version.bundle.restore()
    if "image" not in study.model(study.candidate).inputs:
        raise InputError("does not look at slides, so there is no map", where=version.reference)
    scored = scored_patients(study, cohort, workspace=workspace, keys=load_keys(workspace))
    explained, curves = _explain_patients(fitted, scored, patients, study.evaluation.seed, progress)
    folder = Path(out)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, item in enumerate(explained, start=1):
        rows += _write_patient(folder, scored, item)
        if progress is not None:
            progress("writing maps", number, len(explained))
    _write_tables(folder, scored, explained, curves)
    if curves:
        draw_curves(folder / "deletion.png", curves)
    _write_gallery(folder, fitted, study.candidate, scored, explained)
    judged = {name: judge(found, seed=study.evaluation.seed) for name, found in curves.items()}
    return Explanation(folder, pd.DataFrame(rows, columns=list(_COLUMNS)), judged)


def _explain_patients(
    model: FittedModel,
    scored: StudyPatients,
    n_patients: int,
    seed: int,
    progress: Progress | None,
) -> tuple[list[_Explained], dict[str, list[DeletionCurve]]]:
    data, store = scored.data, scored.store
    assert store is not None
    with_tiles = np.flatnonzero(data.present("image"))
    some = data.take(with_tiles)
    order = with_tiles[np.argsort(-model.predict(some).risk, kind="stable")][:n_patients]
    explained: list[_Explained] = []
    curves: dict[str, list[DeletionCurve]] = {}
    for number, at in enumerate(order, start=1):
        patient = data.take(np.array([at]))
        n_tiles = int(patient.tiles("image").sizes[0])
        values: dict[str, Floats] = {}
        attention = model.attention(patient)
        if attention is not None:
            values["attention"] = attention[0].astype(np.float64) * n_tiles
        slides = tuple(_OnSlide.read(store, slide_id) for slide_id in scored.slide_ids[at])
        values["occlusion"] = occlusion(model, patient, _groups(slides, n_tiles))
        explained.append(_Explained(int(at), slides, values))
        for name, scores in values.items():
            if n_tiles > 1 and np.isfinite(scores).all():
                curve = deletion_curve(model, patient, scores, seed=seed)
                curves.setdefault(name, []).append(curve)
        if progress is not None:
            progress("explaining patients", number, len(order))
    return explained, curves


def _groups(slides: tuple[_OnSlide, ...], n_tiles: int) -> NDArray[np.int64]:
    """Groups of tiles of all of a patient's slides; tiles of two slides never share one."""
    parts, first = [], 0
    for slide in slides:
        most = max(2, _MOST_GROUPS * slide.n_tiles // n_tiles)
        own = blocks(slide.coords, slide.n_tiles, slide.side_px, most)
        parts.append(own + first)
        first += int(own.max()) + 1
    return np.concatenate(parts)


def _write_patient(folder: Path, scored: StudyPatients, item: _Explained) -> list[tuple[Any, ...]]:
    paths = dict(zip(scored.cohort.slides["slide_id"], scored.cohort.slides["path"], strict=True))
    rows, start = [], 0
    for slide in item.slides:
        here = slice(start, start + slide.n_tiles)
        start += slide.n_tiles
        values = {name: scores[here] for name, scores in item.values.items()}
        overlay, reason = False, None
        if slide.coords is None or slide.side_px is None or slide.slide_mpp is None:
            reason = "the position of tiles on the slide is not known"
        else:
            map_ = SlideMap(slide.slide_id, slide.coords, slide.side_px, slide.slide_mpp, values)
            reason = _write_maps(folder, map_, paths.get(slide.slide_id))
            overlay = reason is None
        occluded = bool(np.isfinite(values["occlusion"]).all())
        if not occluded:
            reason = "; ".join(filter(None, [reason, "a single tile cannot be left out"]))
        key = scored.keys[item.at]
        attended = "attention" in values
        rows.append((slide.slide_id, key, slide.n_tiles, attended, occluded, overlay, reason))
    return rows


def _write_maps(folder: Path, map_: SlideMap, slide_path: Any) -> str | None:
    """Write one slide's files; returns why there is no picture, if there is none."""
    from storm_clinic.slides.reader import open_slide

    name = safe_name(map_.slide_id, what="slide")
    write_geojson(folder / f"{name}.geojson", map_)
    write_ome_tiff(folder / f"{name}.ome.tiff", map_)
    if not isinstance(slide_path, str) or not Path(slide_path).is_file():
        return "the slide is not on this machine, so there is no picture"
    try:
        with open_slide(slide_path, mpp_override=map_.slide_mpp) as slide:
            side_um = max(slide.size) * map_.slide_mpp
            thumbnail, mpp = slide.thumbnail(max(side_um / _PICTURE_PX, map_.slide_mpp))
    except SlideError as error:
        return f"no picture: {error}"
    for which in map_.values:
        write_overlay(folder / f"{name}-{which}.png", map_, which, thumbnail, mpp)
    return None


def _write_tables(
    folder: Path,
    scored: StudyPatients,
    explained: Sequence[_Explained],
    curves: dict[str, list[DeletionCurve]],
) -> None:
    tiles = []
    for item in explained:
        slides = item.slides
        table = pd.DataFrame(item.values)
        table.insert(0, "patient_key", scored.keys[item.at])
        table.insert(
            1, "slide_id", np.repeat([s.slide_id for s in slides], [s.n_tiles for s in slides])
        )
        if all(slide.coords is not None for slide in slides):
            table[["x", "y"]] = np.concatenate([slide.coords for slide in slides])
        tiles.append(table)
    _write_csv(folder / "tiles.csv", pd.concat(tiles) if tiles else pd.DataFrame())
    steps = [
        pd.DataFrame(
            {
                "map": name,
                "patient": number,
                "share_gone": curve.share,
                "highest_first": curve.highest,
                "lowest_first": curve.lowest,
                "random": curve.random,
            }
        )
        for name, found in curves.items()
        for number, curve in enumerate(found)
    ]
    _write_csv(folder / "deletion.csv", pd.concat(steps) if steps else pd.DataFrame())


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_text(path, csv_text(table))


def _write_gallery(
    folder: Path,
    model: FittedModel,
    name: str,
    scored: StudyPatients,
    explained: Sequence[_Explained],
) -> None:
    of_cohort = gather_tiles(model, name, scored)
    of_patients = []
    for item in explained:
        scores = item.values.get("attention", item.values["occlusion"])
        found = tiles_of_patient(scored, item.at, scores)
        if found is not None:
            of_patients.append((scored.keys[item.at], *found))
    cohort = of_cohort if isinstance(of_cohort, TileGallery) else None
    why = None if cohort is not None else str(of_cohort)
    write_gallery(folder / "gallery.html", name, scored.cohort.name, cohort, why, of_patients)
