"""What may happen to a version: the table of moves, and what each of them demands.

Pure functions over events and bundles; they raise `RegistryError` with what stands in the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storm_clinic.bundle import required_models
from storm_clinic.errors import RegistryError
from storm_clinic.licences import Conflict, conflicts
from storm_clinic.registry.people import roles_of
from storm_clinic.registry.trail import Event
from storm_clinic.registry.versions import FROZEN, RegisteredModel, history_of, last_move

# From each state (None: not registered) to those it may become. There are no other moves.
MOVES: dict[str | None, frozenset[str]] = {
    None: frozenset({"candidate"}),
    "candidate": frozenset({"locked"}),
    "locked": frozenset({"approved", "rejected"}),
    "approved": frozenset({"retired"}),
    "rejected": frozenset(),
    "retired": frozenset(),
}


@dataclass(frozen=True)
class Attempt:
    """One scoring of a cohort: predictions that were sealed, and the evidence where it is known.

    Attributes
    ----------
    seal : Event
    validated : Event or None
        None until outcomes were joined.
    """

    seal: Event
    validated: Event | None


def attempts_on(history: Sequence[Event], cohort: str) -> tuple[Attempt, ...]:
    """Every scoring of a cohort, oldest first; one where nothing was ever run again."""
    found: list[Attempt] = []
    for event in history:
        if event.body.get("cohort") != cohort:
            continue
        if event.kind == "predictions_sealed":
            found.append(Attempt(event, None))
        elif event.kind == "validated" and found:
            found[-1] = Attempt(found[-1].seal, event)
    return tuple(found)


def cohorts_of(model: RegisteredModel, history: Sequence[Event]) -> tuple[str, ...]:
    """Cohorts to validate on: those of the study, then those that were added after the lock."""
    added = [str(event.body["cohort"]) for event in history if event.kind == "cohort_added"]
    return tuple(dict.fromkeys([*model.bundle.study.validation, *added]))


def judged_on(history: Sequence[Event], cohorts: Sequence[str]) -> dict[str, str]:
    """Digest of the evidence of the latest scoring of each cohort, where outcomes were joined."""
    latest = {cohort: found[-1] for cohort in cohorts if (found := attempts_on(history, cohort))}
    return {
        cohort: str(attempt.validated.body["evidence_digest"])
        for cohort, attempt in latest.items()
        if attempt.validated is not None
    }


def require_move(history: Sequence[Event], state: str, body: Mapping[str, Any]) -> None:
    """Refuse a move that the table does not have, or that names another bundle than before."""
    reference = f"{body['model']}:{body['version']}"
    last = last_move(history)
    current = last.kind if last else None
    if state not in MOVES[current]:
        since = f" since {last.when:%Y-%m-%d} by {last.by}" if last else ""
        possible = " or ".join(sorted(MOVES[current])) or "nothing else"
        raise RegistryError(
            f"is {current or 'not registered'}{since}; from there it can become {possible}, "
            f"not {state}",
            where=reference,
        )
    if last and last.body["bundle_digest"] != body["bundle_digest"]:
        raise RegistryError("is another bundle than was registered", where=reference)


def require_frozen(model: RegisteredModel, events: Sequence[Event]) -> tuple[Event, ...]:
    """The version's history, where it is locked or was approved since."""
    history = history_of(events, model.name, model.version)
    move = last_move(history)
    if move is None or move.kind not in FROZEN:
        raise RegistryError(
            f"is {move.kind if move else 'not registered'}, not locked",
            where=model.reference,
            fix="Lock it before validating.",
        )
    return history


def require_independent(history: Sequence[Event], by: str, *, where: str) -> None:
    """Refuse an approver who trained or locked the model."""
    who = {event.kind: event.by for event in history}
    done = roles_of(by, trained_by=who.get("candidate", ""), locked_by=who.get("locked", ""))
    if done:
        raise RegistryError(
            f"{by} {' and '.join(done)} the model, and so may not approve it",
            where=where,
            fix="Have it approved by somebody else.",
        )


def require_lockable(model: RegisteredModel) -> None:
    """Refuse to lock what could not be repeated, compared, or judged on other patients."""
    study = model.bundle.study
    if study.comparator is None:
        raise RegistryError(
            "no model of the study sees clinical covariates alone, so that nothing could show "
            "what the candidate adds",
            where=model.reference,
            fix="Add a model with inputs: [clinical] to the study and train again.",
        )
    missing = sorted(set(required_models(study)) - set(model.bundle.models))
    if missing:
        raise RegistryError(
            f"lacks {', '.join(missing)}, which is compared with", where=model.reference
        )
    seen = sorted(set(model.bundle.manifest.training) & set(study.validation))
    if seen:
        raise RegistryError(
            f"was trained on {', '.join(seen)}, which is to validate it", where=model.reference
        )
    forbidden = [str(found) for found in licence_conflicts(model) if found.severity == "refuse"]
    if forbidden:
        raise RegistryError(
            "; ".join(forbidden),
            where=model.reference,
            fix="Declare another intended_use in the study, or use an encoder that allows this.",
        )
    _require_repeatable(model)


def licence_conflicts(model: RegisteredModel) -> tuple[Conflict, ...]:
    """Where what the study is for conflicts with the licences of what the model is made of."""
    return conflicts(model.bundle.study.intended_use, model.bundle.manifest.licences())


def _require_repeatable(model: RegisteredModel) -> None:
    """Inputs and code of the training must be known by digests, the code also by a version."""
    manifest = model.bundle.manifest
    silent = sorted(name for name, cohort in manifest.training.items() if not cohort.digests)
    if silent or not manifest.training:
        raise RegistryError(
            f"digests of what it was trained on are missing ({', '.join(silent) or 'all'})",
            where=model.reference,
            fix="Train it again from a declared cohort.",
        )
    if not manifest.code.get("digest"):
        raise RegistryError("does not say which code trained it", where=model.reference)
    simulated = all(cohort.origin.get("simulated") for cohort in manifest.training.values())
    # Nobody is treated by a model of simulated patients, and people try changed code on these.
    if manifest.code.get("dirty") and not simulated:
        raise RegistryError(
            "was trained by code with uncommitted changes, which nobody can bring back",
            where=model.reference,
            fix="Commit the code, or put it back as it was, and train again.",
        )
