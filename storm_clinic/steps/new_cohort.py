"""The verb `init`: a cohort.yaml from a table, with a question wherever nothing can be seen."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from storm_clinic.cohort.manifest import MANIFEST, UNDECIDED, find_undecided
from storm_clinic.cohort.profile import (
    ColumnProfile,
    EndpointColumns,
    find_endpoints,
    find_markers,
    profile_columns,
)
from storm_clinic.cohort.text_table import TextTable, read_text_table
from storm_clinic.errors import CohortError
from storm_clinic.files import Workspace, write_text

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MOST_LEVELS = 12
_FEW_NUMBERS = 10  # so few whole numbers may count something, or stand for categories
_SHOWN = 8


@dataclass(frozen=True)
class NewCohort:
    """A manifest that was written.

    Attributes
    ----------
    path : Path
        The cohort.yaml.
    undecided : tuple of str
        Lines a person must fill in: line, field and question.
    left_out : tuple of (column, reason)
        Columns of the clinical table that are not declared.
    """

    path: Path
    undecided: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def init_cohort(
    name: str,
    clinical_csv: str | Path,
    slides_csv: str | Path | None = None,
    *,
    workspace: Workspace | None = None,
) -> NewCohort:
    """Write ``cohorts/<name>/cohort.yaml`` from a table of patients, and one of slides if given.

    Declared is what can be seen: ids, numbers, levels, markers of missing values, columns that
    belong to one endpoint. What cannot be seen (units, the meaning of event codes, which column
    is the hospital, the licence) becomes a ``DECIDE`` line with its question; the cohort cannot be
    read before all are answered.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, ``_`` and ``-``.
    clinical_csv : path
        One row a patient, CSV or TSV.
    slides_csv : path, optional
        One row a slide.
    workspace : Workspace, optional
        Default: the current folder.

    Raises
    ------
    CohortError
        If the name is illegal, the cohort exists already, or a table cannot be read.
    """
    workspace = workspace or Workspace()
    if not _NAME.fullmatch(name):
        raise CohortError(
            f"{name!r} cannot name a cohort",
            fix="Use lower-case letters, digits, '_' and '-', starting with a letter or digit.",
        )
    path = workspace.cohorts / name / MANIFEST
    if path.exists():
        raise CohortError("there is one already", where=path, fix="Edit it, or remove it first.")
    clinical = read_text_table(Path(clinical_csv).expanduser())
    slides = None if slides_csv is None else read_text_table(Path(slides_csv).expanduser())
    markers = find_markers(clinical)
    profiles = profile_columns(clinical, markers)
    endpoints = find_endpoints(profiles)
    followed = {column for pair in endpoints for column in (pair.time, pair.event)}
    unique = [n for n, p in profiles.items() if p.identifies and n not in followed]
    patient_id, table_lines = _tables(clinical, unique, slides)
    taken = {patient_id, *followed}
    columns = {n: p for n, p in profiles.items() if n not in taken}
    left_out = tuple((n, why) for n, p in columns.items() if (why := _no_covariate(p)))
    for column, _ in left_out:
        del columns[column]
    lines = [
        *_head(name, clinical, workspace),
        *table_lines,
        *_site(profiles, taken, len(clinical.frame)),
        *_columns(columns),
        *_left_out(left_out),
        *_endpoints(endpoints, profiles),
        *_missing(markers),
        "origin:",
        f"  source: {_ask('who collected these data, and under which name?')}",
        f"  licence: {_ask('what may they be used for?')}",
    ]
    write_text(path, "\n".join(lines) + "\n")
    return NewCohort(path, tuple(find_undecided(path)), left_out)


def _ask(question: str) -> str:
    return _quoted(f"{UNDECIDED}: {question}")


def _quoted(text: str) -> str:
    # A JSON string is a YAML string.
    return json.dumps(text, ensure_ascii=False)


def _plain(text: str) -> str:
    word = re.fullmatch(r"[A-Za-z][A-Za-z0-9_. ]*[A-Za-z0-9]", text)
    return text if word and text.lower() not in ("null", "true", "false") else _quoted(text)


def _head(name: str, clinical: TextTable, workspace: Workspace) -> list[str]:
    folder = clinical.path.absolute().parent
    root = workspace.root.absolute()
    shown = folder.relative_to(root) if folder.is_relative_to(root) else folder
    return [
        "# Written by: storm-clinic init. Answer every DECIDE, delete what no model will use,",
        f"# then see what is in it: storm-clinic cohort check {name}",
        "format: 1",
        f"cohort: {name}",
        f"data_root: {_quoted(shown.as_posix())}",
        "tables:",
    ]


def _tables(
    clinical: TextTable, unique: list[str], slides: TextTable | None
) -> tuple[str | None, list[str]]:
    """The clinical table's id column, if one can be seen, and the lines of both tables."""
    shared: list[tuple[str, str]] = []
    if slides is not None:
        shared = [
            (ours, str(theirs))
            for ours in unique
            for theirs in slides.frame
            if slides.frame[theirs].isin(set(clinical.frame[ours])).any()
        ]
    patient_id = _only([ours for ours, _ in shared] or unique, "patient_id")
    asked = _ask(f"which column is the patient's id? {_candidates(unique)}")
    shown = _plain(patient_id) if patient_id else asked
    lines = [f"  clinical: {{path: {_quoted(clinical.path.name)}, patient_id: {shown}}}"]
    if slides is not None:
        theirs = _only([t for ours, t in shared if ours == patient_id], "patient_id")
        lines += _slides_table(slides, clinical, theirs)
    return patient_id, lines


