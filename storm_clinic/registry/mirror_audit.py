"""MLflow's versions, tags and aliases against the trail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storm_clinic.errors import StormClinicError
from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.registry.mirror import TAG
from storm_clinic.registry.trail import Event
from storm_clinic.registry.versions import STATES, states_of
from storm_clinic.tracking.artifact_files import ArtifactFiles
from storm_clinic.tracking.client import MlflowDatabase, mlflow_errors


@dataclass(frozen=True)
class MirroredVersion:
    """A version as MLflow has it.

    Attributes
    ----------
    run_id : str or None
        The training.
    sources : frozenset of str
        URIs from which MLflow would load it.
    tags : dict of str to str
    """

    run_id: str | None
    sources: frozenset[str]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class MirroredModel:
    """A registered model as MLflow has it: versions by number, aliases to numbers."""

    versions: Mapping[int, MirroredVersion]
    aliases: Mapping[str, int]

    @property
    def is_ours(self) -> bool:
        """Whether a version of it was registered by this program."""
        tags = [name for version in self.versions.values() for name in version.tags]
        return any(name.startswith(TAG) for name in tags)


def read_mirror(database: MlflowDatabase) -> dict[str, MirroredModel]:
    """Every registered model of MLflow's database by its name.

    Raises
    ------
    StorageError
        If MLflow refuses.
    """
    with mlflow_errors(database.shown):
        names = [model.name for model in _all(database.client.search_registered_models)]
        return {name: _read_model(database.client, name) for name in names}


def check_mirror(
    events: Sequence[Event], mirror: Mapping[str, MirroredModel], files: ArtifactFiles
) -> list[Finding]:
    """What MLflow has otherwise than the trail says.

    Parameters
    ----------
    events : sequence of Event
        Well formed (`replay.is_well_formed`).
    mirror : dict of name to MirroredModel
        From `read_mirror`.
    files : ArtifactFiles
        Knows which URI of MLflow means which folder of the trail.
    """
    registered = registered_versions(events)
    names = sorted({name for name, _ in registered})
    found = []
    for name in names:
        model = mirror.get(name, MirroredModel({}, {}))
        for number in sorted(set(states_of(events, name)) | set(model.versions)):
            event, version = registered.get((name, number)), model.versions.get(number)
            found += _check_version(f"{name}:{number}", event, version, files)
        found += check_labels(events, name, model)
    for name in sorted(set(mirror) - set(names)):
        if mirror[name].is_ours:
            found += [_unknown(f"{name}:{number}") for number in sorted(mirror[name].versions)]
    return found


def check_labels(events: Sequence[Event], name: str, model: MirroredModel) -> list[Finding]:
    """Tags and aliases of one model: what `registry repair` can put right."""
    found, states = [], states_of(events, name)
    for number, tags in labels_of(events, name).items():
        if number in model.versions:
            for tag, right in tags.items():
                place, there = f"tag {tag} of {name}:{number}", model.versions[number].tags
                found += _differs(Kind.TAG_DIFFERS, place, right, there.get(tag, ""))
    latest = {state: str(number) for number, state in sorted(states.items())}
    # Only aliases that are called like states mirror anything; a team may have others of its own.
    for alias in sorted((set(model.aliases) | set(latest)) & set(STATES)):
        place, leads_to = f"alias {name}@{alias}", str(model.aliases.get(alias, ""))
        found += _differs(Kind.ALIAS_DIFFERS, place, latest.get(alias, ""), leads_to)
    return found


def labels_of(events: Sequence[Event], name: str) -> dict[int, dict[str, str]]:
    """Tags that each version of a model should have."""
    states, registered = states_of(events, name), registered_versions(events)
    return {
        number: {
            f"{TAG}state": states[number],
            f"{TAG}bundle_digest": str(event.body["bundle_digest"]),
        }
        for (of, number), event in sorted(registered.items())
        if of == name
    }


def registered_versions(events: Sequence[Event]) -> dict[tuple[str, int], Event]:
    """The event that registered each version; the first, where a name was used again."""
    found: dict[tuple[str, int], Event] = {}
    for event in events:
        if event.kind == "candidate":
            found.setdefault((str(event.body["model"]), int(event.body["version"])), event)
    return found


def is_other(event: Event, version: MirroredVersion) -> bool:
    """Whether MLflow's version of that number comes from another training."""
    return version.run_id != str(event.body["run_id"])


def _check_version(
    reference: str, event: Event | None, version: MirroredVersion | None, files: ArtifactFiles
) -> list[Finding]:
    if event is None:
        return [_unknown(reference)] if version is not None else []
    if version is None:
        text = f"{reference} is not in MLflow's database any more"
        return [Finding(Kind.VERSION_LOST, reference, text, str(event.body["run_id"]))]
    found = []
    if is_other(event, version):
        text = (
            f"{reference} in MLflow's database comes from another training: the name was "
            "registered anew"
        )
        sides = (str(event.body["run_id"]), str(version.run_id))
        found.append(Finding(Kind.VERSION_OTHER, reference, text, *sides))
    folder = str(event.body["folder"])
    for source in sorted(version.sources):
        if _name(files, source) != folder:
            text = f"{reference} is loaded by MLflow from another place than was registered"
            found.append(Finding(Kind.VERSION_OTHER, reference, text, folder, source))
    return found


def _differs(kind: Kind, place: str, expected: str, found: str) -> list[Finding]:
    if expected == found:
        return []
    text = f"{place} is {found or 'absent'} in MLflow's database; by the trail it is "
    return [Finding(kind, place, text + (expected or "none"), expected, found)]


def _unknown(reference: str) -> Finding:
    text = (
        f"{reference} is in MLflow's database, but no event registered it: it was made by hand "
        "there, or is the rest of a training that was killed. No verb uses it; delete it in MLflow"
    )
    return Finding(Kind.VERSION_UNKNOWN, reference, text)


def _read_model(client: Any, name: str) -> MirroredModel:
    versions = {}
    for version in _all(client.search_model_versions, f"name = '{name}'"):
        loaded_from = client.get_model_version_download_uri(name, version.version)
        sources = frozenset({version.source, loaded_from})
        versions[int(version.version)] = MirroredVersion(
            version.run_id or None, sources, dict(version.tags)
        )
    aliases = client.get_registered_model(name).aliases
    return MirroredModel(versions, {alias: int(number) for alias, number in aliases.items()})


def _all(search: Any, *arguments: str) -> list[Any]:
    """Every page of a search."""
    found, token = [], None
    while True:
        page = search(*arguments, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _name(files: ArtifactFiles, uri: str) -> str | None:
    try:
        return files.name_of(uri)
    except StormClinicError:
        return None
