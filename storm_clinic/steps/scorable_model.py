"""Which model scores: found by its name and the trail, or in an archive; and whether it may."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from storm_clinic.bundle import Bundle
from storm_clinic.bundle.archive import RegistryFacts, read_archive
from storm_clinic.errors import RegistryError
from storm_clinic.files import Workspace
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.trail import Event
from storm_clinic.registry.versions import RegisteredModel, last_move, states_of

ARCHIVE_SUFFIX = ".zip"

_UNAPPROVED = ("candidate", "rejected")


@dataclass(frozen=True, eq=False)
class ScorableModel:
    """A verified bundle with what the registry says of it.

    Attributes
    ----------
    bundle : Bundle
    name, version, state : str, int, str
    since : datetime
        When it came into that state, UTC.
    reason : str
        Why it was retired or rejected; empty where nobody said.
    as_of : str
        For an archive: how old the state is. Empty where the registry itself was asked.
    """

    bundle: Bundle
    name: str
    version: int
    state: str
    since: datetime
    reason: str = ""
    as_of: str = ""

    @property
    def reference(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"

    @property
    def notices(self) -> tuple[str, ...]:
        """What whoever reads a score of it has to know, each a sentence."""
        told = []
        if self.state == "retired":
            told.append(f"retired since {self.since:%Y-%m-%d}: {self.reason or 'no reason given'}")
        elif self.state != "approved":
            told.append(f"the model is {self.state}, not approved")
        if self.as_of:
            told.append(self.as_of)
        return tuple(told)


def load_scorable(
    reference: str | Path,
    *,
    workspace: Workspace,
    allow_retired: bool = False,
    allow_unapproved: bool = False,
) -> ScorableModel:
    """Find a model that may score.

    Parameters
    ----------
    reference : str or Path
        ``name@state`` or ``name:version``, by the trail, never by an alias of MLflow; ``name``,
        the latest approved version, else the latest locked one; or the path of an archive
        (``.zip``), which needs neither registry nor network.
    workspace : Workspace
        Whose registry; relative paths start there.
    allow_retired : bool
        Accept a version that was retired.
    allow_unapproved : bool
        Accept a candidate, or a version that was rejected.

    Raises
    ------
    RegistryError
        If there is none, it may not score, or a byte of it was changed.
    """
    if isinstance(reference, Path) or reference.endswith(ARCHIVE_SUFFIX):
        model = _from_archive(workspace.path(reference))
    else:
        model = _from_registry(find_preferred(reference, Registry(workspace)))
    where = model.reference
    if model.state == "retired" and not allow_retired:
        raise RegistryError(model.notices[0], where=where, fix="Add --allow-retired to score.")
    if model.state in _UNAPPROVED and not allow_unapproved:
        raise RegistryError(
            f"is {model.state}: nobody has approved it for use",
            where=where,
            fix="Add --allow-unapproved to score all the same.",
        )
    return model


def find_preferred(reference: str, registry: Registry) -> RegisteredModel:
    """A version as named; of a bare name the latest approved, else locked, else the latest.

    Raises
    ------
    RegistryError
        If there is none, or a file of it was changed.
    """
    known = states_of(registry.trail.events(), reference)
    for state in ("approved", "locked"):
        if state in known.values():
            newest = max(version for version, its in known.items() if its == state)
            return registry.find(f"{reference}:{newest}")
    return registry.find(reference)


def _from_registry(model: RegisteredModel) -> ScorableModel:
    return _described(model.bundle, model.name, model.version, model.events)


def _from_archive(path: Path) -> ScorableModel:
    bundle, facts = read_archive(path)
    events = tuple(Event(e.seq, e.previous, e.digest, e.body) for e in facts.events)
    as_of = (
        f"state as of the export at row {facts.head_seq} of the trail, "
        f"{datetime.fromisoformat(facts.head_when):%Y-%m-%d}"
    )
    found = _described(bundle, facts.model, facts.version, events, as_of)
    _require_stated(found, facts, path)
    return found


def _require_stated(found: ScorableModel, facts: RegistryFacts, path: Path) -> None:
    if found.state != facts.state:
        raise RegistryError(
            f"says that the model is {facts.state}; by its events it is {found.state}", where=path
        )


def _described(
    bundle: Bundle, name: str, version: int, events: tuple[Event, ...], as_of: str = ""
) -> ScorableModel:
    move = last_move(events)
    if move is None:
        raise RegistryError("no event says in which state it is", where=f"{name}:{version}")
    reason = str(move.body.get("reason") or "")
    return ScorableModel(bundle, name, version, move.kind, move.when, reason, as_of)
