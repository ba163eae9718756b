"""The verb `train`: cross-validate every model of a study, refit, and register the candidate."""

from __future__ import annotations

import getpass
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.bundle import required_models, write_bundle
from storm_clinic.cohort.outcome import required_strata, stratum
from storm_clinic.cohort.split import Splits, make_splits
from storm_clinic.errors import StatisticsError, StormClinicError, TrainingError
from storm_clinic.files import Workspace
from storm_clinic.heads.fit import cross_validate, fit_tuned
from storm_clinic.heads.tuning import TunedFit
from storm_clinic.heads.zoo import check
from storm_clinic.predictions import Predictions
from storm_clinic.progress import Progress, silent
from storm_clinic.registry.identity import load_keys
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.versions import RegisteredModel
from storm_clinic.steps.development_record import DevelopmentRecord
from storm_clinic.steps.evaluation_input import evaluation_data
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.steps.further_analyses import pooled_profiles
from storm_clinic.steps.gene_attribution import (
    attribute_genes,
    read_attributions,
    write_attributions,
)
from storm_clinic.steps.learning_curves import Watcher
from storm_clinic.steps.study_bundle import (
    describe_bundle,
    feature_references,
    performance_table,
)
from storm_clinic.steps.study_evidence import collect_evidence
from storm_clinic.steps.study_patients import Development, load_development
from storm_clinic.steps.training_files import (
    EVIDENCE,
    PREDICTIONS,
    fold_metrics,
    headline_metrics,
    write_model_files,
    write_study_files,
    write_timings,
)
from storm_clinic.study import VIRTUAL, ModelSpec, Study
from storm_clinic.tracking import Metric, StudyRun, Tracker
from storm_clinic.validation.claims import claim_status
from storm_clinic.validation.evidence import Evidence

_SECONDS = "cross_validation"  # of a child run's metrics and of timings.json


@dataclass(frozen=True, eq=False)
class Candidate:
    """A registered candidate with what cross-validation says of it.

    Attributes
    ----------
    model : RegisteredModel
    evidence : Evidence
        Of all models, from out-of-fold predictions.
    folder : Path
        Files of the training's MLflow run.
    """

    model: RegisteredModel
    evidence: Evidence
    folder: Path

    @property
    def reference(self) -> str:
        """``name:version``."""
        return self.model.reference


