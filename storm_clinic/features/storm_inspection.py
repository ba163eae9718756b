"""Look at every value of a folder of STORM files, and say what is wrong and what is odd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from storm_clinic.errors import ContractMismatch, FeatureError, InputError
from storm_clinic.features.guarded_file import AGAIN, attributes_of, opened, text_of
from storm_clinic.features.inspection import Finding
from storm_clinic.features.slide_features import Array, digest_rows
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.features.storm_expression import tile_values
from storm_clinic.features.storm_header import read_header
from storm_clinic.features.storm_store import StormStore
from storm_clinic.progress import Progress

_ROWS = 1024


def inspect_storm(folder: Path, *, progress: Progress | None = None) -> list[Finding]:
    """Read every file of a folder of STORM files and check it.

    Codes: ``contract`` (of another checkpoint or geometry), ``unreadable`` (damaged, renamed, not
    finite) and, as a warning, ``out of domain`` (unlike the checkpoint's training data).

    Parameters
    ----------
    folder : Path
        With a contract.
    progress : callable, optional
        Called with a name, the number of slides done and their total.

    Raises
    ------
    FeatureError
        If the folder has no contract.
    """
    contract = StormContract.read(folder)
    paths = sorted(folder.glob("*.h5"))
    found: list[Finding] = []
    for done, path in enumerate(paths, start=1):
        found += _inspect(path, contract)
        if progress is not None:
            progress("checking STORM files", done, len(paths))
    return found


def describe_storm(folder: Path) -> dict[str, Any]:
    """One row of `features list` for a folder of STORM files; values are not read."""
    try:
        contract = StormContract.read(folder)
    except FeatureError as error:
        return {"problem": error.problem}
    paths = sorted(folder.glob("*.h5"))
    headers, unusable = [], 0
    for path in paths:
        try:
            headers.append(read_header(path))
        except FeatureError:
            unusable += 1
    n_outside = sum(header.domain_warning is not None for header in headers)
    return {
        "slides": len(headers),
        "tiles": sum(header.n_tiles for header in headers),
        "failed_tiles": 0,
        "unusable": unusable,
        "width": contract.width,
        "dtype": "float16",
        "mpp": contract.mpp,
        "tile_px": contract.tile_px,
        "overlap_px": contract.overlap_px,
        "provenance": "extracted",
        "gigabytes": sum(path.stat().st_size for path in paths) / 1e9,
        "contract": contract.digest[:12],
        "problem": f"{n_outside} slides out of domain" if n_outside else None,
    }


def _inspect(path: Path, contract: StormContract) -> Iterator[Finding]:
    try:
        header = read_header(path)
        store = StormStore(path.parent, header.contract, {path.stem: header})
        _require(contract, header.contract.encoder_digest, header.contract.width, path)
        store.read(path.stem)
        if contract.n_genes:
            n_genes = len(store.genes(path.stem))
            if n_genes != contract.n_genes:
                raise ContractMismatch(f"{n_genes} genes, not {contract.n_genes}", where=path)
        if contract.per_tile:
            _check_values(path)
    except ContractMismatch as error:
        yield Finding(path.stem, "error", "contract", error.problem)
        return
    except InputError as error:
        yield Finding(path.stem, "error", "unreadable", str(error))
        return
    if header.domain_warning is not None:
        yield Finding(path.stem, "warning", "out of domain", header.domain_warning)


def _require(contract: StormContract, digest: str | None, width: int, path: Path) -> None:
    for name, ours, theirs in (
        ("checkpoint_digest", contract.checkpoint_digest, digest),
        ("width", contract.width, width),
    ):
        if ours != theirs:
            raise ContractMismatch(f"{name} is {theirs!r}, not {ours!r}", where=path)


def _check_values(path: Path) -> None:
    with opened(path) as file:
        dataset = tile_values(file, path)
        found = digest_rows(_blocks(dataset), dataset.dtype, dataset.shape)
        if found != text_of(attributes_of(dataset, path), path, "sha256"):
            raise FeatureError(
                "its values are not those that were written (SHA-256 differs)",
                where=f"{path}: expression/values",
                fix=AGAIN,
            )


def _blocks(dataset: h5py.Dataset) -> Iterator[Array]:
    return (dataset[first : first + _ROWS] for first in range(0, len(dataset), _ROWS))
