"""What a report says, as plain values that the steps fill in. Nothing here names a patient."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from storm_clinic.errors import InputError
from storm_clinic.registry.decide import Decision
from storm_clinic.study import Study
from storm_clinic.validation.evidence import Evidence

_PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class FlowStep:
    """One step of the flow of rows, patients or slides: how many came in, left and why."""

    step: str
    unit: Literal["rows", "patients", "slides"]
    n_before: int
    n_after: int
    reasons: tuple[tuple[str, int], ...] = ()  # (reason, how many left for it)


@dataclass(frozen=True)
class VariableRow:
    """One line of the cohort table.

    A continuous variable has one line (median and quartiles), a categorical one has a line a level
    (count and share of the known); how many are missing stands on the variable's first line.
    """

    variable: str
    level: str  # "" for a continuous variable
    value: str  # e.g. "61 (52 to 70)" or "112 (41%)"
    n_missing: int | None = None  # None on the lines of further levels


@dataclass(frozen=True)
class CohortSummary:
    """One cohort as its reader must know it."""

    name: str
    role: Literal["development", "validation"]
    n_patients: int  # analysed, after all exclusions
    n_events: int
    n_slides: int | None = None
    n_sites: int | None = None
    median_follow_up_months: float | None = None  # reverse Kaplan-Meier
    simulated: bool = False
    origin: tuple[tuple[str, str], ...] = ()  # e.g. ("source", "TCGA-CDR")
    flow: tuple[FlowStep, ...] = ()
    variables: tuple[VariableRow, ...] = ()


@dataclass(frozen=True)
class TilePicture:
    """One tile as a PNG or JPEG data URI, with its caption."""

    data_uri: str
    caption: str

    def __post_init__(self) -> None:
        if not _PICTURE.fullmatch(self.data_uri):
            raise InputError(
                "a tile's picture must be a base64 data URI of a PNG or JPEG",
                where="report",
                fix="Pass data:image/png;base64,....",
            )


@dataclass(frozen=True)
class TileGallery:
    """Most- and least-attended tiles of one model on one cohort."""

    model: str
    cohort: str
    most: tuple[TilePicture, ...]
    least: tuple[TilePicture, ...]
    note: str = ""  # how the tiles were chosen


@dataclass(frozen=True)
class Provenance:
    """Which files, versions and seeds a report rests on."""

    digests: tuple[tuple[str, str], ...] = ()  # (what, SHA-256)
    versions: tuple[tuple[str, str], ...] = ()  # (package, version)
    seed: int | None = None
    identifiers: tuple[tuple[str, str], ...] = ()  # e.g. ("MLflow run", "..."), ("model", "x v3")
    made_on: str | None = None  # a date, where the caller wants one; equal inputs give equal bytes


@dataclass(frozen=True)
class RecordedMove:
    """One event of the trail about this version."""

    seq: int
    kind: str  # as in the trail, e.g. "locked"
    by: str
    when: str  # UTC
    digest: str  # SHA-256 of the event
    detail: str = ""  # e.g. the cohort, or why
    signed: bool = False


@dataclass(frozen=True)
class ReportContent:
    """Everything a page shows.

    ``development`` is evidence from cross-validation, ``validation`` from cohorts that were never
    trained on; either may be absent, and the page says so.
    """

    question: str
    candidate: str
    comparator: str | None = None  # the clinical comparator
    endpoint: str = ""  # e.g. "progression-free interval"
    study: Study | None = None  # None for predictions that another program made
    development: Evidence | None = None
    validation: tuple[Evidence, ...] = ()
    cohorts: tuple[CohortSummary, ...] = ()
    tiles: tuple[TileGallery, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    moves: tuple[RecordedMove, ...] = ()  # of this version, oldest first
    decision: Decision | None = None  # the latest on its promotion
    not_for: tuple[str, ...] = ()  # uses to warn against, beside the general ones
    limits: tuple[str, ...] = ()  # beside those found by rule

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """All evidence: validation first, then cross-validation."""
        return (*self.validation, *((self.development,) if self.development else ()))

    @property
    def simulated(self) -> bool:
        """Whether any cohort was made by a simulation."""
        return any(cohort.simulated for cohort in self.cohorts)
