"""What a cohort's slides table states of the slides' files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from storm_clinic.cohort.manifest import MANIFEST
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError
from storm_clinic.files import Workspace, safe_name


@dataclass(frozen=True)
class SlideStatements:
    """By slide id; a slide of which the table does not state something is not in that mapping.

    Attributes
    ----------
    paths : mapping of str to str or None
        Of every slide of the table; None where it names no file.
    mpps : mapping of str to float
        µm per level-0 px.
    checksums : mapping of str to str
        MD5 or SHA-256, see `storm_clinic.slides.checksum`.
    """

    paths: Mapping[str, str | None] = field(default_factory=dict)
    mpps: Mapping[str, float] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, cohort: Cohort) -> SlideStatements:
        """What this cohort's table states."""
        slides = cohort.slides
        # Of columns that are empty pandas makes NaN.
        paths = slides["path"].astype(object).where(slides["path"].notna(), None)
        mpps, checksums = slides["mpp"].dropna(), slides["checksum"].dropna()
        ids = slides["slide_id"]
        return cls(
            paths=dict(zip(ids, paths, strict=True)),
            mpps=dict(zip(ids[mpps.index], mpps.astype(float), strict=True)),
            checksums=dict(zip(ids[checksums.index], checksums, strict=True)),
        )


def declared_cohort(name: str, workspace: Workspace) -> Cohort | None:
    """A cohort that the workspace declares; None where it declares none of that name.

    Raises
    ------
    CohortError
        If its manifest or a table is wrong.
    """
    manifest = workspace.cohorts / safe_name(name, what="cohort") / MANIFEST
    return Cohort.read(name, workspace) if manifest.is_file() else None


def require_files(paths: Mapping[str, str | None], cohort: Cohort) -> None:
    """Refuse a table whose slides' files are asked for and that names none.

    Raises
    ------
    CohortError
        If no slide has a path.
    """
    if not any(paths.values()):
        raise CohortError(
            "its slides table names no slide files" if paths else "it has no slides",
            where=cohort.manifest_path,
            fix="Name files or folders, or give the slides table a path column.",
        )
