"""Fitting a model of a study: tuned on inner folds, or cross-validated with that inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from storm_clinic.cohort.outcome import Outcome
from storm_clinic.errors import InputError, StormClinicError
from storm_clinic.heads.contract import (
    Head,
    ModelOutput,
    PatientData,
    Recipe,
    Sample,
)
from storm_clinic.heads.tuning import (
    FoldPair,
    InnerResult,
    TunedFit,
    inner_folds_of,
    refit,
    try_settings,
)
from storm_clinic.heads.zoo import check, settings_of
from storm_clinic.progress import Progress
from storm_clinic.study import ModelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FoldRecord:
    """What happened in one outer fold.

    Attributes
    ----------
    repeat, fold : int
        From 0.
    n_train, n_train_events, n_test, n_test_events : int
        Patients, and those with the event (of classes: of the last level).
    fit : TunedFit
        The model trained without this fold, and how it was chosen.
    notes : tuple of str
        What was unusual about the tested patients.
    """

    repeat: int
    fold: int
    n_train: int
    n_train_events: int
    n_test: int
    n_test_events: int
    fit: TunedFit
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All but the model, ready for JSON."""
        own = {name: value for name, value in vars(self).items() if name not in ("fit", "notes")}
        chosen = self.fit.as_dict()
        return own | chosen | {"notes": [*chosen["notes"], *self.notes]}


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions for every patient by models that never saw them, once a repeat.

    Attributes
    ----------
    keys : tuple of str, length n_patients
    fold : int64 array, shape (n_repeats, n_patients)
        Test fold of each patient.
    risk : float64 array, shape (n_repeats, n_patients)
    probabilities : dict of str to float64 array, shape (n_repeats, n_patients)
    records : tuple of FoldRecord
        By repeat, then fold.
    """

    keys: tuple[str, ...]
    fold: Ints
    risk: Floats
    probabilities: dict[str, Floats]
    records: tuple[FoldRecord, ...]

    def table(self) -> pd.DataFrame:
        """Columns ``patient_key, repeat, fold, risk`` and probabilities; repeat after repeat."""
        n_repeats, n_patients = self.fold.shape
        columns: dict[str, Any] = {
            "patient_key": list(self.keys) * n_repeats,
            "repeat": np.repeat(np.arange(n_repeats), n_patients),
            "fold": self.fold.ravel(),
            "risk": self.risk.ravel(),
        }
        return pd.DataFrame(columns | {k: v.ravel() for k, v in self.probabilities.items()})


def fit_tuned(
    spec: ModelSpec,
    data: PatientData,
    outcome: Outcome,
    *,
    horizons_months: tuple[float, ...] = (),
    groups: ArrayLike | None = None,
    inner_folds: int = 3,
    seed: int,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> TunedFit:
    """Choose settings and stage in inner folds, then refit on all these patients.

    Settings and stage (epochs of a network, penalty of an elastic net) are those with the highest
    log-likelihood of held-out patients, summed over inner folds. For survival this is the partial
    likelihood within the held-out fold. It is preferred to the C-index because it also falls when
    hazards grow too extreme, on which horizon risks depend, and because it is smooth where a
    C-index over a few dozen events jumps. Where nothing is to be chosen no inner fold is made.

    Parameters
    ----------
    spec : ModelSpec
        The model, as the study file names it.
    data : PatientData
        Patients to train on.
    outcome : Outcome
        Theirs, in the same order.
    horizons_months : tuple of float
        Months at which a survival model states risks.
    groups : array of str, shape (n_patients,), optional
        Sites; never divided between inner folds.
    inner_folds : int
        Fewer are made where events or sites are too few; the notes then say so.
    seed : int
        Of inner folds, first weights and dropout.
    n_jobs : int
        Processes among which settings are divided; results do not depend on it.
    progress : callable, optional
        Called with (what, done, total) after each combination of settings.

    Returns
    -------
    TunedFit
        The model and how it was chosen.

    Raises
    ------
    StudyError
        If the model cannot be fitted as specified.
    TrainingError
        If these patients cannot train it, naming the inner fold where one is at fault.
    StatisticsError
        If a horizon lies beyond their follow-up.
    """
    head, sample = check(spec, outcome), Sample(data, outcome)
    recipes = [
        Recipe(spec.inputs, settings, tuple(horizons_months), seed)
        for settings in settings_of(head, spec)
    ]
    inner, notes = _inner(head, recipes, sample, groups, inner_folds, n_jobs, progress)
    best = int(np.argmax([result.score for result in inner])) if inner else 0
    n_stages = inner[best].best_stage if inner else 1
    with _one_thread():
        model, loss = refit(head, recipes[best], sample, n_stages)
    return TunedFit(
        model, recipes[best].settings, len(loss), head.stages, loss, inner, (*notes, *model.notes)
    )


def _inner(
    head: Head,
    recipes: list[Recipe],
    sample: Sample,
    groups: ArrayLike | None,
    folds: int,
    n_jobs: int,
    progress: Progress | None,
) -> tuple[tuple[InnerResult, ...], tuple[str, ...]]:
    """What inner folds say of each combination of settings; nothing where there is no choice."""
    if head.stages is None and len(recipes) == 1:
        return (), ()
    names = None if groups is None else np.asarray(groups, dtype=object)
    pairs, notes = inner_folds_of(sample, names, folds=folds, seed=recipes[0].seed)
    jobs = [joblib.delayed(_try)(head, recipe, sample, pairs) for recipe in recipes]
    results: list[InnerResult] = []
    for result in _run(jobs, n_jobs):
        results.append(result)
        if progress is not None:
            progress(f"settings {len(results)}", len(results), len(jobs))
    return tuple(results), tuple(f"inner folds: {note}" for note in notes)


def _try(head: Head, recipe: Recipe, sample: Sample, pairs: list[FoldPair]) -> InnerResult:
    with _one_thread():
        return try_settings(head, recipe, sample, pairs)


def cross_validate(
    spec: ModelSpec,
    data: PatientData,
    outcome: Outcome,
    folds: Ints,
    *,
    horizons_months: tuple[float, ...] = (),
    groups: ArrayLike | None = None,
    inner_folds: int = 3,
    seed: int,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> OutOfFold:
    """Predict every patient by models that never saw them: `fit_tuned` without each fold in turn.

    Parameters
    ----------
    spec, data, outcome, horizons_months, groups, inner_folds, seed, progress
        As in `fit_tuned`; progress is told of each outer fold.
    folds : int64 array, shape (n_repeats, n_patients)
        Test fold of each patient, from 0, as `storm_clinic.cohort.split.Splits.fold`.
    n_jobs : int
        Processes among which outer folds are divided; results do not depend on it.

    Raises
    ------
    StudyError, TrainingError, StatisticsError
        As `fit_tuned`, naming model, repeat and fold.
    """
    check(spec, outcome)
    sample, fold = Sample(data, outcome), np.atleast_2d(np.asarray(folds, dtype=np.int64))
    if fold.shape[1] != len(data):
        raise InputError(f"{len(data)} patients, but folds of shape {fold.shape}")
    parts = [(repeat, int(k)) for repeat in range(len(fold)) for k in np.unique(fold[repeat])]
    settings = {"horizons_months": horizons_months, "inner_folds": inner_folds, "seed": seed}
    names = None if groups is None else np.asarray(groups, dtype=object)
    jobs = [
        joblib.delayed(_outer_fold)(spec, sample, fold[at[0]] == at[1], at, names, settings)
        for at in parts
    ]
    results = []
    for result in _run(jobs, n_jobs):
        results.append(result)
        record = result[0]
        if progress is not None:
            what = f"repeat {record.repeat + 1}, fold {record.fold + 1}"
            progress(what, len(results), len(jobs))
    return _assemble(data.keys, fold, results)


def _outer_fold(
    spec: ModelSpec,
    sample: Sample,
    tested: NDArray[np.bool_],
    at: tuple[int, int],
    groups: NDArray[Any] | None,
    settings: dict[str, Any],
) -> tuple[FoldRecord, ModelOutput]:
    """Train without the tested patients, then predict them."""
    repeat, number = at
    train, test = sample.take(np.flatnonzero(~tested)), sample.take(np.flatnonzero(tested))
    seed = int(np.random.SeedSequence([settings["seed"], repeat, number]).generate_state(1)[0])
    try:
        fit = fit_tuned(
            spec,
            train.data,
            train.outcome,
            groups=None if groups is None else groups[~tested],
            **{**settings, "seed": seed},
        )
        with _one_thread():
            output = fit.model.predict(test.data)
    except StormClinicError as error:
        inside = "" if error.where is None else f", {error.where}"
        where = f"model {spec.name!r}, repeat {repeat + 1}, fold {number + 1}{inside}"
        raise type(error)(error.problem, where=where, fix=error.fix) from error
    record = FoldRecord(
        repeat=repeat,
        fold=number,
        n_train=train.outcome.n_patients,
        n_train_events=train.outcome.n_events,
        n_test=test.outcome.n_patients,
        n_test_events=test.outcome.n_events,
        fit=fit,
        notes=output.notes,
    )
    return record, output


def _run(jobs: list[Any], n_jobs: int) -> Iterator[Any]:
    """Results in the order of the jobs. Processes map the tiles' files and share large arrays."""
    if n_jobs == 1 or len(jobs) == 1:
        return (function(*given, **named) for function, given, named in jobs)
    pool = joblib.Parallel(n_jobs=min(n_jobs, len(jobs)), return_as="generator")
    return iter(pool(jobs))


def _one_thread() -> threadpool_limits:
    """One BLAS thread: sums then do not depend on how many cores a machine has."""
    return threadpool_limits(limits=1)


def _assemble(
    keys: tuple[str, ...], fold: Ints, results: list[tuple[FoldRecord, ModelOutput]]
) -> OutOfFold:
    risk = np.full(fold.shape, np.nan)
    probabilities = {name: np.full(fold.shape, np.nan) for name in results[0][1].probabilities}
    for record, output in results:
        tested = fold[record.repeat] == record.fold
        risk[record.repeat, tested] = output.risk
        for name, values in output.probabilities.items():
            probabilities[name][record.repeat, tested] = values
    return OutOfFold(keys, fold, risk, probabilities, tuple(record for record, _ in results))
