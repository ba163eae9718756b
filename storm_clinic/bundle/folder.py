"""Writing and reading a bundle: three or four files, every byte of them digested.

=========================  ================================================================
``model.safetensors``      arrays of every model, named ``<model>/<array>``
``reference.safetensors``  how development looks in feature space, named ``<input>/<array>``;
                           absent where no model sees tiles, and from bundles of format 1
``manifest.json``          what the models are, the digests of the other files, and its own
``card.md``                the model card, generated from the manifest
=========================  ================================================================
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from storm_clinic.bundle.card import write_card
from storm_clinic.bundle.manifest import Manifest
from storm_clinic.bundle.tensors import Arrays, pack_tensors, unpack_tensors
from storm_clinic.errors import FeatureError, RegistryError, StorageError
from storm_clinic.features.reference import FeatureReference
from storm_clinic.files import (
    atomic_write,
    digest_bytes,
    digest_value,
    parse_json,
    storage_errors,
)
from storm_clinic.study import Study

FORMAT = "storm_clinic/bundle"
VERSION = 2
READABLE = (1, 2)
MANIFEST = "manifest.json"
TENSORS = "model.safetensors"
REFERENCE = "reference.safetensors"
CARD = "card.md"

State = tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle in memory.

    Attributes
    ----------
    folder : Path
        Where it was read.
    digest : str
        SHA-256 over everything in it: two bundles with one digest are the same model.
    manifest : Manifest
        What it declares.
    study : Study
        The study it answers.
    settings : dict of model name to dict
        What each model's ``state()`` gave beside its arrays.
    arrays : dict of model name to dict of array name to array
        Weights, scalers, baseline hazards.
    references : mapping of input to FeatureReference
        How development's patients look in what models see of slides; empty where no model sees
        slides, in older bundles, and where ``manifest.without_reference`` has the reason.
    """

    folder: Path
    digest: str
    manifest: Manifest
    study: Study
    settings: dict[str, dict[str, Any]]
    arrays: dict[str, Arrays]
    references: Mapping[str, FeatureReference] = field(default_factory=dict)

    @property
    def reference(self) -> FeatureReference | None:
        """How development's mean tile embeddings look; None where there is no such record."""
        return self.references.get("image")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models inside, the candidate first."""
        others = [spec.name for spec in self.study.models if spec.name in self.settings]
        return (self.study.candidate, *[name for name in others if name != self.study.candidate])

    def restore(self, model: str | None = None) -> Any:
        """The fitted model of that name (default: the candidate), as `heads.zoo.restore` gives.

        Raises
        ------
        RegistryError
            If the bundle holds no such model.
        """
        # Brings torch along, which reading a bundle does not need.
        from storm_clinic.heads.zoo import restore

        name = model or self.study.candidate
        if name not in self.settings:
            raise RegistryError(
                f"holds no model {name!r}; it holds {', '.join(self.models)}", where=self.folder
            )
        head = self.study.model(name).head
        return restore(head, self.arrays[name], self.settings[name])

    def risk_group(self, model: str, risk: NDArray[np.float64]) -> NDArray[np.int64]:
        """Risk group of each patient, 0 = lowest, by thresholds fixed on development data.

        A risk equal to a threshold belongs to the group above it.
        """
        return np.digitize(risk, self.manifest.risk_thresholds[model]).astype(np.int64)


def required_models(study: Study) -> tuple[str, ...]:
    """Models that a bundle must hold: candidate, clinical comparator, comparators of claims."""
    comparators = [claim.over for claim in study.claims if claim.over is not None]
    clinical = [] if study.comparator is None else [study.comparator.name]
    return tuple(dict.fromkeys([study.candidate, *clinical, *comparators]))


def write_bundle(
    folder: Path,
    models: Mapping[str, State],
    manifest: Manifest,
    *,
    references: Mapping[str, FeatureReference] | None = None,
    performance: str = "",
) -> Bundle:
    """Write a new bundle and return it as read back.

    Parameters
    ----------
    folder : Path
        Must not exist; appears whole or not at all.
    models : dict of model name to (arrays, settings)
        What ``FittedModel.state()`` gave, at least for `required_models`.
    manifest : Manifest
        What is declared of them.
    references : mapping of input to FeatureReference, optional
        How development's patients look in feature space.
    performance : str
        Markdown for the card: a table with where its numbers come from.

    Raises
    ------
    RegistryError
        If a required model or its thresholds are missing, a model is not of the study, or a
        state holds anything but numbers and JSON.
    StorageError
        If the folder exists or cannot be written.
    """
    study = manifest.read_study()
    _check_models(models, manifest, study)
    files = {
        TENSORS: pack_tensors({model: arrays for model, (arrays, _) in models.items()}),
        CARD: write_card(manifest, study, tuple(models), performance).encode(),
    }
    if references:
        files[REFERENCE] = pack_tensors({name: r.to_arrays() for name, r in references.items()})
    document = {
        "format": FORMAT,
        "format_version": VERSION,
        "models": {name: {"settings": dict(settings)} for name, (_, settings) in models.items()},
        "manifest": manifest.to_json(),
        "files": {name: digest_bytes(data) for name, data in files.items()},
    }
    try:
        digest = digest_value(document)
        files[MANIFEST] = _canonical(document | {"bundle_digest": digest})
    except (TypeError, ValueError) as error:
        raise RegistryError(f"settings that are no JSON: {error}", where="models") from error
    _write_folder(folder, files)
    return read_bundle(folder, expected_digest=digest)


def read_bundle(folder: Path, *, expected_digest: str | None = None) -> Bundle:
    """Read a bundle, verifying every byte. Nothing in it can run code.

    Raises
    ------
    RegistryError
        If a file is missing, not expected, a link or changed, the format is newer than this
        program, or the bundle's digest is not ``expected_digest``.
    """
    data = _read_files(folder)
    document = _read_document(data[MANIFEST], folder / MANIFEST)
    digest = document.pop("bundle_digest")
    if digest_value(document) != digest:
        raise _changed(folder / MANIFEST, "was edited: its digest does not fit its content")
    for name in sorted(document["files"].keys() - data.keys()):
        raise _changed(folder / name, "is missing")
    for name in sorted(data.keys() - {MANIFEST}):
        if digest_bytes(data[name]) != document["files"].get(name):
            raise _changed(folder / name, "is not the file that the manifest names")
    if expected_digest is not None and digest != expected_digest:
        raise _changed(
            folder, f"is another bundle: its digest is {digest}, expected is {expected_digest}"
        )
    return _assemble(folder, digest, document, data)


def _assemble(
    folder: Path, digest: str, document: dict[str, Any], data: Mapping[str, bytes]
) -> Bundle:
    try:
        manifest = Manifest.model_validate(document["manifest"])
        settings = {name: dict(entry["settings"]) for name, entry in document["models"].items()}
        # The very bytes that were digested, not the file again.
        arrays = unpack_tensors(data[TENSORS])
        kept = unpack_tensors(data[REFERENCE]) if REFERENCE in data else {}
        references = {name: FeatureReference.from_arrays(found) for name, found in kept.items()}
    except (
        *(KeyError, TypeError, ValueError, AttributeError),  # of pydantic, too
        *(SafetensorError, FeatureError),
    ) as error:
        raise RegistryError(f"is not a bundle of this format: {error}", where=folder) from error
    for name in sorted(arrays.keys() - settings.keys()):
        raise RegistryError(f"arrays {name!r} belong to no model", where=folder / TENSORS)
    arrays = {name: arrays.get(name, {}) for name in settings}
    study = manifest.read_study()
    _check_models(settings, manifest, study)
    return Bundle(folder, digest, manifest, study, settings, arrays, references)


def _check_models(models: Collection[str], manifest: Manifest, study: Study) -> None:
    known = {spec.name for spec in study.models}
    for name in (*required_models(study), *models):
        if name not in models or name not in known:
            problem = "is not given" if name in known else "is no model of the study"
            raise RegistryError(f"model {name!r} {problem}", where="bundle")
        if name not in manifest.risk_thresholds:
            raise RegistryError(
                f"model {name!r} has no risk thresholds from development data", where="bundle"
            )


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    if folder.exists():
        raise StorageError("exists already", where=folder, fix="Bundles are never overwritten.")
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    with storage_errors(folder):
        part.mkdir(parents=True)
        try:
            for name, data in files.items():
                with atomic_write(part / name) as path:
                    path.write_bytes(data)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _read_files(folder: Path) -> dict[str, bytes]:
    required = {MANIFEST, TENSORS, CARD}
    try:
        if folder.is_symlink():
            raise _changed(folder, "is a link, not a folder")
        entries = list(os.scandir(folder))
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name not in required | {REFERENCE}:
                raise _changed(folder / entry.name, "does not belong in a bundle")
            if not entry.is_file(follow_symlinks=False):
                raise _changed(folder / entry.name, "is no plain file")
        missing = sorted(required - {entry.name for entry in entries})
        if missing:
            raise _changed(folder / missing[0], "is missing")
        return {entry.name: (folder / entry.name).read_bytes() for entry in entries}
    except OSError as error:
        raise RegistryError(f"cannot be read: {error.strerror}", where=folder) from error


def _read_document(data: bytes, path: Path) -> dict[str, Any]:
    try:
        document = parse_json(data)
    except (UnicodeDecodeError, ValueError) as error:
        raise _changed(path, f"is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RegistryError("is not the manifest of a bundle", where=path)
    if document.get("format_version") not in READABLE:
        raise RegistryError(
            f"format_version {document.get('format_version')!r} is not "
            f"{' or '.join(map(str, READABLE))}, which this version reads",
            where=path,
            fix="Update storm-clinic.",
        )
    required = {"format", "format_version", "models", "manifest", "files", "bundle_digest"}
    if set(document) != required or not isinstance(document["files"], dict):
        raise _changed(path, "lacks a field, or holds one that is unknown")
    # Values alone would leave spaces, key order and doubled keys open to editing.
    if _canonical(document) != data:
        raise _changed(path, "was edited: it is not as it was written")
    return document


def _canonical(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def _changed(where: Path, problem: str) -> RegistryError:
    return RegistryError(problem, where=where, fix="Restore the bundle as it was written.")
