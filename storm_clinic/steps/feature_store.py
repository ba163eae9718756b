"""``features list | check | import | export``: feature stores, and what goes in and out of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from storm_clinic.errors import FeatureError
from storm_clinic.features.contract import CONTRACT_NAME
from storm_clinic.features.declaration import Declaration
from storm_clinic.features.foreign_writer import Layout
from storm_clinic.features.handover import ExportResult, export_slides
from storm_clinic.features.inspection import inspect_store, shared_slides
from storm_clinic.features.interop import ImportResult, import_slides
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_contract import is_storm_folder
from storm_clinic.features.storm_inspection import describe_storm, inspect_storm
from storm_clinic.files import Workspace
from storm_clinic.progress import Progress
from storm_clinic.steps.slide_statements import SlideStatements, declared_cohort

_LISTED = (
    "cohort",
    "encoder",
    "slides",
    "tiles",
    "failed_tiles",
    "unusable",
    "width",
    "dtype",
    "mpp",
    "tile_px",
    "overlap_px",
    "provenance",
    "gigabytes",
    "contract",
    "problem",
)
_FOUND = ("cohort", "encoder", "slide_id", "severity", "code", "finding")


@dataclass(frozen=True, eq=False)
class FeatureListing:
    """The stores of a workspace.

    Attributes
    ----------
    table : DataFrame
        One row a store: ``cohort, encoder, slides, tiles, failed_tiles, unusable`` (files that
        cannot be read), ``width, dtype, mpp, tile_px, overlap_px, provenance, gigabytes,
        contract`` (first 12 digits of its digest: equal where stores can be used together) and
        ``problem`` (why a folder is no usable store). STORM files are listed under their
        checkpoint; slides unlike its training data are a problem.
    """

    table: pd.DataFrame


@dataclass(frozen=True, eq=False)
class FeatureCheck:
    """What checking the stores found.

    Attributes
    ----------
    table : DataFrame
        One row a finding, errors first: ``cohort, encoder, slide_id, severity`` (error or
        warning), ``code, finding``. Empty if all is well.
    n_stores, n_slides : int
        What was looked at.
    """

    table: pd.DataFrame
    n_stores: int
    n_slides: int

    def count(self, severity: str) -> int:
        """Findings of that severity."""
        return int((self.table["severity"] == severity).sum())

    @property
    def exit_code(self) -> int:
        """0 if there is no error (there may be warnings), else 3."""
        return 3 if self.count("error") else 0


def list_features(workspace: Workspace) -> FeatureListing:
    """List every feature store of a workspace, and folders that should be one but are not."""
    rows = [_listed(folder) for folder in _store_folders(workspace)]
    return FeatureListing(pd.DataFrame(rows, columns=list(_LISTED)))


def check_features(
    workspace: Workspace,
    *,
    cohort: str | None = None,
    encoder: str | None = None,
    progress: Progress | None = None,
) -> FeatureCheck:
    """Read every file of the workspace's stores, or of one cohort's or encoder's, and check it.

    Within a store see `storm_clinic.features.inspection.inspect_store`. Between stores of one
    encoder: contracts that differ (``contracts differ``) and slides of one cohort that are also in
    another are warnings; development and validation cohorts may not share any.

    Raises
    ------
    FeatureError
        If there is no store of that cohort or encoder.
    """
    folders = [
        folder
        for folder in _store_folders(workspace)
        if cohort in (None, folder.parent.name) and encoder in (None, folder.name)
    ]
    if not folders:
        wanted = f"features/{cohort or '*'}/{encoder or '*'}"
        raise FeatureError(
            f"there is no feature store at {wanted}",
            where=workspace.root,
            fix="See 'storm-clinic features list'.",
        )
    rows: list[dict[str, Any]] = []
    stores: list[FeatureStore] = []
    for folder in folders:
        found, store = _checked(folder, progress)
        rows += found
        stores += [store] if store is not None else []
    rows += _between(stores)
    table = pd.DataFrame(rows, columns=list(_FOUND))
    # Stable, so that slides stay together in the order they were looked at.
    table = table.sort_values("severity", kind="stable").reset_index(drop=True)
    n_slides = sum(len(store.slide_ids()) for store in stores)
    n_slides += sum(len(list(one.glob("*.h5"))) for one in folders if is_storm_folder(one))
    return FeatureCheck(table, len(folders), n_slides)


def import_features(
    sources: Iterable[str | Path],
    *,
    cohort: str,
    encoder: str,
    workspace: Workspace,
    mpp: float | None = None,
    tile_px: int | None = None,
    geometry_unknown: bool = False,
    licence: str | None = None,
    slides: Collection[str] | None = None,
    limits: TimeLimits | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Import embeddings that others made into ``features/<cohort>/<encoder>``.

    Parameters
    ----------
    sources : paths
        Files or folders: TRIDENT or CLAM HDF5, CLAM ``.pt``, or HDF5 with ``features`` alone.
    cohort, encoder : str
        Name the store.
    workspace : Workspace
        Where the store lies.
    mpp, tile_px : float and int, optional
        Pixel size in µm and side of a tile as the encoder saw it, unless the files state them.
    geometry_unknown : bool
        Nobody knows them; only heads that need no coordinates may use the features.
    licence : str, optional
        Of the encoder's weights; by default as the files state, else as the catalogue states it of
        an encoder of that name.
    slides : collection of str, optional
        Ids to check the files' names against; by default those of the cohort's slides table,
        where the workspace declares that cohort.
    limits : TimeLimits, optional
        Of which ``task_s`` is how long a file may take to be looked at, and again to be read,
        before it is taken to be damaged.
    progress : callable, optional
        Called with a name, the number done and the total.

    Raises
    ------
    FeatureError, ContractMismatch, StorageError
        See `storm_clinic.features.interop.import_slides`.
    """
    declaration = Declaration(encoder, mpp, tile_px, geometry_unknown, licence)
    folder = workspace.store(cohort, encoder)
    declared = declared_cohort(cohort, workspace)
    stated = SlideStatements() if declared is None else SlideStatements.of(declared)
    if slides is None and declared is not None:
        slides = list(stated.paths)
    return import_slides(
        sources,
        folder,
        declaration,
        slides=slides,
        slide_mpps=stated.mpps,
        limits=limits,
        progress=progress,
    )


