"""The verb `validate`: a locked model scores a cohort once; only then are outcomes looked at."""

from __future__ import annotations

import getpass
import tempfile
from dataclasses import dataclass
from pathlib import Path

from storm_clinic.cohort.leakage import check_disjoint, check_within
from storm_clinic.errors import RegistryError
from storm_clinic.files import Workspace
from storm_clinic.predictions import Predictions
from storm_clinic.progress import Progress
from storm_clinic.registry.identity import PatientKeys, load_keys
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.versions import Referring, RegisteredModel, reference_of
from storm_clinic.steps.cohort_summary import summarise_cohort, write_summaries
from storm_clinic.steps.declared_inputs import require_same_inputs
from storm_clinic.steps.development_record import DevelopmentRecord
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.steps.feature_drift import drift_from_development
from storm_clinic.steps.scoring import score_patients
from storm_clinic.steps.study_evidence import collect_evidence
from storm_clinic.steps.study_patients import join_outcome, scored_patients
from storm_clinic.steps.training_files import (
    ATTRITION,
    EVIDENCE,
    PREDICTIONS,
    headline_metrics,
)
from storm_clinic.tracking import Tracker
from storm_clinic.validation.evidence import Evidence


@dataclass(frozen=True, eq=False)
class Validation:
    """What a locked model showed on one cohort.

    Attributes
    ----------
    model : RegisteredModel
    cohort : str
    evidence : Evidence
    folder : Path
        Files of the validation's MLflow run.
    """

    model: RegisteredModel
    cohort: str
    evidence: Evidence
    folder: Path


@dataclass(frozen=True, eq=False)
class Validated:
    """A locked model with its validations, in the order of the study's cohorts."""

    model: RegisteredModel
    cohorts: tuple[Validation, ...]

    @property
    def reference(self) -> str:
        """``name:version``."""
        return self.model.reference


def validate(
    model: str | Referring,
    *,
    workspace: Workspace | None = None,
    by: str | None = None,
    progress: Progress | None = None,
) -> Validated:
    """Score the validation cohorts that were named before locking, then join their outcomes.

    For each cohort: refuse features made in another way and patients, slides or arrays that
    development has seen; score; write the predictions and seal their digest in the trail; only
    then join outcomes, compute the evidence and record it. Nothing is refitted. A cohort that was
    validated before is not scored again: its stored evidence is returned.

    Parameters
    ----------
    model : str, or what `train` or `lock` gave
        ``name`` (its latest locked version) or ``name:version``.
    workspace : Workspace, optional
        The current folder by default.
    by : str, optional
        Who validates; the name of the account by default.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Raises
    ------
    RegistryError
        If the model is not locked, or names no validation cohort.
    LeakageError, ContractMismatch, CohortError, FeatureError
        Naming what is wrong with a cohort.
    """
    workspace = workspace or Workspace()
    registry, tracker = Registry(workspace), Tracker(workspace)
    locked = registry.locked_model(reference_of(model))
    study = locked.bundle.study
    if not study.validation:
        raise RegistryError(
            "names no validation cohort",
            where=locked.reference,
            fix="Name one under 'validation:' in the study, train and lock again.",
        )
    keys = _same_keys(locked, load_keys(workspace))
    work = _Work(locked, registry, tracker, workspace, keys, by or getpass.getuser())
    found = []
    for at, cohort in enumerate(study.validation):
        found.append(work.stored(cohort) or work.validate(cohort))
        if progress is not None:
            progress("validate", at + 1, len(study.validation))
    return Validated(locked, tuple(found))


def stored_validations(model: RegisteredModel, tracker: Tracker) -> list[Validation]:
    """All validations of a version that are on record, in the order of the study."""
    cohorts = model.bundle.study.validation
    return [found for cohort in cohorts if (found := _stored(model, tracker, cohort)) is not None]


