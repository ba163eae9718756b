"""``slides check``: one row a slide, a QC picture each, and contact sheets of the batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from storm_clinic.errors import InputError, UnsafeName
from storm_clinic.files import csv_text, safe_name, write_json, write_text
from storm_clinic.progress import Progress
from storm_clinic.slides.discovery import FoundSlides, find_slides
from storm_clinic.slides.examination import Examination, SlideRow, Status, examine_slide
from storm_clinic.slides.quality import CELLS_A_SHEET, SheetCell, contact_sheet, write_picture
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters

_GEOMETRY = TileGeometry(tile_px=224, mpp=0.5)  # what most encoders take


@dataclass(frozen=True)
class SlideCheck:
    """All slides of a batch, in the order of their paths.

    Attributes
    ----------
    rows : tuple of SlideRow
    sheets : tuple of Path
        Contact sheets, if pictures were asked for.
    ignored : mapping of str to int
        Files in searched folders that are no slides: suffix, and how many.
    """

    rows: tuple[SlideRow, ...]
    sheets: tuple[Path, ...]
    ignored: Mapping[str, int]

    @property
    def table(self) -> pd.DataFrame:
        """One row a slide; problems joined by semicolons."""
        records = [
            {**record, "problems": "; ".join(p.rstrip(".") for p in record["problems"])}
            for record in self.records
        ]
        names = [field.name for field in fields(SlideRow)]
        frame = pd.DataFrame(records, columns=names)
        return frame.astype(dict.fromkeys(("width", "height", "levels", "tiles"), "Int64"))

    @property
    def records(self) -> list[dict[str, Any]]:
        """One dictionary a slide, ready for JSON."""
        return [{**asdict(row), "problems": list(row.problems)} for row in self.rows]

    def count(self, status: Status) -> int:
        """Slides of that status."""
        return sum(row.status == status for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0 if every slide can be used, else 3."""
        return 3 if self.count("unusable") else 0

    def write(self, path: Path) -> None:
        """Write the rows as CSV or JSON, by the suffix.

        Raises
        ------
        InputError
            If the suffix is neither.
        """
        if path.suffix == ".csv":
            write_text(path, csv_text(self.table))
        elif path.suffix == ".json":
            write_json(path, self.records)
        else:
            raise InputError("a table is written as .csv or .json", where=path)


