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

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import InputError, UnsafeName
from storm_clinic.files import Workspace, csv_text, safe_name, write_json, write_text
from storm_clinic.progress import Progress
from storm_clinic.slides.discovery import FoundSlides, find_slides
from storm_clinic.slides.examination import Examination, SlideRow, Status, examine_slide
from storm_clinic.slides.quality import CELLS_A_SHEET, SheetCell, contact_sheet, write_picture
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.steps.slide_statements import SlideStatements, require_files

_GEOMETRY = TileGeometry(tile_px=224, mpp=0.5)  # what most encoders take


@dataclass(frozen=True)
class SlideCheck:
    """All slides of a batch, in the order of their paths; those of a table in that of their ids.

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
    sources: Iterable[str | Path] | None = None,
    *,
    cohort: str | None = None,
    workspace: Workspace | None = None,
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
    sources : iterable of str or Path, optional
        Slides, and folders to search; a slide's id is its file's name. Without any, the files that
        the cohort's slides table names.
    cohort : str, optional
        A cohort that the workspace declares: slides are opened under the microns per pixel, and
        held against the checksums, that its slides table states. Each file with a checksum is read
        whole.
    workspace : Workspace, optional
        The current folder by default.
    mpp_override : float, optional
        Microns per pixel that hold for all of them, whatever others state.
    manifest_mpp : mapping of slide id to float, optional
        What else is stated of slides; goes before the slides table.
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
        If a folder is named that holds no slide, neither sources nor a cohort are, or no slide is
        one of the cohort's.
    CohortError
        If the cohort is not declared or wrong, or its table is needed and names no files.
    """
    table = None if cohort is None else Cohort.read(cohort, workspace or Workspace())
    stated = SlideStatements() if table is None else SlideStatements.of(table)
    ignored: Mapping[str, int] = {}
    if sources is not None:
        rows, ignored = _rows_of_files([Path(source) for source in sources])
        if table is not None and not any(row.slide_id in stated.paths for row in rows):
            raise InputError(
                f"none of {len(rows)} slides is one of the cohort's",
                where=table.manifest_path,
                fix="A slide's id is its file's name without the suffix.",
            )
    elif table is not None:
        require_files(stated.paths, table)
        rows = _rows_of_table(stated.paths)
    else:
        raise InputError("name slides, folders to search, or a cohort", where="slides check")
    mpps = {**stated.mpps, **(manifest_mpp or {})}
    jobs = {
        place: Examination(
            slide_id=row.slide_id,
            path=Path(row.path),
            mpp_override=mpp_override,
            mpp_manifest=mpps.get(row.slide_id),
            checksum=stated.checksums.get(row.slide_id),
            mask=_mask_of(row.slide_id, masks),
            geometry=geometry,
            tissue=tissue or TissueParameters(),
            picture=None if pictures is None else pictures / f"{row.slide_id}.jpg",
        )
        for place, row in enumerate(rows)
        if row.status == "good"
    }
    place_of = {job: place for place, job in jobs.items()}
    for done, (job, row) in enumerate(_checked(list(place_of), processes), start=1):
        rows[place_of[job]] = row
        if progress is not None:
            progress("checking slides", done, len(place_of))
    checked = _doubt_copies(rows)
    sheets = () if pictures is None else _write_sheets(checked, pictures)
    return SlideCheck(tuple(checked), sheets, ignored)


def _rows_of_files(named: list[Path]) -> tuple[list[SlideRow], Mapping[str, int]]:
    """A row for every slide found, by path; and what was found that is no slide."""
    missing = {path for path in named if not path.exists()}
    # A batch of nothing is an error, a batch of missing files a table that says so.
    there = [path for path in named if path not in missing]
    found = find_slides(there) if there or not missing else FoundSlides((), {})
    paths = sorted({*missing, *found.paths})
    rows = [_with_safe_name(SlideRow(path.stem, str(path))) for path in paths]
    return _refuse_same_names(rows), found.ignored


def _rows_of_table(paths: Mapping[str, str | None]) -> list[SlideRow]:
    """A row for every slide of a table, by id."""
    rows = [
        _with_safe_name(SlideRow(slide_id, paths[slide_id] or "")) for slide_id in sorted(paths)
    ]
    return [
        row if row.path else row.refused("the slides table names no file for it") for row in rows
    ]


def _with_safe_name(row: SlideRow) -> SlideRow:
    try:
        safe_name(row.slide_id, what="slide id")
    except UnsafeName as error:
        return row.refused(f"{error.problem}. {error.fix}")
    return row


def _refuse_same_names(rows: list[SlideRow]) -> list[SlideRow]:
    """Features of two files with one name would overwrite each other."""
    by_id: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_id[row.slide_id].append(row.path)
    return [_refuse_same_name(row, by_id[row.slide_id]) for row in rows]


def _refuse_same_name(row: SlideRow, paths: list[str]) -> SlideRow:
    other = next((path for path in paths if path != row.path), None)
    return row if other is None else row.refused(f"another file has the same name: {other}")


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
