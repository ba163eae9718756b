"""Which slides an extraction is about: from files and folders, or from a cohort's slides table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import InputError, SlideError, StormClinicError, UnsafeName
from storm_clinic.features.shard import Shard
from storm_clinic.features.slide_result import SlideResult, failed_slide
from storm_clinic.features.tiling import SlideJob
from storm_clinic.files import Workspace, safe_name
from storm_clinic.slides.discovery import find_slides
from storm_clinic.steps.slide_statements import SlideStatements, declared_cohort, require_files

_MASK_SUFFIXES = (".png", ".tif", ".tiff")


@dataclass(frozen=True)
class SlideListing:
    """Slides to be extracted, and those that are not.

    Attributes
    ----------
    jobs : tuple of SlideJob
        Sorted by id.
    refused : tuple of SlideResult
        Slides that cannot even be tried: no file is named, or the id is unsafe.
    left_out : mapping of str to str
        Slides of the table that are not of the cohort, and why.
    ignored : mapping of str to int
        Files in the searched folders that are no slides: suffix and how many.
    """

    jobs: tuple[SlideJob, ...]
    refused: tuple[SlideResult, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)

    def part(self, shard: Shard) -> SlideListing:
        """Only the slides of that shard."""
        return replace(
            self,
            jobs=tuple(job for job in self.jobs if shard.takes(job.slide_id)),
            refused=tuple(slide for slide in self.refused if shard.takes(slide.slide_id)),
        )


def list_slides(
    source: str | Path | Sequence[str | Path] | None,
    cohort: str,
    workspace: Workspace,
    *,
    mpp: float | None = None,
    masks: Path | None = None,
) -> SlideListing:
    """List the slides under ``source``, or without it those of the cohort's slides table.

    Microns per pixel and checksums that the table states go with the slides either way, if there
    is a table.

    Raises
    ------
    InputError
        If nothing is found, two files would have the same id, or no mask fits any slide.
    CohortError
        If the table is needed and names no files, or is wrong.
    """
    table: Cohort | None
    if source is None:
        table = Cohort.read(cohort, workspace)
        listing = _from_table(table)
    else:
        table = declared_cohort(cohort, workspace)
        listing = _from_files(source, workspace)
    stated = SlideStatements() if table is None else SlideStatements.of(table)
    found_masks = {} if masks is None else _masks(workspace.path(masks))
    jobs = tuple(
        replace(
            job,
            mpp_override=mpp,
            mpp_manifest=stated.mpps.get(job.slide_id),
            mask=found_masks.get(job.slide_id),
            checksum=stated.checksums.get(job.slide_id),
        )
        for job in listing.jobs
    )
    if found_masks and not any(job.mask for job in jobs):
        raise InputError(
            f"none of its {len(found_masks)} masks is named after a slide",
            where=workspace.path(masks or ""),
            fix="A mask has its slide's id as name, and ends in .png or .tif.",
        )
    return replace(listing, jobs=jobs)


def _from_files(source: str | Path | Sequence[str | Path], workspace: Workspace) -> SlideListing:
    sources = [source] if isinstance(source, str | Path) else source
    found = find_slides(workspace.path(path) for path in sources)
    by_id: dict[str, Path] = {}
    for path in found.paths:
        if path.stem in by_id:
            raise InputError(
                f"{by_id[path.stem]} and {path} would both be slide {path.stem!r}",
                fix="Give one another name, or extract them into two cohorts.",
            )
        by_id[path.stem] = path
    return replace(_checked(by_id), ignored=found.ignored)


def _from_table(cohort: Cohort) -> SlideListing:
    paths = SlideStatements.of(cohort).paths
    require_files(paths, cohort)
    left_out = {
        slide_id: reason
        for step in cohort.attrition
        if step.unit == "slides"
        for slide_id, reason in step.excluded
    }
    return replace(_checked(paths), left_out=left_out)


def _checked(paths: Mapping[str, str | Path | None]) -> SlideListing:
    jobs, refused = [], []
    for slide_id, given in sorted(paths.items()):
        path = None if given is None else Path(given)
        problem = _refusal(slide_id, path)
        if problem is not None:
            refused.append(failed_slide(slide_id, path, problem))
        elif path is not None:
            jobs.append(SlideJob(slide_id, path))
    return SlideListing(tuple(jobs), tuple(refused))


def _refusal(slide_id: str, path: Path | None) -> StormClinicError | None:
    if path is None:
        return SlideError("the slides table names no file for it", where=f"slide {slide_id}")
    try:
        safe_name(slide_id, what=str(path))
    except UnsafeName as error:
        return error
    return None


def _masks(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError("there is no such folder of masks", where=folder)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _MASK_SUFFIXES:
            if path.stem in found:
                raise InputError(f"{found[path.stem].name} and {path.name}: which mask is it?")
            found[path.stem] = path
    return found
