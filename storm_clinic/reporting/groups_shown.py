"""Risk groups compared: restricted means, tests, landmarks."""

from __future__ import annotations

from storm_clinic.reporting.blocks import Block, Heading, Words, absent, cautions, folded, made
from storm_clinic.reporting.notation import count, months
from storm_clinic.reporting.numbers import (
    EXPLORATORY,
    bare_p,
    bounded_cell,
    flat,
    spoken,
    tests_table,
)
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.tables import Cell, Footnotes, Row, Table, Value
from storm_clinic.validation.analyses import Contrast, GroupComparison


def groups_shown(part: CohortPart) -> list[Block]:
    """Groups of each model in numbers, their differences, tests and landmarks."""
    blocks: list[Block] = []
    found: tuple[GroupComparison, ...] = part.analyses("groups")
    for at, item in enumerate(found, start=1):
        if not item.groups:
            blocks.append(absent(f"The comparison of risk groups of {item.model}", item.note))
            continue
        # Models that are not drawn anywhere have their tables folded.
        if item.model not in part.shown:
            blocks += folded(_tables(item, f"{part.slug}-{at}"))
            continue
        if len(found) > 1:
            blocks.append(Heading(f"By {item.model}", 4))
        blocks += [Words(contrast_sentence(c, item)) for c in item.differences]
        blocks += _tables(item, f"{part.slug}-{at}")
        blocks += [*cautions(item.note), *made(item.method)]
    return blocks


def _tables(item: GroupComparison, slug: str) -> list[Table]:
    tables = [_summary(item, slug)]
    if item.differences:
        tables.append(_differences(item, f"{slug}-differences"))
    if item.tests:
        caption = f"Tests between risk groups of {item.model} on {item.cohort}"
        tables.append(tests_table(f"{slug}-tests", caption, item.tests))
    if item.landmarks:
        tables.append(_landmarks(item, f"{slug}-landmarks"))
    return tables


def contrast_sentence(contrast: Contrast, item: GroupComparison) -> str:
    """Whether a group's restricted mean is shown to differ from that of the lowest risk."""
    lowest = item.groups[0].label
    until = "" if item.tau_months is None else f" within the first {months(item.tau_months)}"
    about = f"The {contrast.label}-risk group" if " " not in contrast.label else contrast.label
    if contrast.value is None or contrast.lower is None or contrast.upper is None:
        return f"How {contrast.label} differs from {lowest} is {spoken(contrast, 1, signed=True)}."
    numbers = f"{spoken(contrast, 1, signed=True)} months"
    if contrast.upper < 0:
        return f"{about} had fewer months without the event than {lowest}{until}: {numbers}."
    if contrast.lower > 0:
        return f"{about} had more months without the event than {lowest}{until}: {numbers}."
    what = f"in months without the event is shown{until}"
    return f"No difference of {contrast.label} from {lowest} {what}: {numbers}."


def _summary(item: GroupComparison, slug: str) -> Table:
    notes = Footnotes()
    mean = any(group.restricted_mean is not None for group in item.groups)
    header = [Cell("Risk group"), Cell("Patients", numeric=True), Cell("Events", numeric=True)]
    header += [Cell(f"By {h:g} mo", numeric=True) for h in item.horizons_months]
    if mean:
        tau = "" if item.tau_months is None else f"to {months(item.tau_months)}"
        header.append(Cell("Mean months", tau, numeric=True))
    rows, records = [], []
    for group in item.groups:
        cells = [Cell(group.label, strong=True)]
        cells += [Cell(count(n), numeric=True) for n in (group.n_patients, group.n_events)]
        cells += [bounded_cell(b, notes, 0, unit="%") for b in group.by_horizon]
        cells += [Cell("", numeric=True)] * (len(item.horizons_months) - len(group.by_horizon))
        if mean:
            cells.append(bounded_cell(group.restricted_mean, notes, 1))
        rows.append(Row(tuple(cells)))
        base: dict[str, Value] = {"cohort": item.cohort, "model": item.model, "group": group.label}
        base |= {"patients": group.n_patients, "events": group.n_events}
        shares = zip(item.horizons_months, group.by_horizon, strict=False)
        records += [{**base, "what": "share", "months": h, **b.model_dump()} for h, b in shares]
        if group.restricted_mean is not None:
            numbers = group.restricted_mean.model_dump()
            records.append({**base, "what": "mean", "months": item.tau_months, **numbers})
        if not group.by_horizon and group.restricted_mean is None:
            records.append(base)
    what = f"incidence of {item.event}" if item.event else "event-free"
    caption = f"Risk groups of {item.model} on {item.cohort}: {what}, value over 95% interval"
    return Table(
        slug, caption, tuple(header), tuple(rows), tuple(records), notes.all(), EXPLORATORY
    )


def _differences(item: GroupComparison, slug: str) -> Table:
    notes = Footnotes()
    rows = tuple(
        Row(
            (
                Cell(contrast.label, strong=True),
                bounded_cell(contrast, notes, 1, signed=True),
                Cell(bare_p(contrast.p), numeric=True),
            )
        )
        for contrast in item.differences
    )
    header = (
        Cell("Risk group"),
        Cell("Difference", "months", numeric=True),
        Cell("p", numeric=True),
    )
    records = tuple(
        {"cohort": item.cohort, "model": item.model, **flat(c.model_dump())}
        for c in item.differences
    )
    caption = f"Restricted mean months of each group of {item.model}, less {item.groups[0].label}"
    return Table(slug, caption, header, rows, records, notes.all(), EXPLORATORY)


def _landmarks(item: GroupComparison, slug: str) -> Table:
    notes = Footnotes()
    rows = tuple(
        Row(
            (
                Cell(months(mark.months)),
                Cell(count(mark.n_patients), numeric=True),
                Cell(count(mark.n_events), numeric=True),
                bounded_cell(mark.c_index, notes, 2),
            )
        )
        for mark in item.landmarks
    )
    header = (
        Cell("Event-free at"),
        Cell("Patients", numeric=True),
        Cell("Events after", numeric=True),
        Cell("C-index after", numeric=True),
    )
    records = tuple(
        {
            "cohort": item.cohort,
            "model": item.model,
            "months": mark.months,
            "patients": mark.n_patients,
            "events": mark.n_events,
            **mark.c_index.model_dump(),
        }
        for mark in item.landmarks
    )
    caption = f"Landmarks: how well risks of {item.model} rank what comes after"
    return Table(slug, caption, header, rows, records, notes.all(), EXPLORATORY)
