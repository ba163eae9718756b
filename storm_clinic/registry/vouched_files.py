"""Files on disk against the digests that the trail has of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from storm_clinic.files import digest_file, digest_value, json_text
from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.registry.mirror import NOT_OURS
from storm_clinic.registry.trail import Event

_ABSENT = "absent"


def check_version_files(
    folder: Path, registered: Event, others: Sequence[Event]
) -> tuple[list[Finding], int]:
    """One version's folder, file by file.

    Parameters
    ----------
    folder : Path
        Of this machine, with the version's files.
    registered : Event
        Of kind ``candidate``: names the files' place and the digest of each.
    others : sequence of Event
        Of the same kind, to recognise another version's files in this one's place.

    Returns
    -------
    findings : list of Finding
    n_files : int
        How many files were digested.
    """
    recorded: Mapping[str, str] = registered.body["files"]
    name = str(registered.body["folder"])
    found, strange = _scan(folder)
    findings = [_strange(f"{name}/{path}") for path in sorted(strange)]
    for path in sorted(recorded.keys() | found.keys()):
        expected, there = recorded.get(path, _ABSENT), found.get(path, _ABSENT)
        if path not in strange and expected != there:
            findings.append(_differs(f"{name}/{path}", expected, there))
    bundle = _told_apart(found)
    for other in others:
        if bundle and bundle == _told_apart(other.body["files"]) != _told_apart(recorded):
            version, instead = _version(registered), _version(other)
            text = f"{version} holds the files of {instead}"
            findings.append(Finding(Kind.FILES_SWAPPED, version, text, version, instead))
    return findings, len(found)


def check_run_files(
    folder: Path, name: str, recorded: Mapping[str, str], *, but: frozenset[str]
) -> list[Finding]:
    """Every file of a run but some; ``name`` is how findings call its folder."""
    found, strange = _scan(folder)
    findings = [_strange(f"{name}/{path}") for path in sorted(strange - but)]
    for path in sorted((recorded.keys() | found.keys()) - strange - but):
        expected, there = recorded.get(path, _ABSENT), found.get(path, _ABSENT)
        if expected != there:
            findings.append(_differs(f"{name}/{path}", expected, there))
    return findings


def check_file(path: Path, name: str, expected: str) -> list[Finding]:
    """One file by the SHA-256 of its bytes; ``name`` is how findings call it."""
    if _is_strange(path):
        return [_strange(name)]
    found = _digest(path) if path.exists() else _ABSENT
    return [] if found == expected else [_differs(name, expected, found)]


def check_json_file(path: Path, name: str, expected: str) -> list[Finding]:
    """One file of ours by the digest of its value; its bytes must be those that we write of it."""
    if _is_strange(path):
        return [_strange(name)]
    try:
        data = path.read_bytes()
        value = json.loads(data)
        found, plain = digest_value(value), json_text(value).encode() == data
    except FileNotFoundError:
        found, plain = _ABSENT, True
    except (OSError, ValueError) as error:
        found, plain = f"unreadable: {error}", True
    if found == expected and plain:
        return []
    return [_differs(name, expected, found if plain else "the same value, other bytes")]


def _scan(folder: Path) -> tuple[dict[str, str], set[str]]:
    """Digest of every plain file, and the names of what is none; links are not followed."""
    digests: dict[str, str] = {}
    strange: set[str] = set()
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(here, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                strange.add(relative)
            elif path.is_file() and relative != NOT_OURS:
                digests[relative] = _digest(path)
    return digests, strange


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _is_strange(path: Path) -> bool:
    return path.is_symlink() or (path.exists() and not path.is_file())


def _differs(place: str, expected: str, found: str) -> Finding:
    if found == _ABSENT:
        return Finding(Kind.FILE_MISSING, place, f"{place} is missing", expected, found)
    if expected == _ABSENT:
        text = f"{place} was not there when the trail recorded its folder"
        return Finding(Kind.FILE_ADDED, place, text, expected, found)
    text = f"{place} was changed since the trail recorded its digest"
    return Finding(Kind.FILE_CHANGED, place, text, expected, found)


def _strange(place: str) -> Finding:
    text = f"{place} is a link, or no plain file: what it leads to could change unseen"
    return Finding(Kind.FILE_LINKED, place, text, "a plain file")


def _told_apart(files: Mapping[str, str]) -> dict[str, str]:
    """What makes one version another: its bundle, not what MLflow writes around it."""
    return {name: digest for name, digest in files.items() if name.startswith("data/bundle/")}


def _version(event: Event) -> str:
    return f"{event.body['model']}:{event.body['version']}"
