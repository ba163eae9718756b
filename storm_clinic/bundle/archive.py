"""A bundle and its registry's record as one plain zip file, to score where there is no registry.

=========================  ================================================================
``card.md``                the bundle's files, byte for byte
``manifest.json``
``model.safetensors``
``reference.safetensors``  only where the bundle has one
``registry.json``          the trail's events of this version, and where the trail stood
=========================  ================================================================

Members are stored, not compressed, in the order of their names, without times: equal content is
equal bytes, so that a reader can make the file again and refuse whatever differs in a single bit.
"""

from __future__ import annotations

import io
import json
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from storm_clinic.bundle.folder import CARD, MANIFEST, REFERENCE, TENSORS, Bundle, read_bundle
from storm_clinic.errors import RegistryError
from storm_clinic.files import atomic_write, digest_bytes, parse_json

REGISTRY = "registry.json"
REQUIRED = tuple(sorted((CARD, MANIFEST, TENSORS, REGISTRY)))
MEMBERS = tuple(sorted((*REQUIRED, REFERENCE)))

_FORMAT = "storm_clinic/model-archive"
_VERSION = 1
_MOST_BYTES = (1 << 32) - (1 << 20)  # above this a zip file has another form
_MOST_TEXT_BYTES = 64 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class RecordedEvent:
    """One row of the trail, as it was there."""

    seq: int
    previous: str
    digest: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class RegistryFacts:
    """What the registry said of a version when it was exported.

    Attributes
    ----------
    model, version : str, int
        Which version.
    state : str
        By its last move, as of the export: whether it was retired since is not known here.
    head_seq, head_digest, head_when : int, str, str
        The last row of the whole trail at the export: "as of".
    events : tuple of RecordedEvent
        Of this version, oldest first.
    """

    model: str
    version: int
    state: str
    head_seq: int
    head_digest: str
    head_when: str
    events: tuple[RecordedEvent, ...]


def export_bundle(bundle: Bundle, facts: RegistryFacts, path: Path) -> Path:
    """Write a bundle and its facts as one archive, read it back, and only then name it ``path``.

    Raises
    ------
    RegistryError
        If the bundle's files are not those that were read, or are too large for a plain zip.
    StorageError
        If it cannot be written.
    """
    files = {path.name: path for path in bundle.folder.iterdir()}
    contents = {name: files[name].read_bytes() for name in MEMBERS if name in files}
    contents[REGISTRY] = _registry_bytes(facts)
    if sum(map(len, contents.values())) > _MOST_BYTES:
        raise RegistryError("is larger than 4 GB, which one archive cannot hold", where=path)
    data = _packed(contents)
    with atomic_write(path) as part:
        part.write_bytes(data)
        read_archive(part, expected_digest=bundle.digest)
    return path


def read_archive(path: Path, *, expected_digest: str | None = None) -> tuple[Bundle, RegistryFacts]:
    """Read an archive, verifying every byte. Nothing in it can run code or leave this function.

    Parameters
    ----------
    path : Path
        What `export_bundle` wrote.
    expected_digest : str, optional
        The bundle's, where it is known from elsewhere.

    Returns
    -------
    Bundle
        Its ``folder`` is the archive.
    RegistryFacts
        As of the export. Every event is held against its own digest; that none was left out, and
        that the chain is the registry's, only the registry itself can tell.

    Raises
    ------
    RegistryError
        Naming the member at fault: unexpected, doubled, encrypted, compressed, a link, too large,
        changed.
    """
    contents = _members(_bytes_of(path), path)
    facts = _facts(contents.pop(REGISTRY), path)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        for name, data in contents.items():  # names are our own, so none leads elsewhere
            (folder / name).write_bytes(data)
        try:
            bundle = read_bundle(folder, expected_digest=expected_digest)
        except RegistryError as error:
            at = Path(error.where).name if error.where else "bundle"
            raise RegistryError(error.problem, where=f"{path}: {at}", fix=_FIX) from error
    named = {event.body.get("bundle_digest", bundle.digest) for event in facts.events}
    if named != {bundle.digest} or bundle.study.study != facts.model:
        raise RegistryError("its record is of another bundle", where=f"{path}: {REGISTRY}")
    return replace(bundle, folder=path), facts


