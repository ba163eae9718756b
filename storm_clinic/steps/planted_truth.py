"""How well a model's map finds what was planted in simulated slides."""

from __future__ import annotations

import numpy as np

from storm_clinic.errors import StatisticsError
from storm_clinic.explanations.planted import Landing, land
from storm_clinic.files import Workspace
from storm_clinic.registry.identity import load_keys
from storm_clinic.registry.versions import RegisteredModel
from storm_clinic.simulate.slide_file import read_truth
from storm_clinic.slides.tiles import tissue_fraction
from storm_clinic.steps.study_patients import StudyPatients, scored_patients


def attention_landing(model: RegisteredModel, cohort: str, workspace: Workspace) -> Landing:
    """Attention of a model's candidate on a simulated cohort against the planted morphology.

    Raises
    ------
    StatisticsError
        If the head has no attention, or no slide has its truth.
    """
    study = model.bundle.study
    patients = scored_patients(study, cohort, workspace=workspace, keys=load_keys(workspace))
    attention = model.bundle.restore().attention(patients.data)
    if attention is None:
        raise StatisticsError("this kind of model has no attention", where=model.reference)
    scores, shares = [], []
    for at in range(len(patients)):
        truth = _planted(patients, at, workspace)
        if truth is not None and len(truth):
            scores.append(attention[at].astype(np.float64) * len(truth))
            shares.append(truth)
    if not scores:
        raise StatisticsError("no slide has a truth beside it", where=workspace.root / "truth")
    return land(scores, shares, seed=study.evaluation.seed)


def _planted(patients: StudyPatients, at: int, workspace: Workspace) -> np.ndarray | None:
    """Planted share of each of a patient's tiles; None where a slide has no truth."""
    store = patients.store
    assert store is not None
    parts = []
    for slide_id in patients.slide_ids[at]:
        path = workspace.root / "truth" / patients.cohort.name / f"{slide_id}.png"
        slide = store.read(slide_id)
        if not path.exists() or slide.coords is None or slide.slide_mpp is None:
            return None
        assert store.contract.tile_um is not None
        side_px = store.contract.tile_um / slide.slide_mpp
        parts.append(tissue_fraction(slide.coords, side_px, read_truth(path), slide.slide_mpp))
    return np.concatenate(parts) if parts else None