def _slides_table(slides: TextTable, clinical: TextTable, patient_id: str | None) -> list[str]:
    seen = profile_columns(slides, find_markers(slides))
    ids = [n for n, profile in seen.items() if profile.identifies and n != patient_id]
    slide_id = _only(ids, "slide_id")
    path, root = slides.path.absolute(), clinical.path.absolute().parent
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    patient = _ask("which column is the patient's id, as in the clinical table?")
    slide = _ask(f"which column is the slide's id? {_candidates(ids)}")
    return [
        "  slides:",
        f"    path: {_quoted(shown.as_posix())}",
        f"    patient_id: {_plain(patient_id) if patient_id else patient}",
        f"    slide_id: {_plain(slide_id) if slide_id else slide}",
    ]


def _only(candidates: list[str], usual: str) -> str | None:
    """The one candidate, or the one that bears the usual name."""
    distinct = list(dict.fromkeys(candidates))
    if usual in distinct:
        return usual
    return distinct[0] if len(distinct) == 1 else None


def _candidates(names: list[str]) -> str:
    return (
        f"candidates: {_options(names)}" if names else "no column has another safe id in each row"
    )


def _options(names: list[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"


def _site(profiles: dict[str, ColumnProfile], taken: set[str | None], n_rows: int) -> list[str]:
    several = [
        f"{name} ({len(profile.values)} values)"
        for name, profile in profiles.items()
        if name not in taken and not profile.numeric and 2 <= len(profile.values) <= n_rows / 2
    ]
    repeated = f"; text that repeats: {_options(several)}" if several else ""
    return [f"site: {_ask(f'which column is the hospital? null if there is only one{repeated}')}"]


def _no_covariate(profile: ColumnProfile) -> str | None:
    if not profile.values:
        return "no values"
    if len(profile.values) == 1:
        return f"always {profile.values[0]}"
    if not profile.numeric and len(profile.values) > _MOST_LEVELS:
        return f"text with {len(profile.values)} different values"
    return None


def _columns(profiles: dict[str, ColumnProfile]) -> list[str]:
    if not profiles:
        return ["columns: {}"]
    lines = [
        "columns:",
        "  # Keep what is known when the prediction is made: nothing that follow-up taught.",
    ]
    names: set[str] = set()
    for column, profile in profiles.items():
        name = _slug(column, names | {"site", "patient_id"})
        names.add(name)
        lines += _column(name, profile)
    return lines


def _column(name: str, profile: ColumnProfile) -> list[str]:
    head = [f"  {_plain(name)}:", f"    from: {_plain(profile.name)}"]
    levels = f"    levels: [{', '.join(map(_quoted, profile.values))}]"
    n = len(profile.values)
    if n == 2 or not profile.numeric:
        ordered = "  # ordinal, levels from low to high, if they have an order" if n > 2 else ""
        return [*head, f"    kind: nominal{ordered}", levels]
    if n <= _FEW_NUMBERS and profile.integers:
        question = "continuous (then a unit instead of levels), ordinal or nominal?"
        return [*head, f"    kind: {_ask(question)}", levels]
    span = f"values run from {profile.values[0]} to {profile.values[-1]}"
    return [*head, "    kind: continuous", f"    unit: {_ask(f'which unit? {span}')}"]


def _left_out(left_out: tuple[tuple[str, str], ...]) -> list[str]:
    return [f"  # not declared: {_plain(column)} ({_short(why)})" for column, why in left_out]


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 60 else one_line[:57] + "..."


def _endpoints(endpoints: list[EndpointColumns], profiles: dict[str, ColumnProfile]) -> list[str]:
    if not endpoints:
        question = "which outcomes? see docs/cohorts.md; {} if none is known yet"
        return [f"endpoints: {_ask(question)}"]
    lines = ["endpoints:"]
    names: set[str] = set()
    for endpoint in endpoints:
        name = _slug(endpoint.name, names)
        names.add(name)
        times = profiles[endpoint.time].values
        span = f"values run from {times[0]} to {times[-1]}"
        lines += [
            f"  {_plain(name)}:",
            "    kind: survival",
            f"    time: {_plain(endpoint.time)}",
            f"    unit: {_ask(f'days, months or years? {span}')}",
            f"    event: {_plain(endpoint.event)}",
            "    codes:",
            *(
                f"      {_quoted(code)}: {_ask('censored or event?')}"
                for code in profiles[endpoint.event].values
            ),
        ]
    return lines


def _missing(markers: tuple[str, ...]) -> list[str]:
    return [f"missing: [{', '.join(map(_quoted, markers))}]"]


def _slug(text: str, taken: set[str]) -> str:
    """A legal name that is not taken yet."""
    base = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if not base or not base[0].isalpha():
        base = f"x_{base}" if base else "x"
    base = base[:60]
    name, n = base, 1
    while name in taken:
        n += 1
        name = f"{base}_{n}"
    return name