_FIX = "Export it again with 'storm-clinic registry export'."


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES + (1 << 20):
            raise RegistryError("is larger than 4 GB, which no archive of ours is", where=path)
        return path.read_bytes()
    except OSError as error:
        raise RegistryError(f"cannot be read: {error.strerror}", where=path) from error


def _members(data: bytes, path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                _check_member(info, len(data), path)
            names = archive.namelist()
            for name in MEMBERS:
                if names.count(name) > 1 or (name in REQUIRED and name not in names):
                    problem = "is there twice" if name in names else "is missing"
                    raise RegistryError(problem, where=f"{path}: {name}", fix=_FIX)
            contents = {name: archive.read(name) for name in names}
    # Which of these it is depends on where the damage lies.
    except (
        zipfile.BadZipFile,
        EOFError,
        ValueError,
        OverflowError,
        NotImplementedError,
        RuntimeError,
        OSError,
    ) as error:
        raise RegistryError(f"is no archive of a model: {error}", where=path, fix=_FIX) from error
    if _packed(contents) != data:
        raise RegistryError(
            "was changed: it holds more than its members, or was packed by another program",
            where=path,
            fix=_FIX,
        )
    return contents


def _check_member(info: zipfile.ZipInfo, n_bytes: int, path: Path) -> None:
    """Refuse, before a byte of it is unpacked, what `export_bundle` never writes."""
    problem = None
    # The name as it stands in the file: zipfile cuts it at a NUL.
    if info.orig_filename not in MEMBERS:
        problem = "does not belong in an archive of a model"
    elif info.flag_bits & _ENCRYPTED:
        problem = "is encrypted"
    elif stat.S_ISLNK(info.external_attr >> 16):
        problem = "is a link"
    elif info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        problem = "is compressed; ours are stored as they are"
    elif info.file_size > (n_bytes if info.filename in (TENSORS, REFERENCE) else _MOST_TEXT_BYTES):
        problem = f"says that it has {info.file_size} bytes, which is too large"
    if problem:
        raise RegistryError(problem, where=f"{path}: {info.orig_filename!r}", fix=_FIX)


def _packed(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # as on Unix, wherever it is written
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, contents[name])
    return buffer.getvalue()


def _registry_bytes(facts: RegistryFacts) -> bytes:
    document = {"format": _FORMAT, "format_version": _VERSION, **asdict(facts)}
    return (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _facts(data: bytes, path: Path) -> RegistryFacts:
    where = f"{path}: {REGISTRY}"
    try:
        document = parse_json(data)
        form = (document.pop("format"), document.pop("format_version"))
        if form != (_FORMAT, _VERSION):
            raise RegistryError(
                f"is of the form {form[0]} {form[1]}, this version reads {_FORMAT} {_VERSION}",
                where=where,
                fix="Update storm-clinic.",
            )
        events = tuple(RecordedEvent(**event) for event in document.pop("events"))
        facts = RegistryFacts(**document, events=events)
        for event in events:
            _check_event(event, facts, where)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RegistryError(f"is no record of a version: {error}", where=where) from error
    if not events or _registry_bytes(facts) != data:
        raise RegistryError("was edited: it is not as it was written", where=where, fix=_FIX)
    return facts


def _check_event(event: RecordedEvent, facts: RegistryFacts, where: str) -> None:
    # The formula of docs/registry.md: an archive is checked without a registry.
    body = json.dumps(event.body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = digest_bytes(f"{event.seq}\n{event.previous}\n{body}".encode())
    about = (event.body["model"], event.body["version"])
    if digest != event.digest or about != (facts.model, facts.version):
        raise RegistryError(
            f"event {event.seq} was edited: its digest does not fit its content, or it is of "
            "another version",
            where=where,
            fix=_FIX,
        )
