"""Bring embeddings that others made into a feature store, under what the importer declares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from storm_clinic.errors import FeatureError, InputError
from storm_clinic.features.declaration import (
    Declaration,
    contradiction,
    declared_contract,
    most_common,
)
from storm_clinic.features.foreign_description import ForeignFile
from storm_clinic.features.foreign_file import SUFFIXES, describe_foreign, read_foreign
from storm_clinic.features.foreign_reading import ForeignReading
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.features.slide_features import SlideFeatures, digest_array
from storm_clinic.features.store import FeatureContract, FeatureStore
from storm_clinic.files import safe_name
from storm_clinic.progress import Progress

IMPORTED, UNCHANGED, FAILED = "imported", "unchanged", "failed"
NOT_IN_COHORT, NO_FILE = "not in cohort", "no file"
_COLUMNS = ("slide_id", "status", "n_tiles", "reason", "stated", "source")


@dataclass(frozen=True, eq=False)
class ImportResult:
    """What became of each source.

    Attributes
    ----------
    store : FeatureStore
    table : DataFrame
        One row a source or expected slide: ``slide_id``, ``status`` (imported, unchanged, failed,
        not in cohort, no file), ``n_tiles``, ``reason``, ``stated`` (what the file says of itself)
        and ``source``.
    """

    store: FeatureStore
    table: pd.DataFrame

    def count(self, status: str) -> int:
        """Rows of that status."""
        return int((self.table["status"] == status).sum())

    @property
    def failures(self) -> pd.DataFrame:
        """Rows that failed, with their reasons."""
        return self.table[self.table["status"] == FAILED].reset_index(drop=True)

    @property
    def exit_code(self) -> int:
        """0 if no source failed, else 3."""
        return 3 if self.count(FAILED) else 0


def import_slides(
    sources: Iterable[str | Path],
    folder: Path,
    declaration: Declaration,
    *,
    slides: Collection[str] | None = None,
    slide_mpps: Mapping[str, float] | None = None,
    limits: TimeLimits | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Import feature files into the store at ``folder``.

    A file that cannot be used becomes a row with its reason and stops nothing, and neither does one
    over which the process that reads it hangs or dies. What is already there with the same values
    is left alone; other values under the same slide id are refused.

    Parameters
    ----------
    sources : paths
        Files (``.h5``, ``.hdf5``, ``.h5ad``, ``.pt``) or folders of them. The file's name is the
        slide's id, but where the rows of an ``.h5ad`` are slides.
    folder : Path
        Of the store; made if absent.
    declaration : Declaration
        Encoder and geometry.
    slides : collection of str, optional
        Slide ids of the cohort: others are not imported, and those without a file are listed.
    slide_mpps : mapping of str to float, optional
        µm per level-0 px of slides whose files do not state it; needed for places in µm.
    limits : TimeLimits, optional
        Of which ``task_s`` is for looking at a file, and again for reading it.
    progress : callable, optional
        Called with a name, the number done and the total.

    Raises
    ------
    FeatureError
        If there is no source, none can be used, or the geometry is neither declared nor stated;
        the message names the flag to add.
    ContractMismatch
        If the store there holds features made in another way.
    StorageError
        If the disk is full or the folder may not be written.
    """
    with ForeignReading(limits) as reading:
        files, rows = _describe(find_sources(sources), reading)
        files, rows = _only_once(files, rows)
        if slides is not None:
            files, rows = _only_of_cohort(files, rows, slides)
        if not files:
            raise FeatureError(
                f"none of the {len(rows)} sources can be imported; the first: {rows[0]['reason']}",
                where="features import",
            )
        agreed = declared_contract(files, declaration)
        files, rows = _only_agreeing(files, rows, agreed, declaration)
        store = FeatureStore.create(folder, agreed)
        held = store.index().set_index("slide_id")
        for done, file in enumerate(files, start=1):
            rows.append(_import_one(file, store, held, slide_mpps or {}, reading))
            if progress is not None:
                progress("importing slides", done, len(files))
        store.index()
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).sort_values(["slide_id", "source"])
    return ImportResult(store, table.reset_index(drop=True))


def find_sources(sources: Iterable[str | Path]) -> list[Path]:
    """Feature files among the paths and directly inside the folders among them, sorted.

    Raises
    ------
    FeatureError
        If a path does not exist, or a folder holds no such file.
    """
    found: set[Path] = set()
    for source in map(Path, sources):
        if source.is_dir():
            inside = [path for path in source.iterdir() if path.suffix in SUFFIXES]
            if not inside:
                raise FeatureError(
                    f"holds no file ending in {', '.join(SUFFIXES)}",
                    where=source,
                    fix="Name the folder in which the files themselves lie.",
                )
            found.update(inside)
        elif source.suffix not in SUFFIXES or not source.exists():
            problem = "there is no such file" if not source.exists() else "not a feature file"
            raise FeatureError(problem, where=source, fix=f"Expected: {', '.join(SUFFIXES)}.")
        else:
            found.add(source)
    if not found:
        raise FeatureError("no source was named", where="features import")
    return sorted(found)


