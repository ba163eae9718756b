"""`registry export`: one version as one file, to score on a machine without the registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storm_clinic.bundle.archive import RecordedEvent, RegistryFacts, export_bundle
from storm_clinic.errors import InputError
from storm_clinic.files import Workspace, digest_file
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.versions import Referring, reference_of
from storm_clinic.steps.scorable_model import ARCHIVE_SUFFIX, find_preferred


@dataclass(frozen=True)
class ExportedModel:
    """An archive that was written.

    Attributes
    ----------
    path : Path
    digest : str
        SHA-256 of the file. Kept elsewhere, it shows any later change, whoever makes it.
    reference, state : str
        The version, and its state as of the export.
    facts : RegistryFacts
    """

    path: Path
    digest: str
    reference: str
    state: str
    facts: RegistryFacts


def export_model(
    model: str | Referring, out: str | Path, *, workspace: Workspace | None = None
) -> ExportedModel:
    """Write one archive with everything that scoring needs.

    Parameters
    ----------
    model : str, or what `train`, `lock` or `validate` gave
        ``name:version``, ``name@state``, or ``name``: the latest approved version, else the
        latest locked one, else the latest.
    out : path
        The archive; its name ends in ``.zip``.
    workspace : Workspace, optional
        The current folder by default.

    Raises
    ------
    RegistryError
        If there is no such version, or a byte of it was changed.
    StorageError
        If the archive cannot be written.
    """
    workspace = workspace or Workspace()
    path = workspace.path(out)
    if path.suffix != ARCHIVE_SUFFIX:
        raise InputError(f"must end in {ARCHIVE_SUFFIX}", where=path)
    registry = Registry(workspace)
    events = registry.trail.events()  # before the version, which may move on meanwhile
    found = find_preferred(reference_of(model), registry)
    head = events[-1]
    facts = RegistryFacts(
        model=found.name,
        version=found.version,
        state=found.state,
        head_seq=head.seq,
        head_digest=head.digest,
        head_when=head.when.isoformat(timespec="microseconds"),
        events=tuple(RecordedEvent(e.seq, e.previous, e.digest, e.body) for e in found.events),
    )
    export_bundle(found.bundle, facts, path)
    return ExportedModel(path, digest_file(path), found.reference, found.state, facts)
