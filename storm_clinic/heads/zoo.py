"""Which heads there are, what each takes, and how one is found, checked and restored."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Outcome, Survival
from storm_clinic.errors import InputError, StudyError
from storm_clinic.heads.classical import CAUSES_COX, COX, COXNET, LOGISTIC, PCA_COX, WEIBULL
from storm_clinic.heads.classical_trees import TREE_HEADS
from storm_clinic.heads.contract import FittedModel, Head
from storm_clinic.heads.network_head import NETWORK_HEADS, NetworkHead
from storm_clinic.heads.search import space_of
from storm_clinic.strict_yaml import did_you_mean
from storm_clinic.study import Kind, ModelSpec, kind_of

ENTRY_POINTS = "storm_clinic.heads"

_OWN: tuple[Head, ...] = (
    WEIBULL,
    CAUSES_COX,
    *TREE_HEADS,
    COX,
    PCA_COX,
    COXNET,
    LOGISTIC,
    *NETWORK_HEADS,
)
_OUTCOME_NAMES = {Survival: "survival", CompetingRisks: "competing risks", Classes: "classes"}


def heads() -> dict[str, Head]:
    """All heads by name: ours, then those of other packages (entry points ``storm_clinic.heads``).

    Raises
    ------
    StudyError
        If another package's head cannot be loaded, or takes the name of one of ours.
    """
    own = {head.name: head for head in _OWN}
    return own | {point.name: _load(point) for point in _foreign().values()}


def find(name: str) -> Head:
    """The head of that name; of other packages only this one is loaded.

    Raises
    ------
    StudyError
        If there is none; names the nearest.
    """
    own = {head.name: head for head in _OWN}
    if name in own:
        return own[name]
    foreign = _foreign()
    if name in foreign:
        return _load(foreign[name])
    hint = did_you_mean(name, [*own, *foreign])
    raise StudyError(f"unknown head {name!r}{hint}", where="models.head")


def check(spec: ModelSpec, outcome: Outcome) -> Head:
    """Refuse a model that cannot be fitted as specified; return its head.

    Raises
    ------
    StudyError
        Naming the model, and the head, input, outcome or option at fault.
    """
    where = f"model {spec.name!r}"
    try:
        head = find(spec.head)
    except StudyError as error:
        raise StudyError(error.problem, where=where, fix=error.fix) from error
    _check_inputs(head, spec, where)
    _check_outcome(head, outcome, where)
    space_of(head, spec)
    return head


def settings_of(head: Head, spec: ModelSpec) -> list[dict[str, Any]]:
    """Every combination of settings that a model without a search tries, as the study lists them.

    Raises
    ------
    StudyError
        If an option is unknown to the head, or a value illegal.
    """
    return space_of(head, spec).combinations()


def restore(
    head: str, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
) -> FittedModel:
    """The fitted model whose ``state()`` these were; its predictions are bit-equal.

    Raises
    ------
    StudyError
        If there is no such head.
    InputError
        If an array or a setting is missing or does not fit.
    """
    try:
        return find(head).restore(arrays, settings)
    except KeyError as error:
        raise InputError(f"stored model lacks {error.args[0]!r}", where=f"head {head!r}") from error


def _check_inputs(head: Head, spec: ModelSpec, where: str) -> None:
    kinds = {kind_of(name) for name in spec.inputs}
    if kinds and kinds <= head.takes and kinds >= head.needs:
        return
    needed = f", and needs {_listed(head.needs)}" if head.needs else ""
    raise StudyError(
        f"the head {head.name!r} cannot use the inputs {' and '.join(spec.inputs)}",
        where=where,
        fix=f"It takes {_listed(head.takes)}{needed}.",
    )


def _check_outcome(head: Head, outcome: Outcome, where: str) -> None:
    if not isinstance(outcome, head.outcomes):
        able = ", ".join(_OUTCOME_NAMES[kind] for kind in head.outcomes)
        raise StudyError(
            f"the head {head.name!r} is for {able}, the endpoint is "
            f"{_OUTCOME_NAMES[type(outcome)]}",
            where=where,
            fix=f"Heads for it are {_heads_for(outcome, late_entry=False)}.",
        )
    if getattr(outcome, "entry_months", None) is not None and not head.entry_times:
        raise StudyError(
            f"the head {head.name!r} cannot use entry times (left truncation)",
            where=where,
            fix=f"Heads that can are {_heads_for(outcome, late_entry=True)}; or choose an endpoint "
            "without entry times.",
        )


def _heads_for(outcome: Outcome, *, late_entry: bool) -> str:
    """Names of our heads for an outcome; networks by their pattern, since they are many."""
    able = [
        head
        for head in _OWN
        if isinstance(outcome, head.outcomes) and (head.entry_times or not late_entry)
    ]
    names = [
        f"<pooling>-{head.objective.name}" if isinstance(head, NetworkHead) else head.name
        for head in able
    ]
    return ", ".join(dict.fromkeys(names))


_KIND_NAMES = {
    "tiles": "tiles (image, storm, virtual_expression)",
    "clinical": "clinical",
    "table": "tables (imputed_expression, measurements)",
}


def _listed(kinds: frozenset[Kind]) -> str:
    return " and ".join(text for kind, text in _KIND_NAMES.items() if kind in kinds)


def _foreign() -> dict[str, EntryPoint]:
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    taken = sorted(found.keys() & {head.name for head in _OWN})
    if taken:
        raise StudyError(
            f"{found[taken[0]].value} takes the name of our head {taken[0]!r}",
            where=f"entry point {ENTRY_POINTS}",
            fix="Rename it, or uninstall its package.",
        )
    return found


def _load(point: EntryPoint) -> Head:
    """Load another package's head: a class without arguments, or an instance."""
    try:  # foreign code may raise anything; it is reported with its origin
        loaded = point.load()
        head: Head = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise StudyError(
            f"cannot be loaded: {error}", where=f"head {point.name!r} of {point.value}"
        ) from error
    members = ("outcomes", "entry_times", "takes", "needs", "options", "stages", "path", "restore")
    missing = [name for name in ("name", *members) if not hasattr(head, name)]
    if missing or head.name != point.name:
        problem = f"lacks {', '.join(missing)}" if missing else f"calls itself {head.name!r}"
        raise StudyError(problem, where=f"head {point.name!r} of {point.value}")
    return head