def train(
    study: Study,
    *,
    workspace: Workspace | None = None,
    by: str | None = None,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> Candidate:
    """Cross-validate all models of a study, refit those to be compared, register the candidate.

    A training of the same study on the same inputs by the same code that finished before is
    returned as it is; one that was interrupted goes on after its last finished model.

    Parameters
    ----------
    study : Study
        What is asked; nothing else configures a training.
    workspace : Workspace, optional
        The current folder by default.
    by : str, optional
        Who trains; the name of the account by default.
    n_jobs : int
        Processes among which folds are divided; results do not depend on it.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Raises
    ------
    StudyError, CohortError, FeatureError, LeakageError, TrainingError
        Naming what is wrong, where, and what to do.
    """
    workspace = workspace or Workspace()
    claim_status(study.claims, ())  # an unknown measure is refused before hours of training
    keys = load_keys(workspace)
    development = load_development(study, workspace=workspace, keys=keys)
    for spec in study.models:
        check(spec, development.outcome)
    splits = _split(study, development)
    keyed = splits.with_keys(dict(zip(splits.keys, development.keys, strict=True)))
    inputs = development.inputs | {"splits": keyed.digest, "keys": keys.key_id}
    tracker, registry = Tracker(workspace), Registry(workspace)
    earlier = tracker.find_study(study, inputs=inputs)
    if earlier is not None and earlier.same_code:
        model = registry.trained_in(earlier.run_id)
        return Candidate(model, Evidence.read(earlier.artifacts / EVIDENCE), earlier.artifacts)
    with tracker.start_study(study, inputs=inputs) as run, tempfile.TemporaryDirectory() as scratch:
        work = _Work(study, development, splits, n_jobs, progress or silent, Path(scratch))
        predictions = work.all_out_of_fold(run)
        fitted = work.refit()
        record = work.record(fitted, predictions)
        timings = work.timings(run, fitted)
        evidence = work.judge(run, predictions, record, timings)
        files = work.scratch / "study"
        write_study_files(files, study, predictions, evidence, keyed, development, record)
        seconds = write_timings(files, timings)
        run.log(metrics=[*headline_metrics(evidence), *seconds], artifacts=files)
        model = registry.register(
            run,
            work.bundle(run, fitted, evidence, record, keys.key_id),
            evidence_digest=evidence.digest,
            by=by or getpass.getuser(),
        )
        return Candidate(model, evidence, run.artifacts)


def _split(study: Study, development: Development) -> Splits:
    return make_splits(
        development.data.keys,
        stratum(development.outcome),
        _groups(study, development),
        folds=study.evaluation.folds,
        repeats=study.evaluation.repeats,
        seed=study.evaluation.seed,
        required=required_strata(development.outcome),
    )


def _groups(study: Study, development: Development) -> NDArray[np.object_] | None:
    """What folds may not divide; None where they divide patients."""
    by_site = study.evaluation.group == "site"
    return np.array(development.sites, dtype=object) if by_site else None


@dataclass(frozen=True, eq=False)
class _Work:
    """One training: what it works on, and its parts in the order in which they happen."""

    study: Study
    development: Development
    splits: Splits
    n_jobs: int
    say: Progress
    scratch: Path

    def all_out_of_fold(self, run: StudyRun) -> Predictions:
        """Cross-validate all models; those that cannot be fitted are named when all were tried."""
        parts: list[Predictions] = []
        failed: list[StormClinicError] = []
        for spec in self.study.models:
            try:
                parts.append(self.out_of_fold(run, spec))
            except (TrainingError, StatisticsError) as error:
                failed.append(error)
        if len(failed) == 1:
            raise failed[0]
        if failed:
            problems = "\n  - ".join(["", *map(str, failed)])
            raise TrainingError(
                f"{len(failed)} of {len(self.study.models)} models cannot be trained:{problems}\n",
                fix="Mend or leave out these; what was found of the others is kept and taken up.",
            ) from failed[0]
        return Predictions.concat(parts)

    def out_of_fold(self, run: StudyRun, spec: ModelSpec) -> Predictions:
        """Cross-validate one model and log it; take it up where it was logged before."""
        done = run.finished_model(spec.name)
        if done is not None:
            return Predictions.read(done.artifacts / PREDICTIONS)
        with run.start_model(spec.name) as child:
            watcher = Watcher(spec.name, self.say, child)

            def fold_done(where: str, done: int, total: int) -> None:
                watcher.finished(where)
                self.say(f"cross-validate {spec.name}", done, total)

            result = cross_validate(
                spec,
                self.development.data,
                self.development.outcome,
                self.splits.fold,
                n_jobs=self.n_jobs,
                progress=fold_done,
                watch=watcher,
                **self._settings,
            )
            predictions = self._keyed(result.table(), spec)
            files = self.scratch / spec.name
            write_model_files(files, predictions, result)
            if spec.name == self.study.candidate and VIRTUAL in spec.inputs:
                self.say(f"attribute {spec.name}", 0, 1)
                write_attributions(files, attribute_genes(spec, self.development, result))
                self.say(f"attribute {spec.name}", 1, 1)
            child.log(
                metrics=[
                    *fold_metrics(result, self.development.outcome, self.study.endpoint),
                    Metric(_SECONDS, sum(record.fit.seconds for record in result.records)),
                ],
                tags=watcher.tags(),
                artifacts=files,
            )
            return predictions

    def _keyed(self, table: pd.DataFrame, spec: ModelSpec) -> Predictions:
        """Predictions under keys, in their order: that of the ids would tell something of them."""
        n_repeats = self.splits.n_repeats
        named = table.assign(
            cohort=self.development.cohorts * n_repeats,
            patient_key=self.development.keys * n_repeats,
            model=spec.name,
        )
        return Predictions(named.sort_values(["repeat", "patient_key"], ignore_index=True))

    def refit(self) -> dict[str, TunedFit]:
        """The models that are registered together, on all development patients."""
        names = required_models(self.study)
        fitted = {}
        for at, name in enumerate(names):
            watcher = Watcher(name, self.say)
            fitted[name] = fit_tuned(
                self.study.model(name),
                self.development.data,
                self.development.outcome,
                n_jobs=self.n_jobs,
                watch=watcher,
                **self._settings,
            )
            watcher.finished("all patients")
            self.say("refit on all patients", at + 1, len(names))
        return fitted

    def timings(self, run: StudyRun, fitted: dict[str, TunedFit]) -> dict[str, dict[str, float]]:
        """Seconds of each model, also where it was cross-validated before an interruption."""
        seconds = {}
        for spec in self.study.models:
            done = run.finished_model(spec.name)
            seconds[spec.name] = {} if done is None else {_SECONDS: done.metrics[_SECONDS]}
        for name, fit in fitted.items():
            seconds[name]["refit"] = fit.seconds
        return seconds

    def record(self, fitted: dict[str, TunedFit], predictions: Predictions) -> DevelopmentRecord:
        """What validations will need to know of development."""
        comparator = self.study.comparator
        n_parameters = None if comparator is None else _n_coefficients(fitted[comparator.name])
        plan = EvaluationPlan.of(self.study)
        profiles = pooled_profiles(
            [
                evaluation_data(plan, predictions, part, kind="cross-validation", risk_cuts={})
                for part in self.development.parts
            ]
        )
        return DevelopmentRecord.of(self.study, self.development, n_parameters, profiles)

    def judge(
        self,
        run: StudyRun,
        predictions: Predictions,
        record: DevelopmentRecord,
        timings: dict[str, dict[str, float]],
    ) -> Evidence:
        """Evidence of cross-validation."""
        self.say("evaluate", 0, 1)
        candidate = run.finished_model(self.study.candidate)
        assert candidate is not None  # its predictions are among those judged
        evidence = collect_evidence(
            EvaluationPlan.of(self.study),
            predictions,
            self.development.parts,
            kind="cross-validation",
            clinical_parameters=record.clinical_parameters,
            attributions=read_attributions(candidate.artifacts),
            notes=self.splits.notes,
            seconds={n: parts[_SECONDS] for n, parts in timings.items() if _SECONDS in parts},
        )
        self.say("evaluate", 1, 1)
        return evidence

    def bundle(
        self,
        run: StudyRun,
        fitted: dict[str, TunedFit],
        evidence: Evidence,
        record: DevelopmentRecord,
        key_id: str,
    ) -> Path:
        """Write the bundle; returns its folder."""
        folder = self.scratch / "bundle"
        references, reasons = feature_references(self.development, seed=self.study.evaluation.seed)
        manifest = describe_bundle(
            self.study,
            self.development,
            fitted,
            record=record,
            key_id=key_id,
            run_id=run.run_id,
            without_reference=reasons,
        )
        states = {name: fit.model.state() for name, fit in fitted.items()}
        write_bundle(
            folder,
            states,
            manifest,
            references=references,
            performance=performance_table(evidence),
        )
        return folder

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "horizons_months": self.study.endpoint.horizons_months,
            "groups": _groups(self.study, self.development),
            "inner_folds": self.study.evaluation.inner_folds,
            "patience": self.study.evaluation.patience,
            "seed": self.study.evaluation.seed,
        }


def _n_coefficients(fit: TunedFit) -> int | None:
    """Coefficients of a linear model; None for others, which have no such count."""
    arrays, _ = fit.model.state()
    return int(arrays["coefficients"].size) if "coefficients" in arrays else None
