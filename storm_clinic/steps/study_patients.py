"""Which patients a study sees: cohorts, feature files and keys joined, every loss accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.cohort.attrition import Attrition
from storm_clinic.cohort.leakage import Fingerprints, check_disjoint, check_within
from storm_clinic.cohort.outcome import Outcome, concatenate
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError, NoOutcomeError
from storm_clinic.features.slide_features import digest_array
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_store import StormStore
from storm_clinic.features.storm_tiles import VirtualExpression
from storm_clinic.files import Workspace, digest_value
from storm_clinic.heads.bag_cache import Store
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData
from storm_clinic.registry.identity import PatientKeys
from storm_clinic.steps.declared_inputs import (
    clinical_columns,
    measured_inputs,
    require_same_inputs,
)
from storm_clinic.steps.study_slides import join_slides
from storm_clinic.study import IMPUTED, VIRTUAL, Study, kind_of


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
        Slides with features whose tiles make each patient's bag; empty where no model sees images.
    storm_slide_ids : tuple of tuple of str
        Slides with STORM files; empty where no model sees what STORM made.
    data : PatientData
        Whatever the study's models see; what a patient lacks is empty or NaN.
    attrition : Attrition
        From the tables' rows to these patients.
    store : FeatureStore, optional
    storm : StormStore, optional
    measurement_digests : dict of str
        SHA-256 of the tables of measurements that were read.
    virtual : VirtualExpression, optional
        What the STORM files impute of tiles, where a model sees it.
    """

    cohort: Cohort
    patient_ids: tuple[str, ...]
    keys: tuple[str, ...]
    slide_ids: tuple[tuple[str, ...], ...]
    storm_slide_ids: tuple[tuple[str, ...], ...]
    data: PatientData
    attrition: Attrition
    store: FeatureStore | None
    storm: StormStore | None
    measurement_digests: dict[str, str]
    virtual: VirtualExpression | None = None

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
            storm_slide_ids=tuple(self.storm_slide_ids[i] for i in at),
            data=self.data.take(at),
        )

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """What these patients' data have that may not occur in another cohort."""
        name, parts = self.cohort.name, []
        for store, slide_ids in ((self.store, self.slide_ids), (self.storm, self.storm_slide_ids)):
            index = None if store is None else store.index().set_index("slide_id")
            parts.append(Fingerprints.of(name, self.keys, slide_ids, index))
        return Fingerprints.union(name, parts)

    @property
    def lacking(self) -> dict[str, int]:
        """How many of these patients lack an input that models see, by input."""
        seen = [*self.data.all_tiles, *self.data.tables]
        return {name: int((~self.data.present(name)).sum()) for name in seen}

    @cached_property
    def mean_embeddings(self) -> dict[str, NDArray[np.float64]]:
        """What models see of each patient by input, averaged over tiles; tables as they are.

        NaN rows where a patient has none.
        """
        found = {name: bags.pooled_mean() for name, bags in self.data.all_tiles.items()}
        return found | {n: table.to_numpy(np.float64) for n, table in self.data.tables.items()}

    @cached_property
    def inputs(self) -> dict[str, str]:
        """SHA-256 of everything that was read, by a name that holds no id."""
        read = {**self.cohort.digests, **self.measurement_digests}
        if self.store is not None or self.storm is not None:
            read["features"] = self.fingerprints.features_digest
        if self.store is not None:
            read["contract"] = self.store.contract.digest
        if self.storm is not None:
            read["storm-contract"] = self.storm.contract.digest
        if IMPUTED in self.data.tables:
            table = self.data.tables[IMPUTED]
            values = digest_array(table.to_numpy())
            read["imputed-expression"] = digest_value([list(table.columns), values])
        if self.virtual is not None:
            read["virtual-expression"] = self.virtual.digest_of(self.storm_slide_ids)
        return {f"{self.cohort.name}/{name}": digest for name, digest in read.items()}


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Patients with what became of them, in one order."""

    patients: StudyPatients
    outcome: Outcome


def needs_slides(study: Study) -> bool:
    """Whether any model of a study looks at tiles of slides."""
    return any(kind_of(name) == "tiles" for name in study.inputs)


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
    if position.keys().isdisjoint(scored.patient_ids):
        raise CohortError(
            f"no scored patient has the outcome {study.endpoint.name}",
            where=scored.cohort.manifest_path,
        )
    reasons = table.attrition.excluded().set_index("id")["reason"]
    lost = {p: str(reasons[p]) for p in scored.patient_ids if p not in position}
    joined = leave_out(scored, f"with outcome {study.endpoint.name}", lost)
    return Evaluated(joined, table.outcome.take([position[p] for p in joined.patient_ids]))


def has_outcome(study: Study, scored: StudyPatients) -> bool:
    """Whether anybody of the scored patients has an outcome by now.

    Raises
    ------
    CohortError, OutcomeError
        If the outcome is declared in another way than its columns are.
    """
    if study.endpoint.name not in scored.cohort.endpoints:
        return False
    try:
        table = scored.cohort.outcome(study.endpoint.name)
    except NoOutcomeError:
        return False
    return not set(table.patient_ids).isdisjoint(scored.patient_ids)


def leave_out(scored: StudyPatients, step: str, lost: Mapping[str, str]) -> StudyPatients:
    """The patients who are not lost; who is lost is listed in the attrition with the reason."""
    kept = [at for at, patient in enumerate(scored.patient_ids) if patient not in lost]
    left = Attrition.left_out(step, scored.patient_ids, dict(lost))
    joined = scored.take(np.array(kept, dtype=np.int64))
    return replace(joined, attrition=scored.attrition.joined(left))


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
    """Join patients with measurements, slides and covariates, in the order of their ids."""
    measured = cohort.measurements(study.measurements)
    for found in measured.values():
        attrition = attrition.joined(found.attrition)
    for name in study.required:
        if name in measured:
            has = measured[name].measured
            lost = {p: f"no {name} measured" for p in patient_ids if not has[p]}
            attrition = attrition.joined(Attrition.left_out(f"with {name}", patient_ids, lost))
            patient_ids = [p for p in patient_ids if p not in lost]
            _require_some(patient_ids, name, cohort)
    slides = join_slides(study, cohort, patient_ids, workspace)
    attrition = attrition.joined(slides.attrition)
    data, patient_ids = slides.data(study), list(slides.patient_ids)
    covariates = cohort.covariates(study.clinical).loc[patient_ids] if study.clinical else None
    tables = {name: found.table.loc[patient_ids] for name, found in measured.items()}
    return StudyPatients(
        cohort=cohort,
        patient_ids=slides.patient_ids,
        keys=keys.patient_keys(patient_ids),
        slide_ids=slides.image_slides,
        storm_slide_ids=slides.storm_slides,
        data=replace(data, clinical=covariates, tables={**tables, **data.tables}),
        attrition=attrition,
        store=slides.store,
        storm=slides.storm,
        virtual=slides.virtual,
        measurement_digests={k: v for found in measured.values() for k, v in found.digests.items()},
    )


def _require_some(patient_ids: list[str], name: str, cohort: Cohort) -> None:
    if not patient_ids:
        raise CohortError(
            f"no patient has {name}, which the study requires", where=cohort.manifest_path
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

    @property
    def storm(self) -> StormStore | None:
        """The same, of STORM files."""
        return self.parts[0].patients.storm


def load_development(study: Study, *, workspace: Workspace, keys: PatientKeys) -> Development:
    """Join the development cohorts of a study.

    Raises
    ------
    CohortError, FeatureError
        Naming what is missing, undeclared, or declared in different units.
    ContractMismatch
        If the cohorts' features were not made in one way.
    LeakageError
        If two cohorts share a patient or slide, or two patients share a slide.
    """
    parts = [_with_outcome(study, name, workspace, keys) for name in study.development]
    first = parts[0].patients
    for at, part in enumerate(parts):
        _check_same_contract(first.store, part.patients.store)
        _check_same_contract(first.storm, part.patients.storm)
        require_same_inputs(
            clinical_columns(study, first.cohort),
            measured_inputs(first.cohort, first.data),
            part.patients.cohort,
            study,
        )
        check_within(part.patients.fingerprints)
        for other in parts[:at]:
            check_disjoint(other.patients.fingerprints, part.patients.fingerprints)
    data = parts[0].patients.data
    if len(parts) > 1:
        data = _concatenated([part.patients.data for part in parts])
    return Development(tuple(parts), data, concatenate([part.outcome for part in parts]))


def _concatenated(parts: list[PatientData]) -> PatientData:
    tiles = {name: Bags.concat([part.tiles(name) for part in parts]) for name in parts[0].all_tiles}
    covariates = [part.clinical for part in parts if part.clinical is not None]
    return PatientData(
        keys=tuple(key for part in parts for key in part.keys),
        bags=tiles.get("image"),
        clinical=pd.concat(covariates) if covariates else None,
        storm=tiles.get("storm"),
        virtual_expression=tiles.get(VIRTUAL),
        # Joined by column name: NaN where a cohort has not measured what another has.
        tables={n: pd.concat([part.tables[n] for part in parts]) for n in parts[0].tables},
    )


def _check_same_contract(first: Store | None, other: Store | None) -> None:
    if first is not None and other is not None:
        other.contract.require_same(first.contract, where=other.folder)
