"""The verb `cohort check`: what a cohort holds, what is missing, and who drops out why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from storm_clinic.cohort.attrition import Attrition
from storm_clinic.cohort.columns import Column
from storm_clinic.cohort.endpoints import EndpointTable
from storm_clinic.cohort.intake import Source
from storm_clinic.cohort.measurement import Measurement
from storm_clinic.cohort.outcome import Classes, Survival, stratum
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import OutcomeError
from storm_clinic.files import Workspace
from storm_clinic.metrics.curves import follow_up

_FRAMES = ("tables", "columns", "endpoints", "measurements", "sites", "attrition", "excluded")
_LARGE_SITE = 1 / 5  # a fold's share in the usual five
_MOSTLY = 0.5


@dataclass(frozen=True, eq=False)
class CohortReport:
    """What `check_cohort` found.

    Attributes
    ----------
    name : str
    tables : DataFrame
        ``table, file, rows, columns, sha256``.
    columns : DataFrame
        ``column, kind, unit, values`` (counts of levels, or median, quartiles and range),
        ``missing, missing_percent, from``.
    endpoints : DataFrame
        ``endpoint, kind, patients, events, median_follow_up_months`` (reverse Kaplan-Meier; None
        for classes or where follow-up does not reach), ``left_out``. Events of competing risks
        are those of the first cause, events of classes the patients of the last level.
    measurements : DataFrame
        ``measurement, unit, measured, not_measured`` (patients), ``columns, constant`` (columns in
        which nothing varies), ``missing_percent`` (of the cells of measured patients).
    sites : DataFrame
        ``site, patients, slides`` and ``events_<endpoint>``, largest first; empty if no site is
        declared.
    attrition : DataFrame
        ``endpoint`` (empty: the cohort itself), ``step, unit, before, after, reason, n``.
    excluded : DataFrame
        ``endpoint, id, unit, step, reason``: who and what was left out. Holds patient ids.
    notes : tuple of str
        What a person should look at; none is an error.
    """

    name: str
    tables: pd.DataFrame
    columns: pd.DataFrame
    endpoints: pd.DataFrame
    measurements: pd.DataFrame
    sites: pd.DataFrame
    attrition: pd.DataFrame
    excluded: pd.DataFrame
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as lists of records, missing values as None."""
        frames = {name: _records(getattr(self, name)) for name in _FRAMES}
        return {"cohort": self.name, **frames, "notes": list(self.notes)}


def check_cohort(name_or_path: str | Path, *, workspace: Workspace | None = None) -> CohortReport:
    """Read a cohort as a study would, and report what it holds.

    Raises
    ------
    CohortError, OutcomeError
        If the manifest or a table is wrong; nothing is reported of a cohort that cannot be read.
    """
    cohort = Cohort.read(name_or_path, workspace)
    derived: dict[str, EndpointTable] = {}
    notes = []
    for name in cohort.endpoints:
        try:
            derived[name] = cohort.outcome(name)
        except OutcomeError as error:
            notes.append(str(error))
    measured = cohort.measurements(list(cohort.measured))
    read = reduce(Attrition.joined, (m.attrition for m in measured.values()), cohort.attrition)
    parts = [("", read), *((name, table.attrition) for name, table in derived.items())]
    attrition = [part.table().assign(endpoint=name) for name, part in parts]
    excluded = [part.excluded().assign(endpoint=name) for name, part in parts]
    return CohortReport(
        name=cohort.name,
        tables=_tables([*cohort.sources, *(m.source for m in measured.values())]),
        columns=_columns(cohort),
        endpoints=_endpoints(cohort, derived),
        measurements=_measurements(measured),
        sites=_sites(cohort, derived),
        attrition=_endpoint_first(attrition),
        excluded=_endpoint_first(excluded),
        notes=(*notes, *_notes(cohort, derived), *_measurement_notes(measured)),
    )


def _tables(sources: list[Source]) -> pd.DataFrame:
    rows = [(s.role, str(s.path), s.n_rows, s.n_columns, s.digest) for s in sources]
    return pd.DataFrame(rows, columns=["table", "file", "rows", "columns", "sha256"])


def _columns(cohort: Cohort) -> pd.DataFrame:
    rows = []
    for name, column in cohort.columns.items():
        cells = cohort.patients[name]
        missing = int(cells.isna().sum())
        percent = round(100 * missing / len(cells), 1)
        values = _values(column, cells)
        rows.append((name, column.kind, column.unit, values, missing, percent, column.source))
    names = ["column", "kind", "unit", "values", "missing", "missing_percent", "from"]
    return pd.DataFrame(rows, columns=names)


def _values(column: Column, cells: pd.Series[Any]) -> str:
    if column.kind != "continuous":
        return ", ".join(f"{level} {n}" for level, n in cells.value_counts(sort=False).items())
    known = cells.dropna()
    if known.empty:
        return ""
    low, first, median, third, high = np.quantile(known, [0, 0.25, 0.5, 0.75, 1])
    return f"median {median:.4g} ({first:.4g} to {third:.4g}), range {low:.4g} to {high:.4g}"


