"""What became of a slide, as tables and records show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from storm_clinic.errors import StormClinicError

Status = Literal["written", "unchanged", "failed"]


@dataclass(frozen=True)
class SlideResult:
    """What became of one slide.

    Attributes
    ----------
    slide_id : str
    path : Path or None
        None if nobody names it.
    status : str
        ``written``, ``unchanged`` (the store had it already) or ``failed``.
    n_tiles : int
        Tiles in the file.
    n_failed_tiles : int
        Tiles that could not be read, though the slide could.
    tissue_mm2 : float or None
    error : str or None
        Class of the error.
    problem : str or None
        What is wrong, in short.
    reason : str or None
        Why it failed; of a written slide: why its first failed tile could not be read.
    trace : str or None
        Where in the program an unexpected error arose.
    """

    slide_id: str
    path: Path | None
    status: Status
    n_tiles: int = 0
    n_failed_tiles: int = 0
    tissue_mm2: float | None = None
    error: str | None = None
    problem: str | None = None
    reason: str | None = None
    trace: str | None = None


def failed_slide(
    slide_id: str, path: Path | None, error: StormClinicError, trace: str = ""
) -> SlideResult:
    """The result of a slide that cannot be extracted."""
    return SlideResult(
        slide_id,
        path,
        "failed",
        error=type(error).__name__,
        problem=error.problem,
        reason=str(error),
        trace=trace or None,
    )
