"""A cohort: its patients, slides and outcomes, typed by what cohort.yaml declares."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from storm_clinic.cohort.attrition import Attrition
from storm_clinic.cohort.columns import Column, describe_column, typed_columns
from storm_clinic.cohort.declarations import EndpointDeclaration
from storm_clinic.cohort.endpoints import EndpointTable, derive_outcome
from storm_clinic.cohort.intake import Source, read_clinical, read_slides
from storm_clinic.cohort.manifest import (
    MeasurementTable,
    Origin,
    data_folder,
    find_manifest,
    read_manifest,
)
from storm_clinic.cohort.measurement import Measurement, read_measurement
from storm_clinic.errors import CohortError
from storm_clinic.files import Workspace, digest_file
from storm_clinic.strict_yaml import did_you_mean
from storm_clinic.study import IMPUTED, TILES


@dataclass(frozen=True, eq=False)
class SlideJoin:
    """Patients with the slides that stand for them.

    Attributes
    ----------
    patient_ids : tuple of str, length n_patients
    slide_ids : tuple of tuple of str, length n_patients
        Slides of each patient in the order of the slides table; none only where none is needed.
    attrition : Attrition
        Of slides and of patients.
    """

    patient_ids: tuple[str, ...] = field(repr=False)
    slide_ids: tuple[tuple[str, ...], ...] = field(repr=False)
    attrition: Attrition = field(repr=False)


@dataclass(frozen=True, eq=False)
class Cohort:
    """Patients, slides, endpoints and measurements of one cohort.

    Attributes
    ----------
    name : str
    patients : DataFrame indexed by ``patient_id`` (str)
        The declared columns: continuous as float64 with NaN, ordinal and nominal as Categorical
        with the declared levels; and ``site`` (str or None) if declared. No outcomes.
    slides : DataFrame
        ``slide_id, patient_id`` (str), ``path`` (absolute, str or None), ``mpp`` (float64, µm per
        px, or NaN), ``scanner``, ``checksum`` (str or None); only slides of these patients.
    columns : mapping of name to Column
    endpoints : mapping of name to declaration
    measured : mapping of name to declaration
        Tables that `measurements` reads.
    origin : Origin
    attrition : Attrition
        From the tables' rows to these patients and slides.
    digests : mapping of file to SHA-256
        ``cohort.yaml``, ``clinical/<file>``, ``slides/<file>``.
    sources : tuple of Source
        The tables' files: role, path, rows, columns, SHA-256.
    manifest_path : Path
    """

    name: str
    patients: pd.DataFrame
    slides: pd.DataFrame
    columns: Mapping[str, Column]
    endpoints: Mapping[str, EndpointDeclaration]
    measured: Mapping[str, MeasurementTable]
    origin: Origin
    attrition: Attrition
    digests: Mapping[str, str]
    sources: tuple[Source, ...]
    manifest_path: Path
    _cells: pd.DataFrame
    _missing: tuple[str, ...]
    _data_folder: Path

    @classmethod
    def read(cls, name_or_path: str | Path, workspace: Workspace | None = None) -> Cohort:
        """Read a cohort by name (``cohorts/<name>/cohort.yaml``) or by the path of its file.

        Raises
        ------
        CohortError
            Naming file, line, column or rows: what is undeclared, unreadable or contradictory.
        OutcomeError
            Where times or event codes are.
        """
        workspace = workspace or Workspace()
        path = find_manifest(name_or_path, workspace)
        manifest = read_manifest(path)
        if path.parent.parent == workspace.cohorts and path.parent.name != manifest.cohort:
            raise CohortError(
                f"the file says cohort: {manifest.cohort}, its folder {path.parent.name}",
                where=path,
                fix="Make them equal: features and studies find a cohort by its folder.",
            )
        root = data_folder(manifest, path, workspace)
        clinical = read_clinical(manifest, root)
        slides = read_slides(manifest, root, clinical.cells.index)
        sources = (*clinical.sources, *slides.sources)
        digests = {"cohort.yaml": digest_file(path)}
        digests |= {f"{source.role}/{source.path.name}": source.digest for source in sources}
        return cls(
            name=manifest.cohort,
            patients=typed_columns(manifest, clinical.cells),
            slides=slides.cells,
            columns={name: describe_column(name, spec) for name, spec in manifest.columns.items()},
            endpoints=dict(manifest.endpoints),
            measured=dict(manifest.measurements),
            origin=manifest.origin,
            attrition=clinical.attrition.joined(slides.attrition),
            digests=digests,
            sources=sources,
            manifest_path=path,
            _cells=clinical.cells,
            _missing=manifest.missing,
            _data_folder=root,
        )

    def __repr__(self) -> str:
        # Ends up in logs and tracebacks: no ids.
        size = f"{len(self.patients)} patients, {len(self.slides)} slides"
        return f"Cohort({self.name!r}, {size}, endpoints: {', '.join(self.endpoints) or 'none'})"

    @property
    def n_patients(self) -> int:
        return len(self.patients)

    def outcome(self, endpoint_name: str) -> EndpointTable:
        """The patients who have an outcome, and why the others have none.

        Raises
        ------
        CohortError
            If no such endpoint is declared.
        NoOutcomeError
            If nobody has an outcome.
        """
        if endpoint_name not in self.endpoints:
            hint = did_you_mean(endpoint_name, list(self.endpoints))
            raise CohortError(f"no endpoint {endpoint_name!r}{hint}", where=self.manifest_path)
        endpoint = self.endpoints[endpoint_name]
        return derive_outcome(endpoint_name, endpoint, self._cells, self._missing)

    def covariates(self, names: Sequence[str]) -> pd.DataFrame:
        """Some declared columns of all patients, in the order asked for.

        Raises
        ------
        CohortError
            If one is not declared (the site is no covariate).
        """
        for name in names:
            if name not in self.columns:
                hint = did_you_mean(name, list(self.columns))
                raise CohortError(f"no column {name!r} is declared{hint}", where=self.manifest_path)
        return self.patients[list(names)]

    def measurements(self, names: Sequence[str]) -> dict[str, Measurement]:
        """Read some declared tables of measurements, each with a row for every patient.

        They can be large, and so are not read before they are asked for.

        Raises
        ------
        CohortError
            If one is not declared, or its table is not what it is declared to be.
        """
        for name in names:
            if name not in self.measured:
                # A study takes any word for a measurement: it may be another input, misspelt.
                hint = did_you_mean(name, [*self.measured, *TILES, "clinical", IMPUTED])
                raise CohortError(
                    f"no measurement {name!r} is declared{hint}",
                    where=self.manifest_path,
                    fix="Declare its table under measurements, or leave it out of the models.",
                )
        return {
            name: read_measurement(
                name,
                self.measured[name],
                root=self._data_folder,
                missing=self._missing,
                patient_ids=self.patients.index,
            )
            for name in names
        }

    def join_slides(
        self,
        patient_ids: Sequence[str],
        available: Collection[str] | None = None,
        *,
        needed: bool = True,
    ) -> SlideJoin:
        """The slides of some patients.

        Parameters
        ----------
        patient_ids : sequence of str
            Patients that are analysed; their order is kept.
        available : collection of str, optional
            Slides that have features; without it every slide of the table counts.
        needed : bool
            Leave out patients without slides; else they stay, with none.

        Raises
        ------
        CohortError
            If a patient is not of this cohort, or nobody has a slide.
        """
        strangers = set(patient_ids) - set(self.patients.index)
        if strangers:
            raise CohortError(f"{len(strangers)} patients are not of cohort {self.name}")
        wanted = set(patient_ids)
        others = self.slides["slide_id"][~self.slides["patient_id"].isin(wanted)]
        why = dict.fromkeys(others, "its patient is left out")
        if available is not None:
            gone = set(self.slides["slide_id"]) - set(available) - set(why)
            why |= dict.fromkeys(gone, "no feature file")
        attrition = Attrition.left_out("analysed", self.slides["slide_id"], why, unit="slides")
        of: dict[str, tuple[str, ...]] = {}
        for patient, slide in zip(self.slides["patient_id"], self.slides["slide_id"], strict=True):
            if slide not in why:
                of[patient] = (*of.get(patient, ()), slide)
        if not of:
            raise CohortError(
                f"none of {len(patient_ids)} patients has a slide"
                + ("" if available is None else f" among the {len(available)} with features"),
                where=self.manifest_path,
                fix="Compare the slides table's slide ids with the names of the feature files.",
            )
        if not needed:
            slides = tuple(of.get(patient, ()) for patient in patient_ids)
            return SlideJoin(tuple(patient_ids), slides, attrition)
        kept = tuple(patient for patient in patient_ids if patient in of)
        without = self._without_slides(wanted - set(kept))
        step = Attrition.left_out("with slides", patient_ids, without)
        return SlideJoin(kept, tuple(of[patient] for patient in kept), attrition.joined(step))

    def _without_slides(self, patient_ids: set[str]) -> dict[str, str]:
        listed = set(self.slides["patient_id"])
        reason = {True: "none of its slides has features", False: "no slide in the slides table"}
        return {patient: reason[patient in listed] for patient in patient_ids}