def _endpoints(cohort: Cohort, derived: dict[str, EndpointTable]) -> pd.DataFrame:
    rows = []
    for name, declared in cohort.endpoints.items():
        table = derived.get(name)
        n = len(table.patient_ids) if table else 0
        events = table.outcome.n_events if table else 0
        months = _median_follow_up(table) if table else None
        rows.append((name, declared.kind, n, events, months, cohort.n_patients - n))
    names = ["endpoint", "kind", "patients", "events", "median_follow_up_months", "left_out"]
    return pd.DataFrame(rows, columns=names)


def _measurements(measured: dict[str, Measurement]) -> pd.DataFrame:
    rows = []
    for name, found in measured.items():
        n, table = int(found.measured.sum()), found.table[found.measured]
        missing = round(100 * float(table.isna().to_numpy().mean()), 1) if n else None
        constant = len(_constant(found))
        left = len(found.table) - n
        rows.append((name, found.unit, n, left, table.shape[1], constant, missing))
    names = ["measurement", "unit", "measured", "not_measured", "columns", "constant"]
    return pd.DataFrame(rows, columns=[*names, "missing_percent"])


def _constant(found: Measurement) -> list[str]:
    """Columns that tell no patient from another."""
    varies = found.table.nunique() > 1
    return [str(name) for name in found.table.columns[~varies]]


def _median_follow_up(table: EndpointTable) -> float | None:
    outcome = table.outcome
    if isinstance(outcome, Classes):
        return None
    any_event = Survival(outcome.time_months, stratum(outcome) > 0, outcome.entry_months)
    median = follow_up(any_event).median
    return None if median is None else round(median, 1)


def _sites(cohort: Cohort, derived: dict[str, EndpointTable]) -> pd.DataFrame:
    if "site" not in cohort.patients:
        return pd.DataFrame(columns=["site", "patients", "slides"])
    site = cohort.patients["site"].map(lambda name: "(unknown)" if name is None else name)
    sites = pd.DataFrame({"patients": site.value_counts()})
    sites["slides"] = site.reindex(cohort.slides["patient_id"]).value_counts()
    for name, table in derived.items():
        counted = _counted(table)
        sites[f"events_{name}"] = site.reindex(counted).value_counts()
    sites = sites.fillna(0).astype(int).rename_axis("site").reset_index()
    return sites.sort_values(["patients", "site"], ascending=[False, True], ignore_index=True)


def _counted(table: EndpointTable) -> list[str]:
    """Patients behind ``outcome.n_events``."""
    code = stratum(table.outcome)
    wanted = len(table.outcome.levels) - 1 if isinstance(table.outcome, Classes) else 1
    return [patient for patient, c in zip(table.patient_ids, code, strict=True) if c == wanted]


def _notes(cohort: Cohort, derived: dict[str, EndpointTable]) -> Iterator[str]:
    for name, column in cohort.columns.items():
        cells = cohort.patients[name]
        absent = [level for level in column.levels if not (cells == level).any()]
        if absent:
            yield f"column {name}: nobody is {' or '.join(absent)}"
        if cells.isna().mean() > _MOSTLY:
            yield f"column {name}: missing in {int(cells.isna().sum())} of {len(cells)} patients"
    for name, table in derived.items():
        if table.outcome.n_events == 0:
            yield f"endpoint {name}: no events"
    if not cohort.endpoints:
        yield "no endpoint is declared: the cohort can be scored, not trained on or validated"
    yield from _site_notes(cohort)
    yield from _slide_notes(cohort)


def _measurement_notes(measured: dict[str, Measurement]) -> Iterator[str]:
    for name, found in measured.items():
        n_missing = int((~found.measured).sum())
        if n_missing:
            yield f"measurement {name}: {n_missing} of {len(found.table)} patients have none"
        constant = _constant(found)
        if constant:
            shown = ", ".join(constant[:10]) + (" ..." if len(constant) > 10 else "")
            yield (
                f"measurement {name}: nothing varies in {len(constant)} of "
                f"{found.table.shape[1]} columns: {shown}"
            )


def _site_notes(cohort: Cohort) -> Iterator[str]:
    if "site" not in cohort.patients:
        yield "no site is declared: folds cannot keep hospitals apart"
        return
    sites = cohort.patients["site"]
    for name, n in sites.value_counts().items():
        if n > _LARGE_SITE * len(sites):
            yield f"site {name}: {n} of {len(sites)} patients, more than one fold in five can hold"
    if sites.isna().any():
        yield f"{int(sites.isna().sum())} patients have no site; folds keep them together"


def _slide_notes(cohort: Cohort) -> Iterator[str]:
    without = cohort.n_patients - cohort.slides["patient_id"].nunique()
    if without:
        yield f"{without} patients have no slide: only clinical models can use them"
    paths = cohort.slides["path"].dropna()
    absent = [
        slide
        for slide, path in zip(cohort.slides["slide_id"][paths.index], paths, strict=True)
        if not Path(path).exists()
    ]
    if absent:
        shown = ", ".join(absent[:10]) + (" ..." if len(absent) > 10 else "")
        yield f"{len(absent)} of {len(paths)} slide files are not there: {shown}"


def _endpoint_first(frames: list[pd.DataFrame]) -> pd.DataFrame:
    joined = pd.concat(frames, ignore_index=True)
    return joined[["endpoint", *[name for name in joined.columns if name != "endpoint"]]]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in plain.to_dict("records")]
