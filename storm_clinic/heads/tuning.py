"""Choosing settings and how far to walk, inside inner folds, then the refit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Survival, required_strata, stratum
from storm_clinic.cohort.split import make_splits
from storm_clinic.errors import OutcomeError, TrainingError
from storm_clinic.heads.contract import FittedModel, Head, Recipe, Sample, Stage
from storm_clinic.study import PATIENCE, Scalar

FoldPair = tuple[NDArray[np.int64], NDArray[np.int64]]  # positions to train on, and to watch

Stopped = Literal["patience", "end"]
Tell = Callable[[int, float, float | None], None]  # stage, loss, held-out likelihood


@dataclass(frozen=True)
class InnerResult:
    """What the inner folds said of one combination of settings.

    Attributes
    ----------
    settings : dict
    held_out : tuple of float
        After each stage, log-likelihood of the held-out patients per event (survival) or per
        patient (classes), over all inner folds.
    loss : tuple of float
        Training loss after each stage, averaged over inner folds.
    stopped : str
        Why no further stage was walked: ``patience``, as the likelihood no longer rose, or ``end``
        of the path.
    """

    settings: Mapping[str, Scalar]
    held_out: tuple[float, ...]
    loss: tuple[float, ...]
    stopped: Stopped

    @property
    def best_stage(self) -> int:
        """The first stage with the highest held-out likelihood, counted from 1."""
        return int(np.argmax(self.held_out)) + 1

    @property
    def score(self) -> float:
        """The highest held-out likelihood."""
        return max(self.held_out)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "settings": dict(self.settings),
            "best_stage": self.best_stage,
            "score": self.score,
            "stopped": self.stopped,
            "held_out": list(self.held_out),
            "loss": list(self.loss),
        }


@dataclass(frozen=True, eq=False)
class TunedFit:
    """A model with the record of how it was chosen.

    Attributes
    ----------
    model : FittedModel
    settings : dict
        The chosen ones.
    n_stages : int
        How far the refit walked.
    stages : str, optional
        What it counted: ``epochs`` of a network, ``penalties`` of an elastic net.
    loss : tuple of float
        Training loss after each stage of the refit.
    inner : tuple of InnerResult
        One a combination of settings; empty where there was nothing to choose.
    notes : tuple of str
        Where inner folds differ from what was asked for, and what preprocessing dropped.
    seconds : float
        Of wall time, for all of this; not part of `as_dict`.
    """

    model: FittedModel
    settings: Mapping[str, Scalar]
    n_stages: int
    stages: str | None
    loss: tuple[float, ...]
    inner: tuple[InnerResult, ...]
    notes: tuple[str, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """All but the model, ready for JSON."""
        return {
            "settings": dict(self.settings),
            "n_stages": self.n_stages,
            "stages": self.stages,
            "loss": list(self.loss),
            "inner": [result.as_dict() for result in self.inner],
            "notes": list(self.notes),
        }


def inner_folds_of(
    sample: Sample, groups: NDArray[Any] | None, *, folds: int, seed: int
) -> tuple[list[FoldPair], tuple[str, ...]]:
    """Positions to train on and to watch, one pair a fold, and notes on the design.

    Raises
    ------
    TrainingError
        If there are too few events, or patients of a class, for two folds.
    """
    outcome = sample.outcome
    try:
        splits = make_splits(
            sample.data.keys,
            stratum(outcome),
            groups,
            folds=folds,
            repeats=1,
            seed=seed,
            required=required_strata(outcome),
        )
    except OutcomeError as error:
        raise TrainingError(
            f"settings cannot be chosen in inner folds: {error.problem}", fix=error.fix
        ) from error
    fold = splits.fold[0]
    pairs = [
        (np.flatnonzero(fold != number), np.flatnonzero(fold == number))
        for number in range(int(fold.max()) + 1)
    ]
    return pairs, splits.notes


def try_settings(
    head: Head,
    recipe: Recipe,
    sample: Sample,
    pairs: Sequence[FoldPair],
    *,
    patience: int = PATIENCE,
    tell: Tell | None = None,
) -> InnerResult:
    """Walk all inner folds side by side until held-out likelihood no longer rises.

    The likelihood is summed over folds before it is divided, so that a fold with few events
    weighs little. A fold whose path ends early ends the comparison: stages must mean the same.

    Raises
    ------
    TrainingError
        Naming the inner fold that cannot be trained.
    """
    paths = [
        _named(
            head.path(sample.take(train), _seeded(recipe, number + 1), sample.take(watch)), number
        )
        for number, (train, watch) in enumerate(pairs)
    ]
    outcome = sample.outcome
    weight = outcome.n_events if isinstance(outcome, Survival) else outcome.n_patients
    held_out: list[float] = []
    loss: list[float] = []
    stopped: Stopped = "end"
    for stages in zip(*paths, strict=False):
        held_out.append(sum(stage.held_out for stage in stages) / weight)
        loss.append(float(np.mean([stage.loss for stage in stages])))
        if tell is not None:
            tell(len(loss), loss[-1], held_out[-1])
        if len(held_out) - int(np.argmax(held_out)) > patience:
            stopped = "patience"
            break
    return InnerResult(dict(recipe.settings), tuple(held_out), tuple(loss), stopped)


def refit(
    head: Head, recipe: Recipe, sample: Sample, n_stages: int, *, tell: Tell | None = None
) -> tuple[FittedModel, tuple[float, ...]]:
    """Walk as far as was chosen on all patients; the model, and the loss after each stage."""
    walked = []
    for stage in islice(head.path(sample, _seeded(recipe, 0)), n_stages):
        walked.append(stage)
        if tell is not None:
            tell(len(walked), stage.loss, None)
    # Asked here, and not before: a network's stage is what the network is now.
    return walked[-1].finish(), tuple(stage.loss for stage in walked)


def _seeded(recipe: Recipe, number: int) -> Recipe:
    """The recipe with a seed of its own; the same for all settings, so that chance is shared."""
    seed = int(np.random.SeedSequence([recipe.seed, number]).generate_state(1)[0])
    return replace(recipe, seed=seed)


def _named(path: Iterator[Stage], number: int) -> Iterator[Stage]:
    try:
        yield from path
    except TrainingError as error:
        raise TrainingError(
            error.problem, where=f"inner fold {number + 1}", fix=error.fix
        ) from error
