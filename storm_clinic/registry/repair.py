"""Putting MLflow's tags and aliases right from the trail, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from storm_clinic.registry.findings import Finding
from storm_clinic.registry.mirror import mirror_states
from storm_clinic.registry.mirror_audit import (
    MirroredModel,
    check_labels,
    is_other,
    labels_of,
    read_mirror,
    registered_versions,
)
from storm_clinic.registry.trail import Event, Trail
from storm_clinic.registry.versions import states_of
from storm_clinic.tracking.client import MlflowDatabase, mlflow_errors


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes
    ----------
    changed : tuple of Finding
        Tags and aliases that were otherwise than the trail says, and are right now.
    left : tuple of str
        What it did not touch, and why, a sentence each.
    """

    changed: tuple[Finding, ...]
    left: tuple[str, ...]


def repair(trail: Trail, database: MlflowDatabase) -> Repair:
    """Rewrite tags and aliases of every model from the trail.

    A model of which MLflow lost a version, or has another under its number, is left as it is: an
    alias must not lead to what was never approved.

    Raises
    ------
    RegistryError
        If the trail's chain is broken.
    StorageError
        If MLflow's database cannot be read or written.
    """
    events = trail.events()
    mirror = read_mirror(database)
    changed: list[Finding] = []
    left: list[str] = []
    for name in sorted({name for name, _ in registered_versions(events)}):
        model = mirror.get(name, MirroredModel({}, {}))
        reasons = _unsafe(events, name, model)
        left += reasons
        wrong = [] if reasons else check_labels(events, name, model)
        if wrong:
            _rewrite(events, name, database)
            changed += wrong
    return Repair(tuple(changed), tuple(left))


def _rewrite(events: tuple[Event, ...], name: str, database: MlflowDatabase) -> None:
    with mlflow_errors(database.shown):
        for number, tags in labels_of(events, name).items():
            for tag, value in tags.items():
                database.client.set_model_version_tag(name, str(number), tag, value)
    mirror_states(database, name, states_of(events, name))


def _unsafe(events: tuple[Event, ...], name: str, model: MirroredModel) -> list[str]:
    reasons = []
    for (of, number), event in registered_versions(events).items():
        if of != name:
            continue
        if number not in model.versions:
            reasons.append(f"{name}:{number} is not in MLflow's database; {name} was left as it is")
        elif is_other(event, model.versions[number]):
            reasons.append(
                f"{name}:{number} in MLflow's database is not what was registered; {name} was "
                "left as it is"
            )
    return reasons
