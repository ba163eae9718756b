"""The verb `validate`: a locked model scores a cohort once; only then are outcomes looked at."""

from __future__ import annotations

import getpass
import json
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from storm_clinic.cohort.leakage import check_disjoint, check_within
from storm_clinic.errors import RegistryError
from storm_clinic.files import Workspace, csv_text, digest_file, write_json, write_text
from storm_clinic.predictions import Predictions
from storm_clinic.progress import Progress
from storm_clinic.registry.identity import PatientKeys, load_keys
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.rules import Attempt
from storm_clinic.registry.scorings import require_first_or_reason
from storm_clinic.registry.trail import Event
from storm_clinic.registry.versions import Referring, RegisteredModel, reference_of
from storm_clinic.steps.cohort_summary import summarise_cohort, write_summaries
from storm_clinic.steps.declared_inputs import require_same_inputs
from storm_clinic.steps.development_record import DevelopmentRecord
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.steps.feature_drift import drift_from_development
from storm_clinic.steps.scoring import score_patients
from storm_clinic.steps.stored_validations import Validation, stored_validation
from storm_clinic.steps.study_evidence import collect_evidence
from storm_clinic.steps.study_patients import (
    Evaluated,
    StudyPatients,
    has_outcome,
    join_outcome,
    leave_out,
    scored_patients,
)
from storm_clinic.steps.training_files import (
    ATTRITION,
    EVIDENCE,
    PREDICTIONS,
    headline_metrics,
)
from storm_clinic.tracking import RunLog, Tracker
from storm_clinic.validation.analyses import FeatureDrift
from storm_clinic.validation.evidence import Evidence

_NOTES = "scoring_notes.json"


@dataclass(frozen=True, eq=False)
class Validated:
    """A locked model with its validations, in the order in which cohorts were named.

    Attributes
    ----------
    model : RegisteredModel
    cohorts : tuple of Validation
    waiting : tuple of str
        Cohorts whose predictions are sealed, and of whom nobody has an outcome yet.
    """

    model: RegisteredModel
    cohorts: tuple[Validation, ...]
    waiting: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """``name:version``."""
        return self.model.reference


def validate(
    model: str | Referring,
    *,
    cohort: str | None = None,
    rerun: str | None = None,
    workspace: Workspace | None = None,
    by: str | None = None,
    progress: Progress | None = None,
) -> Validated:
    """Score the validation cohorts that were named before, then join their outcomes.

    For each cohort: refuse features made in another way and patients, slides or arrays that
    development has seen; score; write the predictions and seal their digest in the trail; only
    then join outcomes, compute the evidence and record it. Nothing is refitted. A cohort that was
    validated before is not scored again: its stored evidence is returned. Where nobody has an
    outcome yet, the predictions stay sealed; the same call joins outcomes when they are there.

    Parameters
    ----------
    model : str, or what `train` or `lock` gave
        ``name`` (its latest locked version) or ``name:version``.
    cohort : str, optional
        One of the named cohorts; all of them by default.
    rerun : str, optional
        Why ``cohort`` is scored again, although it was before. Both scorings stay on record, and
        whoever promotes the model has to accept this.
    workspace : Workspace, optional
        The current folder by default.
    by : str, optional
        Who validates; the name of the account by default.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Raises
    ------
    RegistryError
        If the model is not locked, names no validation cohort or not this one, or a re-run has no
        reason or no cohort.
    LeakageError, ContractMismatch, CohortError, FeatureError
        Naming what is wrong with a cohort.
    """
    workspace = workspace or Workspace()
    registry = Registry(workspace)
    locked = registry.locked_model(reference_of(model))
    cohorts = _chosen(registry.scorings.cohorts(locked), cohort, rerun, locked)
    keys = load_keys(workspace)
    work = _Work(locked, registry, Tracker(workspace), workspace, keys, by or getpass.getuser())
    found, waiting = [], []
    for at, name in enumerate(cohorts):
        done = work.validate(name, rerun)
        if done is None:
            waiting.append(name)
        else:
            found.append(done)
        if progress is not None:
            progress("validate", at + 1, len(cohorts))
    return Validated(registry.find(locked.reference), tuple(found), tuple(waiting))