def check_slides(
    sources: Iterable[str | Path],
    *,
    mpp_override: float | None = None,
    manifest_mpp: Mapping[str, float] | None = None,
    masks: Path | None = None,
    geometry: TileGeometry = _GEOMETRY,
    tissue: TissueParameters | None = None,
    pictures: Path | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> SlideCheck:
    """Look at every slide as extraction would, without an encoder.

    A slide that cannot be used becomes a row with its problem; nothing stops the batch.

    Parameters
    ----------
    sources : iterable of str or Path
        Slides, and folders to search.
    mpp_override : float, optional
        Microns per pixel that hold for all of them, whatever others state.
    manifest_mpp : mapping of slide id to float, optional
        What the cohort's slides table states.
    masks : Path, optional
        Folder with ``<slide_id>.png`` for slides whose tissue is not to be searched for.
    geometry : TileGeometry
        Tiles to count and draw.
    tissue : TissueParameters, optional
        Defaults where absent.
    pictures : Path, optional
        Folder for ``<slide_id>.jpg`` and ``_contact_sheet_<n>.jpg``.
    processes : int
        With 1 slides are checked in this process; more also keep a decoder's crash to its slide.
    progress : callable, optional
        Told ``("checking slides", done, total)``.

    Raises
    ------
    InputError
        If a folder is named that holds no slide.
    """
    named = [Path(source) for source in sources]
    missing = {path for path in named if not path.exists()}
    # A batch of nothing is an error, a batch of missing files a table that says so.
    there = [path for path in named if path not in missing]
    found = find_slides(there) if there or not missing else FoundSlides((), {})
    paths = sorted({*missing, *found.paths})
    rows = {path: SlideRow(_slide_id(path), str(path)) for path in paths}
    rows |= {path: row.refused(problem) for path, row in rows.items() if (problem := _name(path))}
    _refuse_same_names(rows)
    jobs = [
        Examination(
            slide_id=row.slide_id,
            path=path,
            mpp_override=mpp_override,
            mpp_manifest=(manifest_mpp or {}).get(row.slide_id),
            mask=_mask_of(row.slide_id, masks),
            geometry=geometry,
            tissue=tissue or TissueParameters(),
            picture=None if pictures is None else pictures / f"{row.slide_id}.jpg",
        )
        for path, row in rows.items()
        if row.status == "good"
    ]
    for done, (job, row) in enumerate(_checked(jobs, processes), start=1):
        rows[job.path] = row
        if progress is not None:
            progress("checking slides", done, len(jobs))
    checked = _doubt_copies([rows[path] for path in paths])
    sheets = () if pictures is None else _write_sheets(checked, pictures)
    return SlideCheck(tuple(checked), sheets, found.ignored)


def _slide_id(path: Path) -> str:
    return path.stem


def _name(path: Path) -> str | None:
    try:
        safe_name(_slide_id(path), what="slide id")
    except UnsafeName as error:
        return f"{error.problem}. {error.fix}"
    return None


def _refuse_same_names(rows: dict[Path, SlideRow]) -> None:
    """Features of two files with one name would overwrite each other."""
    by_id: dict[str, list[Path]] = defaultdict(list)
    for path in rows:
        by_id[_slide_id(path)].append(path)
    for same in (paths for paths in by_id.values() if len(paths) > 1):
        for path in same:
            other = next(each for each in same if each != path)
            rows[path] = rows[path].refused(f"another file has the same name: {other}")


def _mask_of(slide_id: str, masks: Path | None) -> Path | None:
    if masks is None:
        return None
    path = masks / f"{slide_id}.png"
    return path if path.exists() else None


def _checked(jobs: list[Examination], processes: int) -> Iterator[tuple[Examination, SlideRow]]:
    if processes <= 1 or len(jobs) <= 1:
        yield from ((job, examine_slide(job)) for job in jobs)
        return
    suspects: list[Examination] = []
    with _pool(processes) as pool:
        futures = {pool.submit(examine_slide, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                suspects.append(futures[future])
    # A crash takes the whole pool with it; who caused it shows when they go one by one.
    while suspects:
        with _pool(1) as pool:
            while suspects:
                job = suspects.pop(0)
                try:
                    yield job, pool.submit(examine_slide, job).result()
                except BrokenProcessPool:
                    row = SlideRow(job.slide_id, str(job.path))
                    yield job, row.refused("the decoder crashed on it; the file is damaged")
                    break


def _pool(processes: int) -> ProcessPoolExecutor:
    # Spawned, not forked: the caller may have threads whose locks a fork would freeze.
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"))


def _doubt_copies(rows: list[SlideRow]) -> list[SlideRow]:
    first: dict[str, str] = {}
    doubted = []
    for row in rows:
        original = first.setdefault(row.digest, row.slide_id) if row.digest else row.slide_id
        if original != row.slide_id:
            row = row.doubted(f"its content equals that of {original}")
        doubted.append(row)
    return doubted


def _write_sheets(rows: list[SlideRow], folder: Path) -> tuple[Path, ...]:
    # No slide's picture can have that name: ids start with a letter or digit.
    for earlier in folder.glob("_contact_sheet_*.jpg"):
        earlier.unlink()
    sheets = []
    for start in range(0, len(rows), CELLS_A_SHEET):
        cells = [
            SheetCell(
                label=row.slide_id,
                note="; ".join(p.rstrip(".") for p in row.problems),
                status=row.status,
                picture=None if row.picture is None else Path(row.picture),
            )
            for row in rows[start : start + CELLS_A_SHEET]
        ]
        path = folder / f"_contact_sheet_{start // CELLS_A_SHEET + 1}.jpg"
        write_picture(contact_sheet(cells), path)
        sheets.append(path)
    return tuple(sheets)