def _stored(model: RegisteredModel, tracker: Tracker, cohort: str) -> Validation | None:
    event = model.find_event("validated", cohort=cohort)
    if event is None:
        return None
    run = tracker.read_run(str(event.body["run_id"]))
    path = run.artifacts / EVIDENCE
    evidence = Evidence.read(path)
    if evidence.digest != event.body["evidence_digest"]:
        raise RegistryError(
            "is not the evidence that was recorded", where=path, fix="Restore it from a backup."
        )
    return Validation(model, cohort, evidence, run.artifacts)


def _same_keys(model: RegisteredModel, keys: PatientKeys) -> PatientKeys:
    """Keys under another secret never match, so that overlap could not be seen."""
    trained_with = model.bundle.manifest.key_id
    if trained_with != keys.key_id:
        raise RegistryError(
            f"was trained under the secret {trained_with}, here is {keys.key_id}: patients of "
            "both could not be compared",
            where=model.reference,
            fix="Set STORM_CLINIC_SECRET_FILE to the secret that was used in training.",
        )
    return keys


@dataclass(frozen=True, eq=False)
class _Work:
    """What the validations of one model share."""

    model: RegisteredModel
    registry: Registry
    tracker: Tracker
    workspace: Workspace
    keys: PatientKeys
    by: str

    def development(self) -> DevelopmentRecord:
        """What the training recorded; the bundle carries its digest."""
        manifest = self.model.bundle.manifest
        if manifest.run_id is None or manifest.development_digest is None:
            raise RegistryError(
                "does not say what it was trained on, so that overlap cannot be seen",
                where=self.model.reference,
            )
        folder = self.tracker.read_run(manifest.run_id).artifacts
        return DevelopmentRecord.read(folder, expected_digest=manifest.development_digest)

    def stored(self, cohort: str) -> Validation | None:
        return _stored(self.model, self.tracker, cohort)

    def validate(self, cohort: str) -> Validation:
        """Score, seal, join, judge, record; in this order."""
        study, bundle = self.model.bundle.study, self.model.bundle
        scored = scored_patients(study, cohort, workspace=self.workspace, keys=self.keys)
        declared = bundle.manifest
        require_same_inputs(declared.clinical, declared.measurements, scored.cohort, study)
        check_within(scored.fingerprints)
        development = self.development()
        check_disjoint(development.fingerprints, scored.fingerprints)
        predictions, notes = score_patients(bundle, scored)
        drift = drift_from_development(bundle, scored)
        opened = self.tracker.start_validation(study, version=self.model.reference, cohort=cohort)
        with opened as run, tempfile.TemporaryDirectory() as scratch:
            files = Path(scratch)
            digest = predictions.write(files / PREDICTIONS)
            run.log(artifacts=files)
            self.registry.seal_predictions(
                self.model, cohort=cohort, predictions_digest=digest, by=self.by
            )
            evaluated = join_outcome(study, scored)
            of_cohort = predictions.of(cohort=cohort).table
            kept = of_cohort["patient_key"].isin(set(evaluated.patients.keys))
            evidence = collect_evidence(
                EvaluationPlan.of(study),
                Predictions(of_cohort[kept].reset_index(drop=True)),
                [evaluated],
                kind="external",
                development=development.facts,
                profiles=development.profiles,
                clinical_parameters=development.clinical_parameters,
                thresholds=bundle.manifest.risk_thresholds,
                n_overlapping=0,
                drift=drift,
                notes=notes,
            )
            evidence.write(files / EVIDENCE)
            write_summaries(
                files,
                [summarise_cohort((*study.clinical, *study.subgroups), evaluated, "validation")],
            )
            evaluated.patients.attrition.table().assign(cohort=cohort).to_csv(
                files / ATTRITION, index=False
            )
            run.log(metrics=headline_metrics(evidence), artifacts=files)
            self.registry.record_validation(
                self.model,
                cohort=cohort,
                evidence_digest=evidence.digest,
                run_id=run.run_id,
                by=self.by,
            )
            return Validation(self.model, cohort, evidence, run.artifacts)
