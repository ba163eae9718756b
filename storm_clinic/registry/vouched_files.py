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
    root: Path, registered: Event, others: Sequence[Event]
) -> tuple[list[Finding], int]:
    """One version's folder, file by file.

    Parameters
    ----------
    root : Path
        The absolute ``mlruns/``.
    registered : Event
        Of kind ``candidate``: names the folder and the digest of every file.
    others : sequence of Event
        Of the same kind, to recognise another version's files in this one's place.

    Returns
    -------
    findings : list of Finding
    n_files : int
        How many files were digested.
    """
    recorded: Mapping[str, str] = registered.body["files"]
    folder = (root / str(registered.body["folder"])).resolve()
    if not folder.is_relative_to(root):
        text = f"{_version(registered)} lies outside mlruns/, at {folder}"
        return [Finding(Kind.FOLDER_OUTSIDE, _version(registered), text, str(root))], 0
    found, strange = _scan(folder)
    findings = [_strange(root, folder / name) for name in sorted(strange)]
    for name in sorted(recorded.keys() | found.keys()):
        if name in strange or recorded.get(name) == found.get(name):
            continue
        findings.append(
            _differs(root, folder / name, recorded.get(name, _ABSENT), found.get(name, _ABSENT))
        )
    weights = {name: digest for name, digest in found.items() if name in _told_apart(recorded)}
    for other in others:
        theirs = _told_apart(other.body["files"])
        if other is not registered and weights and weights == theirs != _told_apart(recorded):
            text = f"{_version(registered)} holds the files of {_version(other)}"
            findings.append(
                Finding(Kind.FILES_SWAPPED, _version(registered), text, _version(registered))
            )
    return findings, len(found)


def check_file(root: Path, path: Path, expected: str) -> list[Finding]:
    """One file by the SHA-256 of its bytes."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return [_strange(root, path)]
    found = _digest(path) if path.exists() else _ABSENT
    return [] if found == expected else [_differs(root, path, expected, found)]


def check_json_file(root: Path, path: Path, expected: str) -> list[Finding]:
    """One file of ours by the digest of its value; its bytes must be those that we write of it."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return [_strange(root, path)]
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
    return [_differs(root, path, expected, found if plain else "the same value, other bytes")]


def shown(root: Path, path: Path) -> str:
    """A path as findings name it: relative to ``mlruns/`` where it lies there."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


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


def _differs(root: Path, path: Path, expected: str, found: str) -> Finding:
    place = shown(root, path)
    if found == _ABSENT:
        return Finding(Kind.FILE_MISSING, place, f"{place} is missing", expected, found)
    if expected == _ABSENT:
        text = f"{place} was not there when the trail recorded its folder"
        return Finding(Kind.FILE_ADDED, place, text, expected, found)
    text = f"{place} was changed since the trail recorded its digest"
    return Finding(Kind.FILE_CHANGED, place, text, expected, found)


def _strange(root: Path, path: Path) -> Finding:
    place = shown(root, path)
    text = f"{place} is a link, or no plain file: what it leads to could change unseen"
    return Finding(Kind.FILE_LINKED, place, text, "a plain file")


def _told_apart(files: Mapping[str, str]) -> dict[str, str]:
    """What makes one version another: its bundle, not what MLflow writes around it."""
    return {name: digest for name, digest in files.items() if name.startswith("data/bundle/")}


def _version(event: Event) -> str:
    return f"{event.body['model']}:{event.body['version']}"
