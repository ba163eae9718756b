"""Fitting a model of a study: tuned on inner folds, or cross-validated with that inside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from storm_clinic.cohort.outcome import Outcome
from storm_clinic.errors import InputError, StormClinicError
from storm_clinic.heads.contract import Head, ModelOutput, PatientData, Recipe, Sample
from storm_clinic.heads.out_of_fold import FoldRecord, OutOfFold, assemble
from storm_clinic.heads.search import Settings, search, space_of
from storm_clinic.heads.tuning import (
    FoldPair,
    InnerResult,
    TunedFit,
    inner_folds_of,
    refit,
    try_settings,
)
from storm_clinic.heads.watching import Teller, Watch, watched_by
from storm_clinic.heads.zoo import check
from storm_clinic.progress import Progress, silent
from storm_clinic.study import PATIENCE, ModelSpec

Ints = NDArray[np.int64]


def fit_tuned(
    spec: ModelSpec,
    data: PatientData,
    outcome: Outcome,
    *,
    horizons_months: tuple[float, ...] = (),
    groups: ArrayLike | None = None,
    inner_folds: int = 3,
    patience: int = PATIENCE,
    seed: int,
    n_jobs: int = 1,
    progress: Progress | None = None,
    watch: Watch | None = None,
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
    patience : int
        Stages without a better held-out likelihood after which inner folds are walked no further.
    seed : int
        Of inner folds, first weights, dropout and trials.
    n_jobs : int
        Processes among which listed settings are divided, not the trials of a search; results do
        not depend on it.
    progress : callable, optional
        Called with (what, done, total) after each combination of settings.
    watch : callable, optional
        Called in a thread about once a second with the stages walked since.

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
    how = _How(tuple(horizons_months), inner_folds, patience, seed)
    names = None if groups is None else np.asarray(groups, dtype=object)
    with watched_by(watch) as watched:
        task = _Task(spec, Sample(data, outcome), names, how, watched.teller())
        return task.run(n_jobs, progress or silent)


@dataclass(frozen=True)
class _How:
    """What a study says of the fitting of all its models."""

    horizons_months: tuple[float, ...]
    inner_folds: int
    patience: int
    seed: int


@dataclass(frozen=True, eq=False)
class _Task:
    """One model to be tuned and refitted on some patients."""

    spec: ModelSpec
    sample: Sample
    groups: NDArray[Any] | None
    how: _How
    teller: Teller

    def run(self, n_jobs: int, progress: Progress) -> TunedFit:
        began = time.perf_counter()
        head = check(self.spec, self.sample.outcome)
        inner, notes = self._inner(head, n_jobs, progress)
        if inner:
            best = max(inner, key=lambda result: result.score)
            settings, n_stages = dict(best.settings), best.best_stage
        else:
            (settings,), n_stages = space_of(head, self.spec).combinations(), 1
        with _one_thread():
            model, loss = refit(
                head, self._recipe(settings), self.sample, n_stages, tell=self.teller
            )
        return TunedFit(
            model=model,
            settings=settings,
            n_stages=len(loss),
            stages=head.stages,
            loss=loss,
            inner=inner,
            notes=(*notes, *model.notes),
            seconds=time.perf_counter() - began,
        )

    def _inner(
        self, head: Head, n_jobs: int, progress: Progress
    ) -> tuple[tuple[InnerResult, ...], tuple[str, ...]]:
        """What inner folds say of each combination; nothing where there is no choice."""
        space = space_of(head, self.spec)
        if self.spec.search is not None:
            pairs, notes = self._pairs()
            return self._searched(head, pairs, progress), notes
        grid = space.combinations()
        if head.stages is None and len(grid) == 1:
            return (), ()
        pairs, notes = self._pairs()
        jobs = [
            joblib.delayed(_try)(
                head,
                self._recipe(settings),
                self.sample,
                pairs,
                self.how.patience,
                self.teller.trying(at + 1, len(grid)),
            )
            for at, settings in enumerate(grid)
        ]
        results: list[InnerResult] = []
        for result in _run(jobs, n_jobs):
            results.append(result)
            progress(f"settings {len(results)}", len(results), len(jobs))
        return tuple(results), notes

    def _searched(
        self, head: Head, pairs: list[FoldPair], progress: Progress
    ) -> tuple[InnerResult, ...]:
        """Trials one after the other, as each depends on those before."""
        how = self.spec.search
        assert how is not None
        n_tried = 0

        def try_out(settings: Settings) -> InnerResult:
            nonlocal n_tried
            n_tried += 1
            teller = self.teller.trying(n_tried, how.trials)
            recipe = self._recipe(settings)
            result = _try(head, recipe, self.sample, pairs, self.how.patience, teller)
            progress(f"settings {n_tried}", n_tried, how.trials)
            return result

        return tuple(search(space_of(head, self.spec), how, try_out, seed=self.how.seed))

    def _pairs(self) -> tuple[list[FoldPair], tuple[str, ...]]:
        pairs, notes = inner_folds_of(
            self.sample, self.groups, folds=self.how.inner_folds, seed=self.how.seed
        )
        return pairs, tuple(f"inner folds: {note}" for note in notes)

    def _recipe(self, settings: Settings) -> Recipe:
        return Recipe(self.spec.inputs, settings, self.how.horizons_months, self.how.seed)


def _try(
    head: Head,
    recipe: Recipe,
    sample: Sample,
    pairs: list[FoldPair],
    patience: int,
    teller: Teller,
) -> InnerResult:
    with _one_thread():
        return try_settings(head, recipe, sample, pairs, patience=patience, tell=teller)


def cross_validate(
    spec: ModelSpec,
    data: PatientData,
    outcome: Outcome,
    folds: Ints,
    *,
    horizons_months: tuple[float, ...] = (),
    groups: ArrayLike | None = None,
    inner_folds: int = 3,
    patience: int = PATIENCE,
    seed: int,
    n_jobs: int = 1,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> OutOfFold:
    """Predict every patient by models that never saw them: `fit_tuned` without each fold in turn.

    Parameters
    ----------
    spec, data, outcome, horizons_months, groups, inner_folds, patience, seed, progress, watch
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
    how = _How(tuple(horizons_months), inner_folds, patience, seed)
    names = None if groups is None else np.asarray(groups, dtype=object)
    results = []
    with watched_by(watch) as watched:
        jobs = [
            joblib.delayed(_outer_fold)(
                _Task(spec, sample, names, how, watched.teller(*at)), fold[at[0]] == at[1], at
            )
            for at in parts
        ]
        for result in _run(jobs, n_jobs):
            results.append(result)
            record = result[0]
            if progress is not None:
                what = f"repeat {record.repeat + 1}, fold {record.fold + 1}"
                progress(what, len(results), len(jobs))
            watched.check()
    return assemble(data.keys, fold, results)


def _outer_fold(
    everybody: _Task, tested: NDArray[np.bool_], at: tuple[int, int]
) -> tuple[FoldRecord, ModelOutput]:
    """Train without the tested patients, then predict them."""
    repeat, number = at
    sample, spec, how = everybody.sample, everybody.spec, everybody.how
    train, test = sample.take(np.flatnonzero(~tested)), sample.take(np.flatnonzero(tested))
    seed = int(np.random.SeedSequence([how.seed, repeat, number]).generate_state(1)[0])
    task = replace(
        everybody,
        sample=train,
        groups=None if everybody.groups is None else everybody.groups[~tested],
        how=replace(how, seed=seed),
    )
    try:
        fit = task.run(1, silent)
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
