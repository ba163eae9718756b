"""Which patients a study sees: cohorts, feature files and keys joined, every loss accounted for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.cohort.attrition import Attrition
from storm_clinic.cohort.leakage import Fingerprints, check_disjoint, check_within
from storm_clinic.cohort.outcome import Outcome, concatenate
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace
from storm_clinic.heads.bag_cache import build_bags
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData
from storm_clinic.registry.identity import PatientKeys
from storm_clinic.study import Study


@dataclass(frozen=True, eq=False)
class StudyPatients:
    """Patients of one cohort whom a study can score, in the order of their ids.

    Attributes
    ----------
    cohort : Cohort
    patient_ids : tuple of str
        Never leaves this machine; they also name the patients in ``data``, so that folds do not
        depend on the institution's secret.
    keys : tuple of str
        What stands for them in everything that is stored.
    slide_ids : tuple of tuple of str
        Slides whose tiles make each patient's bag; empty where no model looks at slides.
    data : PatientData
    attrition : Attrition
        From the tables' rows to these patients.
    store : FeatureStore, optional
    """

    cohort: Cohort
    patient_ids: tuple[str, ...]
    keys: tuple[str, ...]
    slide_ids: tuple[tuple[str, ...], ...]
    data: PatientData
    attrition: Attrition
    store: FeatureStore | None

    def __len__(self) -> int:
        return len(self.patient_ids)

    @property
    def sites(self) -> list[str | None]:
        """Site of each patient; None where the table has none. One site where none is declared."""
        if "site" not in self.cohort.patients:
            return [self.cohort.name] * len(self)
        return list(self.cohort.patients["site"].loc[list(self.patient_ids)])

    def take(self, at: NDArray[np.int64]) -> StudyPatients:
        """The patients at these positions, in that order."""
        return replace(
            self,
            patient_ids=tuple(self.patient_ids[i] for i in at),
            keys=tuple(self.keys[i] for i in at),
            slide_ids=tuple(self.slide_ids[i] for i in at),
            data=self.data.take(at),
        )

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """What these patients' data have that may not occur in another cohort."""
        index = None if self.store is None else self.store.index().set_index("slide_id")
        return Fingerprints.of(self.cohort.name, self.keys, self.slide_ids, index)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """SHA-256 of everything that was read, by a name that holds no id."""
        digests = {f"{self.cohort.name}/{name}": d for name, d in self.cohort.digests.items()}
        if self.store is not None:
            digests[f"{self.cohort.name}/features"] = self.fingerprints.features_digest
            digests[f"{self.cohort.name}/contract"] = self.store.contract.digest
        return digests


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Patients with what became of them, in one order."""

    patients: StudyPatients
    outcome: Outcome


def needs_slides(study: Study) -> bool:
    """Whether any model of a study looks at slides."""
    return any(set(model.inputs) - {"clinical"} for model in study.models)


def scored_patients(
    study: Study, cohort_name: str, *, workspace: Workspace, keys: PatientKeys
) -> StudyPatients:
    """Patients of a cohort whom the study's models can score, whatever became of them.

    Uses no outcome: this is what a locked model sees.

    Raises
    ------
    CohortError, FeatureError
        Naming what is missing or undeclared.
    """
    cohort = Cohort.read(cohort_name, workspace)
    patient_ids = [str(patient) for patient in cohort.patients.index]
    return _assemble(study, cohort, patient_ids, cohort.attrition, workspace, keys)


def join_outcome(study: Study, scored: StudyPatients) -> Evaluated:
    """Scored patients with what became of them; who has no outcome is listed in the attrition.

    Raises
    ------
    CohortError
        If no scored patient has this outcome.
    """
    table = scored.cohort.outcome(study.endpoint.name)
    position = {patient: at for at, patient in enumerate(table.patient_ids)}
    kept = [at for at, patient in enumerate(scored.patient_ids) if patient in position]
    if not kept:
        raise CohortError(
            f"no scored patient has the outcome {study.endpoint.name}",
            where=scored.cohort.manifest_path,
        )
    reasons = table.attrition.excluded().set_index("id")["reason"]
    lost = {p: str(reasons[p]) for p in scored.patient_ids if p not in position}
    step = Attrition.left_out(f"with outcome {study.endpoint.name}", scored.patient_ids, lost)
    joined = scored.take(np.array(kept, dtype=np.int64))
    joined = replace(joined, attrition=scored.attrition.joined(step))
    return Evaluated(joined, table.outcome.take([position[p] for p in joined.patient_ids]))


def _with_outcome(
    study: Study, cohort_name: str, workspace: Workspace, keys: PatientKeys
) -> Evaluated:
    """Development patients: those with an outcome, and of these the ones that can be scored."""
    cohort = Cohort.read(cohort_name, workspace)
    table = cohort.outcome(study.endpoint.name)
    attrition = cohort.attrition.joined(table.attrition)
    patients = _assemble(study, cohort, list(table.patient_ids), attrition, workspace, keys)
    position = {patient: at for at, patient in enumerate(table.patient_ids)}
    return Evaluated(patients, table.outcome.take([position[p] for p in patients.patient_ids]))


def _assemble(
    study: Study,
    cohort: Cohort,
    patient_ids: list[str],
    attrition: Attrition,
    workspace: Workspace,
    keys: PatientKeys,
) -> StudyPatients:
    """Join patients with slides, features and covariates, in the order of their ids."""
    store, bags = None, None
    slides: tuple[tuple[str, ...], ...] = tuple(() for _ in patient_ids)
    if needs_slides(study):
        store = FeatureStore.open(workspace.store(cohort.name, study.features.encoder))
        index = store.index()
        usable = set(index["slide_id"][index["problem"].isna() & (index["n_tiles"] > 0)])
        joined = cohort.join_slides(patient_ids, usable)
        attrition = attrition.joined(joined.attrition)
        patient_ids, slides = list(joined.patient_ids), joined.slide_ids
    order = sorted(range(len(patient_ids)), key=lambda at: patient_ids[at])
    patient_ids = [patient_ids[at] for at in order]
    slides = tuple(tuple(sorted(slides[at])) for at in order)
    if store is not None:
        bags = build_bags(store, [list(of) for of in slides], store.folder / "bags")
    data = PatientData(
        keys=tuple(patient_ids),
        bags=bags,
        clinical=cohort.covariates(study.clinical).loc[patient_ids] if study.clinical else None,
    )
    return StudyPatients(
        cohort, data.keys, keys.patient_keys(patient_ids), slides, data, attrition, store
    )


@dataclass(frozen=True, eq=False)
class Development:
    """All development cohorts of a study, one after another.

    Attributes
    ----------
    parts : tuple of Evaluated
    data : PatientData
    outcome : Outcome
        Of all patients, in the order of ``parts``.
    """

    parts: tuple[Evaluated, ...]
    data: PatientData
    outcome: Outcome

    @property
    def keys(self) -> tuple[str, ...]:
        """What stands for each patient in everything that is stored."""
        return tuple(key for part in self.parts for key in part.patients.keys)

    @property
    def cohorts(self) -> list[str]:
        """Cohort of each patient."""
        return [part.patients.cohort.name for part in self.parts for _ in part.patients.keys]

    @property
    def sites(self) -> list[str | None]:
        """Site of each patient; its name holds its cohort's where there are several cohorts."""
        if len(self.parts) == 1:
            return self.parts[0].patients.sites
        named = [(part.patients.cohort.name, part.patients.sites) for part in self.parts]
        return [f"{cohort}/{site or 'no site'}" for cohort, sites in named for site in sites]

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """What no validation cohort may share."""
        parts = [part.patients.fingerprints for part in self.parts]
        return Fingerprints.union("development", parts)

    @property
    def inputs(self) -> dict[str, str]:
        """SHA-256 of everything that was read, by a name that holds no id."""
        return {name: d for part in self.parts for name, d in part.patients.inputs.items()}

    @property
    def store(self) -> FeatureStore | None:
        """A store of the contract that all cohorts share."""
        return self.parts[0].patients.store