def _chosen(
    named: Sequence[str], cohort: str | None, rerun: str | None, model: RegisteredModel
) -> tuple[str, ...]:
    if not named:
        raise RegistryError(
            "names no validation cohort",
            where=model.reference,
            fix="Name one under 'validation:' in the study, train and lock again; or add one: "
            f"storm-clinic registry add-cohort {model.reference} COHORT --plan WHICH",
        )
    if rerun is not None and cohort is None:
        raise RegistryError(
            "a re-run is of one cohort, and none was named",
            where=model.reference,
            fix=f"Name one of {', '.join(named)}.",
        )
    if cohort is None:
        return tuple(named)
    if cohort not in named:
        raise RegistryError(
            f"{cohort!r} is no validation cohort of this model; named are: {', '.join(named)}",
            where=model.reference,
            fix="Add it, with the plan that says so: storm-clinic registry add-cohort "
            f"{model.reference} {cohort} --plan WHICH",
        )
    return (cohort,)


@dataclass(frozen=True, eq=False)
class _Scored:
    """Sealed predictions, and whom they are about."""

    patients: StudyPatients
    predictions: Predictions
    notes: tuple[str, ...]
    drift: tuple[FeatureDrift, ...]


@dataclass(frozen=True, eq=False)
class _Work:
    """What the validations of one model share."""

    model: RegisteredModel
    registry: Registry
    tracker: Tracker
    workspace: Workspace
    keys: PatientKeys
    by: str

    def validate(self, cohort: str, rerun: str | None) -> Validation | None:
        """Score, seal, join, judge, record; in this order. None where nobody has an outcome."""
        attempts = self.registry.scorings.attempts(self.model, cohort)
        if attempts and rerun is None and attempts[-1].validated is not None:
            return stored_validation(self.model, self.tracker, cohort)
        study, bundle = self.model.bundle.study, self.model.bundle
        patients = scored_patients(study, cohort, workspace=self.workspace, keys=self.keys)
        declared = bundle.manifest
        require_same_inputs(declared.clinical, declared.measurements, patients.cohort, study)
        check_within(patients.fingerprints)
        development = self._development()
        check_disjoint(development.fingerprints, patients.fingerprints)
        if attempts and rerun is None:  # sealed before; an outcome may have come since
            scored = self._sealed(attempts[-1], patients)
            if not has_outcome(study, scored.patients):
                return None
            with self._run(cohort) as run:
                return self._judge(run, scored, development)
        require_first_or_reason(attempts, rerun, self.model, cohort)
        with self._run(cohort) as run:
            scored = self._seal(run, patients, rerun)
            if not has_outcome(study, patients):
                return None
            return self._judge(run, scored, development)

    def _run(self, cohort: str) -> AbstractContextManager[RunLog]:
        study = self.model.bundle.study
        return self.tracker.start_validation(study, version=self.model.reference, cohort=cohort)

    def _development(self) -> DevelopmentRecord:
        """What the training recorded; the bundle carries its digest."""
        manifest = self.model.bundle.manifest
        if manifest.run_id is None or manifest.development_digest is None:
            raise RegistryError(
                "does not say what it was trained on, so that overlap cannot be seen",
                where=self.model.reference,
            )
        folder = self.tracker.read_run(manifest.run_id).artifacts
        return DevelopmentRecord.read(folder, expected_digest=manifest.development_digest)

    def _seal(self, run: RunLog, patients: StudyPatients, rerun: str | None) -> _Scored:
        """Score and write; from here on nobody can predict anything else."""
        predictions, notes = score_patients(self.model.bundle, patients)
        with tempfile.TemporaryDirectory() as scratch:
            files = Path(scratch)
            digest = predictions.write(files / PREDICTIONS)
            write_json(files / _NOTES, list(notes))
            run.log(artifacts=files)
        self.registry.scorings.seal(
            self.model,
            cohort=patients.cohort.name,
            predictions_digest=digest,
            run_id=run.run_id,
            inputs={**patients.inputs, "key_id": self.keys.key_id},
            by=self.by,
            rerun=rerun,
        )
        drift = drift_from_development(self.model.bundle, patients)
        return _Scored(patients, predictions, notes, drift)

    def _sealed(self, attempt: Attempt, patients: StudyPatients) -> _Scored:
        """Predictions as they were sealed, for the patients whom they are about."""
        seal, cohort = attempt.seal, patients.cohort.name
        if "run_id" not in seal.body:
            raise RegistryError(
                f"the seal of {seal.when:%Y-%m-%d} on {cohort} is of a version that did not record "
                "where the predictions lie",
                where=self.model.reference,
                fix=f"Score it again: validate {self.model.reference} --cohort {cohort} --rerun "
                "WHY",
            )
        folder = self.tracker.read_run(str(seal.body["run_id"])).artifacts
        path = folder / PREDICTIONS
        if not path.is_file() or digest_file(path) != seal.body["predictions_digest"]:
            raise RegistryError(
                "is not, or not any more, the file of predictions that was sealed",
                where=path,
                fix="Restore it from a backup.",
            )
        predictions = Predictions.read(path)
        then = set(predictions.table["patient_key"])
        both, here = then & set(patients.keys), set(patients.keys)
        if not both:
            raise RegistryError(
                f"none of the {len(then)} patients of the sealed predictions is in "
                f"{cohort} under this secret",
                where=path,
                fix="Set STORM_CLINIC_SECRET_FILE to the secret that they were sealed under.",
            )
        noted = folder / _NOTES
        notes = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else []
        notes += _since(seal, patients, n_gone=len(then - here))
        late = {
            patient: "came after the predictions were sealed"
            for patient, key in zip(patients.patient_ids, patients.keys, strict=True)
            if key not in both
        }
        kept = leave_out(patients, "with sealed predictions", late)
        drift = drift_from_development(self.model.bundle, kept)
        return _Scored(kept, predictions, tuple(notes), drift)

    def _judge(self, run: RunLog, scored: _Scored, development: DevelopmentRecord) -> Validation:
        """Join outcomes and compute the evidence; the event that names it comes last."""
        study, bundle = self.model.bundle.study, self.model.bundle
        cohort = scored.patients.cohort.name
        same_keys = bundle.manifest.key_id == self.keys.key_id
        evaluated = join_outcome(study, scored.patients)
        of_cohort = scored.predictions.of(cohort=cohort).table
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
            # Keys under another secret never match: nobody has looked then.
            n_overlapping=0 if same_keys else None,
            drift=scored.drift,
            notes=scored.notes,
        )
        self._log(run, scored.predictions, evidence, evaluated)
        self.registry.scorings.record(
            self.model,
            cohort=cohort,
            evidence_digest=evidence.digest,
            run_id=run.run_id,
            run_files=run.file_digests(),
            by=self.by,
        )
        return Validation(self.model, cohort, evidence, run.artifacts)

    def _log(
        self, run: RunLog, predictions: Predictions, evidence: Evidence, evaluated: Evaluated
    ) -> None:
        study, patients = self.model.bundle.study, evaluated.patients
        with tempfile.TemporaryDirectory() as scratch:
            files = Path(scratch)
            predictions.write(files / PREDICTIONS)
            evidence.write(files / EVIDENCE)
            asked = (*study.clinical, *study.subgroups)
            write_summaries(files, [summarise_cohort(asked, evaluated, "validation")])
            attrition = patients.attrition.table().assign(cohort=patients.cohort.name)
            write_text(files / ATTRITION, csv_text(attrition))
            run.log(metrics=headline_metrics(evidence), artifacts=files)


def _since(seal: Event, patients: StudyPatients, *, n_gone: int) -> list[str]:
    """What a reader must know where outcomes came after the seal."""
    then = seal.body.get("inputs", {})
    changed = sorted(name for name, digest in patients.inputs.items() if then.get(name) != digest)
    notes = [f"Predictions were sealed on {seal.when:%Y-%m-%d}; outcomes were joined later."]
    if changed:
        notes.append(f"Changed since they were sealed: {', '.join(changed)}.")
    if n_gone:
        notes.append(f"{n_gone} patients with sealed predictions are not in the cohort any more.")
    return notes
