"""How the features of patients who are scored differ from those of development."""

from __future__ import annotations

from typing import Literal

from storm_clinic.bundle import Bundle
from storm_clinic.steps.evaluation_input import SCANNER, SITE, scanners
from storm_clinic.steps.study_patients import StudyPatients
from storm_clinic.validation.analyses import FeatureDrift
from storm_clinic.validation.feature_drift import Features, feature_drift

_TILES: tuple[Features, ...] = ("image", "storm", "virtual_expression")


def drift_from_development(bundle: Bundle, patients: StudyPatients) -> tuple[FeatureDrift, ...]:
    """One record for each kind of tiles that models see; with the reason where none can be made.

    Reads no outcome: it belongs before the predictions' seal or after, alike.

    Parameters
    ----------
    bundle : Bundle
        Of the model that scores them.
    patients : StudyPatients
        All of a cohort who can be scored.
    """
    cohort = patients.cohort
    divisions: dict[Literal["scanner", "site"], list[str | None]] = {}
    if cohort.slides[SCANNER].notna().any():
        divisions["scanner"] = scanners(cohort, patients.patient_ids)
    if SITE in cohort.patients:
        divisions["site"] = patients.sites
    found = []
    for name in _TILES:
        if name not in bundle.study.inputs:
            continue
        reference = bundle.references.get(name)
        if reference is None:
            why = bundle.manifest.without_reference.get(
                name, "the model was trained before such records were kept"
            )
            found.append(
                FeatureDrift(
                    cohort=cohort.name,
                    features=name,
                    note=f"how development looks in features is not on record: {why}",
                )
            )
            continue
        found.append(
            feature_drift(
                reference,
                patients.mean_embeddings[name],
                cohort=cohort.name,
                features=name,
                divisions=divisions,
                seed=bundle.study.evaluation.seed,
            )
        )
    return tuple(found)
