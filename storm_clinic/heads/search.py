"""Which settings a model tries: every combination of lists, or trials that Optuna proposes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from storm_clinic.errors import StudyError
from storm_clinic.heads.contract import Head, Option
from storm_clinic.strict_yaml import did_you_mean
from storm_clinic.study import ModelSpec, Range, Scalar, Search

Settings = dict[str, Scalar]


class Scored(Protocol):
    """What is learned of one combination of settings."""

    @property
    def score(self) -> float:
        """Higher is better."""


T = TypeVar("T", bound=Scored)


@dataclass(frozen=True)
class Space:
    """Settings a model may be given.

    Attributes
    ----------
    fixed : dict
        Every option that is not tried out, with its value.
    tried : dict of str to tuple or Range
        The others, with legal values or bounds in the option's own type.
    """

    fixed: Mapping[str, Scalar]
    tried: Mapping[str, tuple[Scalar, ...] | Range]

    def combinations(self) -> list[Settings]:
        """Every combination of the lists; the last one varies fastest."""
        grid: list[Settings] = [dict(self.fixed)]
        for name, values in self.tried.items():
            assert isinstance(values, tuple), "a range comes with a search"
            grid = [{**settings, name: value} for settings in grid for value in values]
        return grid


def space_of(head: Head, spec: ModelSpec) -> Space:
    """What a model tries, checked against its head.

    Raises
    ------
    StudyError
        If an option is unknown to the head, a value or bound illegal, or Optuna not installed.
    """
    if spec.search is not None:
        _import_optuna(f"model {spec.name!r}, search")
    fixed: Settings = {name: option.default for name, option in head.options.items()}
    tried: dict[str, tuple[Scalar, ...] | Range] = {}
    for name, value in spec.options.items():
        option, where = _option(head, spec, name)
        fixed[name] = option.checked(value, where=where)
    for name, values in spec.tune.items():
        option, where = _option(head, spec, name)
        del fixed[name]
        if isinstance(values, Range):
            tried[name] = _legal_range(option, values, where)
        else:
            tried[name] = tuple(option.checked(value, where=where) for value in values)
    return Space(fixed, tried)


def _option(head: Head, spec: ModelSpec, name: str) -> tuple[Option, str]:
    where = f"model {spec.name!r}, {name}"
    if name not in head.options:
        hint = did_you_mean(name, list(head.options)) or "; it has none"
        raise StudyError(f"unknown option of the head {head.name!r}{hint}", where=where)
    return head.options[name], where


def _legal_range(option: Option, values: Range, where: str) -> Range:
    if isinstance(option.default, bool | str):
        raise StudyError(
            "only numbers have a range", where=where, fix="List the values to try instead."
        )
    bounds = [option.checked(bound, where=where) for bound in (values.lowest, values.highest)]
    return Range.model_validate({"from": bounds[0], "to": bounds[1], "log": values.log})


def search(space: Space, how: Search, try_out: Callable[[Settings], T], *, seed: int) -> list[T]:
    """Try combinations one after the other, each proposed in the light of those before.

    A combination that is proposed again is not tried again: it appears again with its result.

    Parameters
    ----------
    space : Space
        What may be proposed.
    how : Search
        Number of trials, and the sampler.
    try_out : callable
        Gives what inner folds say of some settings.
    seed : int
        The same seed and scores give the same trials.

    References
    ----------
    Bergstra et al., NeurIPS 24 (2011); Akiba et al., KDD (2019) 2623-2631.
    """
    optuna = _import_optuna("search")
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    known: dict[tuple[Scalar, ...], T] = {}
    results = []
    with _quiet(optuna):
        study = optuna.create_study(
            direction="maximize", sampler=samplers[how.sampler](seed=seed % 2**32)
        )
        for _ in range(how.trials):
            trial = study.ask()
            proposed = {name: _suggest(trial, name, v) for name, v in space.tried.items()}
            at = tuple(proposed.values())
            if at not in known:
                known[at] = try_out({**space.fixed, **proposed})
            results.append(known[at])
            study.tell(trial, known[at].score)
    return results


def _suggest(trial: Any, name: str, values: tuple[Scalar, ...] | Range) -> Scalar:
    value: Scalar
    if isinstance(values, tuple):
        value = trial.suggest_categorical(name, values)
    elif isinstance(values.lowest, int) and isinstance(values.highest, int):
        value = trial.suggest_int(name, values.lowest, values.highest, log=values.log)
    else:
        value = trial.suggest_float(name, values.lowest, values.highest, log=values.log)
    return value


def _import_optuna(where: str) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise StudyError(
            "a search needs Optuna, which is not installed",
            where=where,
            fix="Install it: pip install 'storm-clinic[search]'. Or list values in tune, "
            "without search.",
        ) from error
    return optuna


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Hold back Optuna's line about each trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
