"""The verb `explain`: where on the slides a model's risks come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from storm_clinic.errors import InputError
from storm_clinic.explanations.curve_picture import draw_curves
from storm_clinic.explanations.faithfulness import DeletionCurve, Faithfulness, judge
from storm_clinic.files import Workspace, storage_errors
from storm_clinic.heads.contract import FittedModel, attended_input
from storm_clinic.progress import Progress
from storm_clinic.registry.identity import load_keys
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.versions import Referring, reference_of
from storm_clinic.reporting.content import TileGallery
from storm_clinic.steps.attended_tiles import gather_tiles, tiles_of_patient
from storm_clinic.steps.explanation_files import (
    input_table,
    slide_table,
    write_maps,
    write_tables,
)
from storm_clinic.steps.gallery_page import write_gallery
from storm_clinic.steps.patient_maps import PatientMaps, map_name, patient_maps
from storm_clinic.steps.study_patients import StudyPatients, scored_patients
from storm_clinic.steps.tile_sources import TileSource
from storm_clinic.study import kind_of


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was written, and whether the maps can be believed.

    Attributes
    ----------
    folder : Path
    table : DataFrame
        One row a slide, and one more where inputs lie on other tiles of it: ``slide_id,
        patient_key, n_tiles, inputs``, whether ``attention``, ``occlusion``, ``attribution`` and
        ``overlay`` were written, and ``reason`` where something was not.
    inputs : DataFrame
        One row a patient and input of tiles, as in ``inputs.csv``: what it ``adds_to_risk``, the
        ``risk``, the ``baseline_risk``, the ``gap`` between, ``n_steps``, ``complete``, ``reason``.
    faithfulness : dict of str to Faithfulness
        By map; a map of which nothing can be said is absent.
    """

    folder: Path
    table: pd.DataFrame
    inputs: pd.DataFrame
    faithfulness: dict[str, Faithfulness]

    @property
    def attribution_sentence(self) -> str:
        """For how many patients attribution is complete, and why not for the others."""
        by_patient = self.inputs.drop_duplicates("patient_key")
        n_complete, n_patients = int(by_patient["complete"].sum()), len(by_patient)
        if n_complete:
            from storm_clinic.explanations.attribution import BASELINE

            said = f"complete for {n_complete} of {n_patients} patients, against {BASELINE}"
            return said if n_complete == n_patients else f"{said}; the others are in inputs.csv"
        return "; ".join(["none", *dict.fromkeys(by_patient["reason"].dropna())])


def explain(
    model: str | Referring,
    *,
    cohort: str,
    out: str | Path,
    patients: int = 10,
    workspace: Workspace | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Maps of attention, occlusion and attribution on a cohort's slides, by the predicting weights.

    For the patients with the highest risks, and for each input of tiles (``image``, ``storm``,
    ``virtual_expression``): each tile's attention, where the head has any; how much of the risk
    goes when the tile is left out; and what it adds to the risk by Integrated Gradients, where the
    model is a network. Written are ``<slide>.geojson`` for QuPath, ``<slide>.ome.tiff``,
    ``<slide>-<map>.png`` over the slide where it is on this machine, ``tiles.csv``, ``inputs.csv``,
    ``genes.csv`` where the model sees imputed genes, ``deletion.csv`` and ``deletion.png`` with the
    deletion curves, and ``gallery.html``.

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
        If the model does not look at tiles of slides.
    """
    workspace = workspace or Workspace()
    version = Registry(workspace).find(reference_of(model))
    study, fitted = version.bundle.study, version.bundle.restore()
    inputs = tuple(n for n in study.model(study.candidate).inputs if kind_of(n) == "tiles")
    if not inputs:
        raise InputError("does not look at slides, so there is no map", where=version.reference)
    scored = scored_patients(study, cohort, workspace=workspace, keys=load_keys(workspace))
    sources = {name: TileSource.of(scored, name) for name in inputs}
    seed = study.evaluation.seed
    explained = _explain_patients(fitted, scored, sources, patients, seed, progress)
    folder = Path(out)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, item in enumerate(explained, start=1):
        rows += write_maps(folder, scored, item)
        if progress is not None:
            progress("writing maps", number, len(explained))
    write_tables(folder, scored, explained)
    curves = _curves(explained)
    if curves:
        draw_curves(folder / "deletion.png", curves)
    _write_gallery(folder, fitted, study.candidate, scored, sources, explained)
    return Explanation(
        folder,
        slide_table(rows),
        input_table(scored, explained),
        {name: judge(found, seed=seed) for name, found in curves.items()},
    )


def _explain_patients(
    model: FittedModel,
    scored: StudyPatients,
    sources: dict[str, TileSource],
    n_patients: int,
    seed: int,
    progress: Progress | None,
) -> list[PatientMaps]:
    data, inputs = scored.data, tuple(sources)
    has = {name: data.present(name) for name in inputs}
    with_tiles = np.flatnonzero(np.any(list(has.values()), axis=0))
    risk = model.predict(data.take(with_tiles)).risk
    order = with_tiles[np.argsort(-risk, kind="stable")][:n_patients]
    explained = []
    for number, at in enumerate(map(int, order), start=1):
        layouts = {name: of.layouts(at) for name, of in sources.items() if has[name][at]}
        patient = data.take(np.array([at]))
        explained.append(patient_maps(model, patient, at, inputs, layouts, seed=seed))
        if progress is not None:
            progress("explaining patients", number, len(order))
    return explained


def _curves(explained: Sequence[PatientMaps]) -> dict[str, list[DeletionCurve]]:
    """Of all patients, by map."""
    found: dict[str, list[DeletionCurve]] = {}
    for item in explained:
        for name, curve in item.curves.items():
            found.setdefault(name, []).append(curve)
    return found


def _write_gallery(
    folder: Path,
    model: FittedModel,
    name: str,
    scored: StudyPatients,
    sources: dict[str, TileSource],
    explained: Sequence[PatientMaps],
) -> None:
    """Tiles of the input that attention weighs, in the order of attention, or else of occlusion."""
    inputs = tuple(sources)
    shown = attended_input(inputs)
    of_cohort = gather_tiles(model, name, scored, sources[shown])
    of_patients = []
    for item in explained:
        names = (map_name(kind, shown, inputs) for kind in ("attention", "occlusion"))
        map_ = next((item.maps[one] for one in names if one in item.maps), None)
        if map_ is None:
            continue  # this patient has only tiles of another input
        found = tiles_of_patient(scored, sources[shown], item.at, map_.values)
        if found is not None:
            of_patients.append((scored.keys[item.at], *found))
    cohort = of_cohort if isinstance(of_cohort, TileGallery) else None
    why = None if cohort is not None else str(of_cohort)
    write_gallery(folder / "gallery.html", name, scored.cohort.name, cohort, why, of_patients)
