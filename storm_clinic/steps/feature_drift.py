"""How the features of patients who are scored differ from those of development."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from storm_clinic.bundle import Bundle
from storm_clinic.errors import RegistryError
from storm_clinic.steps.evaluation_input import SCANNER, SITE, scanners
from storm_clinic.steps.study_patients import StudyPatients
from storm_clinic.study import IMPUTED
from storm_clinic.validation.analyses import FeatureDrift
from storm_clinic.validation.feature_drift import Features, feature_drift

_FROM_SLIDES: tuple[Features, ...] = ("image", "storm", "virtual_expression", "imputed_expression")


def drift_from_development(bundle: Bundle, patients: StudyPatients) -> tuple[FeatureDrift, ...]:
    """One record for each input from slides that models see; with the reason where there is none.

    Reads no outcome: it belongs before the predictions' seal or after, alike.

    Parameters
    ----------
    bundle : Bundle
        Of the model that scores them.
    patients : StudyPatients
        All of a cohort who can be scored.

    Raises
    ------
    RegistryError
        If the bundle has a reference of imputed expression and does not name its genes.
    InputError
        If a model sees imputed expression, and these patients come without a table of it.
    """
    cohort = patients.cohort
    divisions: dict[Literal["scanner", "site"], list[str | None]] = {}
    if cohort.slides[SCANNER].notna().any():
        divisions["scanner"] = scanners(cohort, patients.patient_ids)
    if SITE in cohort.patients:
        divisions["site"] = patients.sites
    found = []
    for name in _FROM_SLIDES:
        if name not in bundle.study.inputs:
            continue
        reference = bundle.references.get(name)
        why = _without(bundle, patients, name)
        if reference is None or why:
            found.append(FeatureDrift(cohort=cohort.name, features=name, note=why))
            continue
        found.append(
            feature_drift(
                reference,
                _means(bundle, patients, name),
                cohort=cohort.name,
                features=name,
                divisions=divisions,
                seed=bundle.study.evaluation.seed,
            )
        )
    return tuple(found)


def _without(bundle: Bundle, patients: StudyPatients, name: Features) -> str:
    """Why nothing can be compared; empty where it can."""
    if name not in bundle.references:
        why = bundle.manifest.without_reference.get(
            name, "the model was trained before such records were kept"
        )
        return f"how development looks in features is not on record: {why}"
    if name == IMPUTED:
        here, genes = patients.data.table(IMPUTED).columns, _genes(bundle)
        lacking = [gene for gene in genes if gene not in here]
        if lacking and len(here):  # none at all: no patient has a slide, which is counted as such
            return (
                f"{len(lacking)} of the {len(genes)} genes that development is described in are "
                f"not imputed here, the first is {lacking[0]}"
            )
    return ""


def _means(bundle: Bundle, patients: StudyPatients, name: Features) -> NDArray[np.float64]:
    """A row a patient; genes in the order of development's, which a cohort's need not have."""
    if name != IMPUTED:
        return patients.mean_embeddings[name]
    table = patients.data.table(IMPUTED).reindex(columns=list(_genes(bundle)))
    return table.to_numpy(np.float64)


def _genes(bundle: Bundle) -> tuple[str, ...]:
    """Columns of the reference of imputed expression: those that models learned from."""
    for table in bundle.manifest.measurements:
        if table.name == IMPUTED:
            return table.columns
    raise RegistryError(
        f"has a reference of {IMPUTED}, but its manifest does not say of which genes",
        where=bundle.folder,
        fix="Train and lock the model again.",
    )
