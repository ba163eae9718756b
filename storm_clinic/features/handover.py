"""A whole store in the layout of another program; one bad slide stops nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from storm_clinic.errors import FeatureError, InputError, StorageError
from storm_clinic.features.foreign_file import read_foreign
from storm_clinic.features.foreign_reading import ForeignReading
from storm_clinic.features.foreign_writer import (
    OURS,
    Layout,
    own_attributes,
    place_of,
    write_anndata,
    write_foreign,
)
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import safe_name
from storm_clinic.progress import Progress

EXPORTED, UNCHANGED, FAILED = "exported", "unchanged", "failed"
_COLUMNS = ("slide_id", "status", "n_tiles", "reason", "path")


@dataclass(frozen=True, eq=False)
class ExportResult:
    """What became of each slide.

    Attributes
    ----------
    folder : Path
        What to give to the other program.
    table : DataFrame
        One row a slide: ``slide_id``, ``status`` (exported, unchanged, failed), ``n_tiles``,
        ``reason`` and ``path``.
    """

    folder: Path
    table: pd.DataFrame

    def count(self, status: str) -> int:
        """Slides of that status."""
        return int((self.table["status"] == status).sum())

    @property
    def failures(self) -> pd.DataFrame:
        """Slides that failed, with their reasons."""
        return self.table[self.table["status"] == FAILED].reset_index(drop=True)

    @property
    def exit_code(self) -> int:
        """0 if no slide failed, else 3."""
        return 3 if self.count(FAILED) else 0


def export_slides(
    store: FeatureStore,
    folder: Path,
    layout: Layout,
    *,
    obs: Literal["tiles", "slides"] = "tiles",
    progress: Progress | None = None,
) -> ExportResult:
    """Write every slide of a store for another program.

    A file that is there with the same embeddings and places is left alone; with others it is not
    overwritten, and the slide fails.

    Parameters
    ----------
    store : FeatureStore
        What is exported.
    folder : Path
        Made if absent.
    layout : str
        Whose format.
    obs : str
        Of AnnData: one file a slide whose rows are tiles, or one file whose rows are slides with
        their mean embedding.
    progress : callable, optional
        Called with a name, the number done and the total.

    Raises
    ------
    FeatureError
        If the store has no slide, or rows of slides are asked of another layout than AnnData.
    StorageError
        If the disk is full or the folder may not be written.
    """
    slide_ids = store.slide_ids()
    if not slide_ids:
        raise FeatureError("holds no slide", where=store.folder)
    if obs == "slides":
        if layout != "anndata":
            raise FeatureError("only anndata can have slides as rows", where="features export")
        return _export_means(store, folder, progress)
    rows = []
    with ForeignReading() as reading:
        for done, slide_id in enumerate(slide_ids, start=1):
            rows.append(_export_one(store, slide_id, folder, layout, reading))
            if progress is not None:
                progress("exporting slides", done, len(slide_ids))
    return ExportResult(folder, pd.DataFrame(rows, columns=list(_COLUMNS)))


def _export_one(
    store: FeatureStore, slide_id: str, folder: Path, layout: Layout, reading: ForeignReading
) -> tuple[Any, ...]:
    path = folder / place_of(layout, safe_name(slide_id, what="slide"), store.contract)
    try:
        slide = store.read(slide_id)
        if path.exists():
            problem = _differs(path, slide, layout, reading)
            status = UNCHANGED if problem is None else FAILED
            return slide_id, status, slide.n_tiles, problem, str(path)
        write_foreign(path, layout, slide, store.contract)
    except StorageError:
        raise  # a full disk fails them all
    except InputError as error:
        return slide_id, FAILED, 0, str(error), str(path)
    return slide_id, EXPORTED, slide.n_tiles, None, str(path)


def _differs(
    path: Path, slide: SlideFeatures, layout: Layout, reading: ForeignReading
) -> str | None:
    """Why a file that is there is not this slide's export; None where it is."""
    features, coords = reading.call(read_foreign, path, slide_mpp=slide.slide_mpp)
    same = np.array_equal(features, slide.features) and features.dtype == slide.features.dtype
    if coords is None or slide.coords is None:
        same &= coords is None and slide.coords is None
    else:
        same &= np.array_equal(coords, slide.coords)
    if same:
        return None
    return f"{path} already holds something else for {layout}; remove it to export this slide"


def _export_means(store: FeatureStore, folder: Path, progress: Progress | None) -> ExportResult:
    path = folder / f"{store.contract.encoder}.h5ad"
    if path.exists():
        raise FeatureError("exists already", where=path, fix="Remove it, or name another folder.")
    rows: list[tuple[Any, ...]] = []
    means, kept = [], []
    slide_ids = store.slide_ids()
    for done, slide_id in enumerate(slide_ids, start=1):
        try:
            slide = store.read(slide_id)
        except InputError as error:
            rows.append((slide_id, FAILED, 0, str(error), str(path)))
            continue
        means.append(slide.features.mean(axis=0, dtype=np.float64).astype(np.float32))
        kept.append({"slide_id": slide_id, "n_tiles": slide.n_tiles, "slide_mpp": slide.slide_mpp})
        rows.append((slide_id, EXPORTED, slide.n_tiles, None, str(path)))
        if progress is not None:
            progress("exporting slides", done, len(slide_ids))
    if kept:
        obs = pd.DataFrame(kept).set_index("slide_id")
        obs["slide_mpp"] = obs["slide_mpp"].astype(np.float64)
        nothing = SlideFeatures("all", np.empty((0, store.contract.width)))
        own = own_attributes(nothing, store.contract) | {f"{OURS}obs": "slides"}
        write_anndata(path, np.stack(means), obs, {}, own)
    return ExportResult(folder, pd.DataFrame(rows, columns=list(_COLUMNS)))
