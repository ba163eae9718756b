"""Versions of registered models: their state by the trail, their files verified against it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from storm_clinic.bundle import Bundle, read_bundle
from storm_clinic.errors import RegistryError
from storm_clinic.registry.mirror import digest_version
from storm_clinic.registry.trail import Event
from storm_clinic.tracking.artifact_files import ArtifactFiles

STATES = ("candidate", "locked", "approved", "rejected", "retired")
FROZEN = ("locked", "approved")  # may be validated and scored

_REFERENCE = re.compile(r"(?P<name>[a-z0-9][a-z0-9_-]*)(:(?P<version>[0-9]+)|@(?P<state>[a-z]+))?")


@dataclass(frozen=True, eq=False)
class RegisteredModel:
    """One version of a registered model, its files verified against the trail.

    Attributes
    ----------
    name : str
        The study's name.
    version : int
        MLflow's number.
    state : str
        One of `STATES`.
    bundle : Bundle
        Read and verified.
    events : tuple of Event
        All that happened to this version, oldest first.
    """

    name: str
    version: int
    state: str
    bundle: Bundle
    events: tuple[Event, ...]

    @property
    def reference(self) -> str:
        """``name:version``, as every verb takes it."""
        return f"{self.name}:{self.version}"

    def find_event(self, kind: str, *, cohort: str | None = None) -> Event | None:
        """The latest event of a kind, e.g. ``locked``, or ``validated`` on a cohort."""
        found = [
            event
            for event in self.events
            if event.kind == kind and cohort in (None, event.body.get("cohort"))
        ]
        return found[-1] if found else None


class Referring(Protocol):
    """Anything that knows which version it is about."""

    @property
    def reference(self) -> str:
        """``name:version``."""


def reference_of(model: str | Referring) -> str:
    """A reference as given, or that of a version, a candidate or a validation."""
    return model if isinstance(model, str) else model.reference


def history_of(events: Sequence[Event], name: str, version: int) -> tuple[Event, ...]:
    """Events of one version, oldest first."""
    here = (name, version)
    return tuple(e for e in events if (e.body.get("model"), e.body.get("version")) == here)


def last_move(history: Sequence[Event]) -> Event | None:
    """The event that gave a version its state; other events do not change it."""
    moves = [event for event in history if event.kind in STATES]
    return moves[-1] if moves else None


def states_of(events: Sequence[Event], name: str) -> dict[int, str]:
    """State of every version of a registered model."""
    moves = (e for e in events if e.kind in STATES and e.body.get("model") == name)
    return {int(event.body["version"]): event.kind for event in moves}


def resolve_reference(
    reference: str, events: Sequence[Event], *, states: Collection[str] = STATES
) -> tuple[str, int]:
    """Name and version behind ``name``, ``name:version`` or ``name@state``.

    A name alone is its latest version in one of ``states``; a version must be in one of them.

    Raises
    ------
    RegistryError
        If there is no such version; the message lists those there are.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise RegistryError(
            "is no reference to a model", where=reference, fix="Write name, or name:version."
        )
    known = states_of(events, match["name"])
    if match["state"]:
        states = {match["state"]} & set(states)
    fitting = [version for version, state in known.items() if state in states]
    if match["version"]:
        fitting = [version for version in fitting if version == int(match["version"])]
    if fitting:
        return match["name"], max(fitting)
    raise RegistryError(_not_found(known, states), where=reference)


def load_version(
    files: ArtifactFiles, events: Sequence[Event], name: str, version: int
) -> RegisteredModel:
    """Read a registered version and verify every byte of it against the trail.

    Parameters
    ----------
    files : ArtifactFiles
        Of the place in use; the trail names folders relative to it, so that it may be moved.
    events : sequence of Event
        The whole trail.
    name, version : str, int
        Of a registered version.

    Raises
    ------
    RegistryError
        Naming the file that is missing, new or changed.
    """
    history = history_of(events, name, version)
    move = last_move(history)
    if move is None:
        raise RegistryError("is not registered", where=f"{name}:{version}")
    registered = history[0].body
    folder = files.folder(registered["folder"])
    _check_files(folder, registered["files"])
    # The latest move froze the digest; that all moves name the same one is checked on appending.
    digest = move.body["bundle_digest"]
    bundle = read_bundle(folder / "data" / "bundle", expected_digest=digest)
    return RegisteredModel(name, version, move.kind, bundle, history)


def _not_found(known: Mapping[int, str], states: Collection[str]) -> str:
    if not known:
        return "there is no such model in this workspace"
    listed = ", ".join(f"version {version} is {state}" for version, state in sorted(known.items()))
    return f"no such version is {' or '.join(sorted(states)) or 'in that state'}: {listed}"


def _check_files(folder: Path, recorded: Mapping[str, str]) -> None:
    found = digest_version(folder)
    for name in sorted(recorded.keys() | found.keys()):
        if recorded.get(name) != found.get(name):
            problem = "was changed since it was registered"
            if name not in found:
                problem = "is missing"
            elif name not in recorded:
                problem = "was not there when the version was registered"
            raise RegistryError(
                problem, where=folder / name, fix="Restore the files as they were registered."
            )