def export_features(
    *,
    cohort: str,
    encoder: str,
    to: Layout,
    out: str | Path,
    workspace: Workspace | None = None,
    obs: Literal["tiles", "slides"] = "tiles",
    progress: Progress | None = None,
) -> ExportResult:
    """Write a store in the layout of TRIDENT, CLAM, STAMP or AnnData.

    Parameters
    ----------
    cohort, encoder : str
        Name the store.
    to : {"trident", "clam", "stamp", "anndata"}
        Whose layout; docs/interop.md says field by field what is written and what is lost.
    out : str or Path
        Folder; made if absent. Nothing in it is overwritten.
    workspace : Workspace, optional
        The current folder by default.
    obs : {"tiles", "slides"}
        Rows of an AnnData file.
    progress : callable, optional
        Called with a name, the number done and the total.

    Raises
    ------
    FeatureError, StorageError
        See `storm_clinic.features.handover.export_slides`.
    """
    store = FeatureStore.open((workspace or Workspace()).store(cohort, encoder))
    return export_slides(store, Path(out), to, obs=obs, progress=progress)


def _store_folders(workspace: Workspace) -> list[Path]:
    """Folders two levels down that hold a contract or feature files, sorted."""
    folders = sorted(path for path in workspace.features.glob("*/*") if path.is_dir())
    return [
        folder
        for folder in folders
        if (folder / CONTRACT_NAME).exists() or any(folder.glob("*.h5"))
    ]


def _named(folder: Path) -> dict[str, Any]:
    return {"cohort": folder.parent.name, "encoder": folder.name}


def _listed(folder: Path) -> dict[str, Any]:
    if is_storm_folder(folder):
        return _named(folder) | describe_storm(folder)
    try:
        store = FeatureStore.open(folder)
    except FeatureError as error:
        return _named(folder) | {"problem": error.problem}
    contract, index = store.contract, store.index()
    unusable = int(index["problem"].notna().sum())
    return _named(folder) | {
        "slides": len(index) - unusable,
        "tiles": int(index["n_tiles"].sum()),
        "failed_tiles": int(index["n_failed"].sum()),
        "unusable": unusable,
        "width": contract.width,
        "dtype": contract.dtype,
        "mpp": contract.mpp,
        "tile_px": contract.tile_px,
        "overlap_px": contract.overlap_px,
        "provenance": contract.provenance,
        "gigabytes": index["bytes"].sum() / 1e9,
        "contract": contract.digest[:12],
        "problem": _misplaced(folder, store),
    }


def _misplaced(folder: Path, store: FeatureStore) -> str | None:
    if store.contract.encoder == folder.name:
        return None
    return f"the folder is named {folder.name}, its contract says {store.contract.encoder}"


def _checked(
    folder: Path, progress: Progress | None
) -> tuple[list[dict[str, Any]], FeatureStore | None]:
    if is_storm_folder(folder):
        found = inspect_storm(folder, progress=progress)
        return [_named(folder) | asdict(item) for item in found], None
    try:
        store = FeatureStore.open(folder)
    except FeatureError as error:
        return [_found(folder, "", "error", "no contract", str(error))], None
    rows = [_named(folder) | asdict(item) for item in inspect_store(store, progress=progress)]
    misplaced = _misplaced(folder, store)
    if misplaced:
        rows.append(_found(folder, "", "error", "contract", misplaced))
    return rows, store


def _between(stores: list[FeatureStore]) -> list[dict[str, Any]]:
    """What stores of the same encoder say about one another."""
    rows = []
    for encoder in dict.fromkeys(store.folder.name for store in stores):
        alike = [store for store in stores if store.folder.name == encoder]
        for store in alike[1:]:
            rows += _contracts_differ(alike[0], store)
        rows += _shared_between(alike)
    return rows


def _contracts_differ(first: FeatureStore, other: FeatureStore) -> list[dict[str, Any]]:
    found = first.contract.differences(other.contract)
    if not found:
        return []
    home = first.folder.parent.name
    text = "; ".join(f"{key} is {b!r}, in {home} {a!r}" for key, a, b in found)
    return [_found(other.folder, "", "warning", "contracts differ", text)]


def _shared_between(stores: list[FeatureStore]) -> list[dict[str, Any]]:
    folders = {store.folder.parent.name: store.folder for store in stores}
    indices = []
    for cohort, store in zip(folders, stores, strict=True):
        index = store.index()
        # One id may be in both cohorts; "/" occurs in no id.
        indices.append(index.assign(slide_id=f"{cohort}/" + index["slide_id"]))
    rows = []
    for code, ids in shared_slides(pd.concat(indices, ignore_index=True)):
        cohort, _, slide_id = ids[0].partition("/")
        elsewhere = [other for other in ids[1:] if not other.startswith(f"{cohort}/")]
        if elsewhere:
            text = f"also there as {', '.join(elsewhere)}"
            rows.append(_found(folders[cohort], slide_id, "warning", code, text))
    return rows


def _found(folder: Path, slide_id: str, severity: str, code: str, text: str) -> dict[str, Any]:
    values = {"slide_id": slide_id, "severity": severity, "code": code, "finding": text}
    return _named(folder) | values
