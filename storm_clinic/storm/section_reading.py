"""HDF5 of sections is somebody else's too: it is read in a process that may hang or die."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from storm_clinic.errors import SectionError
from storm_clinic.features.foreign_reading import ForeignReading
from storm_clinic.features.lost_tasks import TimeLimits

# A section has gigabytes where a slide's features have megabytes.
_LIMITS = TimeLimits(task_s=3600.0)
Result = TypeVar("Result")


def read_apart(function: Callable[..., Result], path: Path, **options: Any) -> Result:
    """What a reader, a function of a module, returns of a file; see `ForeignReading.call`.

    Raises
    ------
    SectionError
        What the reader raises, or if its process dies or is not done after an hour.
    """
    with ForeignReading(_LIMITS, error=SectionError) as reading:
        return reading.call(function, path, **options)
