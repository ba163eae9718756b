"""What can be seen in a table that nobody has described yet: ids, numbers, levels, endpoints."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pandas as pd

from storm_clinic.cohort.checks import identifier
from storm_clinic.cohort.text_table import TextTable
from storm_clinic.cohort.values import canonical, is_number

# Spellings that no level of a clinical variable has; "Unknown", "None" and -9 can be levels.
_MARKERS = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null")
_BRACKETED = re.compile(r"\[[A-Z][A-Za-z /-]*\]")
_TIME = re.compile(r"(.*?)[._ -]?(time|days|months|years|duration)", re.IGNORECASE)
_EVENT = ("", "status", "event", "indicator", "code")
_MOST_CODES = 6


@dataclass(frozen=True)
class ColumnProfile:
    """What the cells of one column look like.

    Attributes
    ----------
    name : str
    n_missing : int
        Cells that hold one of the table's markers.
    values : tuple of str
        Distinct other cells in canonical spelling, sorted (numbers by value).
    numeric : bool
        Whether all of those are numbers.
    identifies : bool
        Whether every cell is another safe id (a number with a fraction is none).
    """

    name: str
    n_missing: int
    values: tuple[str, ...]
    numeric: bool
    identifies: bool

    @property
    def integers(self) -> bool:
        """Whether all values are whole numbers."""
        return self.numeric and all("." not in value and "e" not in value for value in self.values)


@dataclass(frozen=True)
class EndpointColumns:
    """Two columns whose names say that they are the time and the end of one follow-up."""

    name: str
    time: str
    event: str


def find_markers(table: TextTable) -> tuple[str, ...]:
    """Cells that conventionally mean "missing", in order of how often they occur."""
    cells = pd.Series(table.frame.to_numpy().ravel(), dtype=object)
    counts = cells.value_counts()
    return tuple(
        str(text) for text in counts.index if text in _MARKERS or _BRACKETED.fullmatch(str(text))
    )


def profile_columns(table: TextTable, markers: tuple[str, ...]) -> dict[str, ColumnProfile]:
    """A profile of every column, in the table's order."""
    return {name: _profile(table.frame[name], name, markers) for name in map(str, table.frame)}


def find_endpoints(profiles: dict[str, ColumnProfile]) -> list[EndpointColumns]:
    """Pairs such as ``OS`` and ``OS.time``, ``os_status`` and ``os_days``, ``event`` and ``time``.

    The time must be a number of many values, the other a code of few. What the codes mean and
    what the times are counted in, the names do not say reliably.
    """
    lower = {name.lower(): name for name in profiles}
    pairs = []
    for time, profile in profiles.items():
        match = _TIME.fullmatch(time)
        if not match or not profile.numeric or len(profile.values) <= _MOST_CODES:
            continue
        stem = match.group(1)
        candidates = [f"{stem}{gap}{end}".lower() for end in _EVENT for gap in ("", ".", "_", " ")]
        events = [lower[name] for name in candidates if name in lower and lower[name] != time]
        coded = [name for name in events if 2 <= len(profiles[name].values) <= _MOST_CODES]
        if coded:
            pairs.append(EndpointColumns(stem or coded[0], time, coded[0]))
    return pairs


def _profile(cells: pd.Series[str], name: str, markers: tuple[str, ...]) -> ColumnProfile:
    missing = cells.isin(markers)
    known = cells[~missing]
    numeric = not known.empty and bool(is_number(known).all())
    values = {canonical(text) for text in known.unique()}
    ordered = tuple(sorted(values, key=float if numeric else None))
    profile = ColumnProfile(name, int(missing.sum()), ordered, numeric, identifies=False)
    distinct = bool(len(cells)) and not missing.any() and cells.is_unique
    if not distinct or (numeric and not profile.integers):
        return profile
    return replace(profile, identifies=bool(identifier(name, name).passes(cells).all()))