def load_development(study: Study, *, workspace: Workspace, keys: PatientKeys) -> Development:
    """Join the development cohorts of a study.

    Raises
    ------
    CohortError, FeatureError
        Naming what is missing or undeclared.
    ContractMismatch
        If the cohorts' features were not made in one way.
    LeakageError
        If two cohorts share a patient or slide, or two patients share a slide.
    """
    parts = [_with_outcome(study, name, workspace, keys) for name in study.development]
    for at, part in enumerate(parts):
        _check_same_contract(parts[0].patients.store, part.patients.store)
        check_within(part.patients.fingerprints)
        for other in parts[:at]:
            check_disjoint(other.patients.fingerprints, part.patients.fingerprints)
    data = parts[0].patients.data
    if len(parts) > 1:
        data = _concatenated([part.patients.data for part in parts])
    return Development(tuple(parts), data, concatenate([part.outcome for part in parts]))


def _concatenated(parts: list[PatientData]) -> PatientData:
    bags = [part.bags for part in parts if part.bags is not None]
    tables = [part.clinical for part in parts if part.clinical is not None]
    return PatientData(
        keys=tuple(key for part in parts for key in part.keys),
        bags=Bags.concat(bags) if bags else None,
        clinical=pd.concat(tables) if tables else None,
    )


def _check_same_contract(first: FeatureStore | None, other: FeatureStore | None) -> None:
    if first is not None and other is not None:
        other.contract.require_same(first.contract, where=other.folder)