def _row(file: ForeignFile, status: str, reason: str | None = None) -> dict[str, Any]:
    values = (file.slide_id, status, file.n_tiles, reason, file.stated(), str(file.path))
    return dict(zip(_COLUMNS, values, strict=True))


def _describe(
    paths: Sequence[Path], reading: ForeignReading
) -> tuple[list[ForeignFile], list[dict[str, Any]]]:
    files, rows = [], []
    for path in paths:
        slide_id = path.name.removesuffix(path.suffix)
        try:
            found = reading.call(describe_foreign, path)
            for file in found:
                safe_name(file.slide_id, what=str(path))
            files += found
        except InputError as error:
            values = (slide_id, FAILED, 0, str(error), "", str(path))
            rows.append(dict(zip(_COLUMNS, values, strict=True)))
    return files, rows


def _only_once(
    files: list[ForeignFile], rows: list[dict[str, Any]]
) -> tuple[list[ForeignFile], list[dict[str, Any]]]:
    """Refuse every file of a slide that several files claim: nothing says which is meant."""
    counts = Counter(file.slide_id for file in files)
    twice = [file for file in files if counts[file.slide_id] > 1]
    for file in twice:
        others = [str(f.path) for f in twice if f.slide_id == file.slide_id and f is not file]
        reason = f"{', '.join(others)} is of the same slide; name one of them"
        rows.append(_row(file, FAILED, reason))
    return [file for file in files if counts[file.slide_id] == 1], rows


def _only_of_cohort(
    files: list[ForeignFile], rows: list[dict[str, Any]], slides: Collection[str]
) -> tuple[list[ForeignFile], list[dict[str, Any]]]:
    wanted = set(slides)
    inside = [file for file in files if file.slide_id in wanted]
    if files and not inside:
        raise FeatureError(
            f"none of the {len(files)} files is named after a slide of the cohort: "
            f"{files[0].slide_id!r} is a file, {min(wanted, default='')!r} is a slide",
            where="features import",
            fix="A file must be named <slide_id>.h5 or <slide_id>.pt.",
        )
    outside = [file for file in files if file.slide_id not in wanted]
    rows += [_row(file, NOT_IN_COHORT, "the cohort has no such slide") for file in outside]
    known = {file.slide_id for file in inside} | {row["slide_id"] for row in rows}
    for slide_id in sorted(wanted - known):
        values = (slide_id, NO_FILE, 0, "no source is named after this slide", "", "")
        rows.append(dict(zip(_COLUMNS, values, strict=True)))
    return inside, rows


def _only_agreeing(
    files: list[ForeignFile],
    rows: list[dict[str, Any]],
    agreed: FeatureContract,
    declaration: Declaration,
) -> tuple[list[ForeignFile], list[dict[str, Any]]]:
    """Set aside files that contradict the declaration or the other files."""
    encoder = most_common(file.encoder for file in files if file.encoder is not None)
    kept = []
    for file in files:
        reason = contradiction(file, agreed, declaration, encoder)
        if reason is None:
            kept.append(file)
        else:
            rows.append(_row(file, FAILED, reason))
    if not kept:
        raise FeatureError(
            f"{rows[-len(files)]['reason']}; none of the {len(files)} files fits what was declared",
            where=files[0].path,
            fix="Correct the flag, or import these files apart.",
        )
    return kept, rows


def _import_one(
    file: ForeignFile,
    store: FeatureStore,
    held: pd.DataFrame,
    slide_mpps: Mapping[str, float],
    reading: ForeignReading,
) -> dict[str, Any]:
    slide_mpp = file.slide_mpp or slide_mpps.get(file.slide_id)
    try:
        features, coords = reading.call(read_foreign, file.path, slide_mpp=slide_mpp, row=file.row)
        if file.slide_id in held.index:
            return _compare(file, features, coords, held.loc[file.slide_id], store)
        store.write(
            SlideFeatures(
                slide_id=file.slide_id,
                features=features,
                coords=coords,
                **_slide_scale(file, store.contract, slide_mpp),
            )
        )
    except InputError as error:
        return _row(file, FAILED, str(error))
    return _row(file, IMPORTED)


def _slide_scale(
    file: ForeignFile, contract: FeatureContract, slide_mpp: float | None
) -> dict[str, Any]:
    """The slide's own µm/px: as stated, or from the tile's side in level-0 px beside its size."""
    if slide_mpp is not None:
        return {"slide_mpp": slide_mpp, "slide_mpp_source": "declared"}
    if not file.tile_level0_px or contract.tile_um is None:
        return {}
    return {"slide_mpp": contract.tile_um / file.tile_level0_px, "slide_mpp_source": "declared"}


def _compare(
    file: ForeignFile, features: Any, coords: Any, there: Any, store: FeatureStore
) -> dict[str, Any]:
    """What is in the store stays; the same values again are no news."""
    path = store.path(file.slide_id)
    digests = (digest_array(features), None if coords is None else digest_array(coords))
    if (there["features_digest"], there["coords_digest"]) == digests:
        return _row(file, UNCHANGED)
    reason = there["problem"] or f"{path} already holds other features of this slide"
    return _row(file, FAILED, f"{reason}; remove that file to import this one")
