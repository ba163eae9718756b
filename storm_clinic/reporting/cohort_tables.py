"""Tables of who was in: flow of patients, and the cohorts side by side with what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from storm_clinic.reporting.content import CohortSummary, VariableRow
from storm_clinic.reporting.notation import ABSENT, count, number, readable, share
from storm_clinic.reporting.tables import Cell, Row, Table, Value
from storm_clinic.validation.evidence import CohortOutcome

Outcomes = Mapping[str, CohortOutcome]


def flow_table(cohort: CohortSummary, slug: str) -> Table:
    """Every step of the flow, with how many left and why."""
    rows, records = [], []
    for step in cohort.flow:
        left = step.n_before - step.n_after
        numbers = (step.n_before, left, step.n_after)
        cells = [Cell(step.step), Cell(step.unit)]
        cells += [Cell(count(n), numeric=True) for n in numbers]
        reasons = "; ".join(f"{reason}: {count(n)}" for reason, n in step.reasons)
        rows.append(Row((*cells, Cell(reasons or (ABSENT if left == 0 else "not recorded")))))
        base: dict[str, Value] = {
            "cohort": cohort.name,
            "step": step.step,
            "unit": step.unit,
            "before": step.n_before,
            "after": step.n_after,
        }
        records += [
            {**base, "reason": reason, "n": n} for reason, n in (step.reasons or (("", 0),))
        ]
    header = _header("Step", "Counted", number_columns=("Before", "Left", "After"))
    return Table(
        slug,
        f"Flow in {cohort.name}: how many came in, left and why",
        (*header, Cell("Reasons")),
        tuple(rows),
        tuple(records),
    )


def cohort_table(
    cohorts: Sequence[CohortSummary], outcomes: Outcomes, slug: str = "cohorts"
) -> Table:
    """Cohorts side by side: size, outcomes, follow-up, covariates and what is missing.

    ``outcomes`` counts several causes or classes by cohort; a cohort without has one event.
    """
    rows = _size_rows(cohorts, outcomes)
    variables = list(dict.fromkeys(r.variable for cohort in cohorts for r in cohort.variables))
    for variable in variables:
        rows += _variable_rows(variable, cohorts)
    header = (Cell(""), *(Cell(c.name, c.role, numeric=True) for c in cohorts))
    records = [record for cohort in cohorts for record in _cohort_records(cohort)]
    caption = (
        "Patients analysed. Continuous variables: median (quartiles); levels: count "
        "(share of the known)"
    )
    return Table(slug, caption, header, tuple(rows), tuple(records))


def _header(*names: str, number_columns: tuple[str, ...] = ()) -> tuple[Cell, ...]:
    return (*map(Cell, names), *(Cell(name, numeric=True) for name in number_columns))


def _size_rows(cohorts: Sequence[CohortSummary], outcomes: Outcomes) -> list[Row]:
    def line(label: str, texts: list[str]) -> Row:
        return Row((Cell(label, strong=True), *(Cell(text, numeric=True) for text in texts)))

    rows = [line("Patients", [count(c.n_patients) for c in cohorts])]
    rows += [line(label, texts) for label, texts in _outcome_lines(cohorts, outcomes)]
    for label, values in (
        ("Slides", [c.n_slides for c in cohorts]),
        ("Sites", [c.n_sites for c in cohorts]),
    ):
        if any(value is not None for value in values):
            rows.append(line(label, [ABSENT if v is None else count(v) for v in values]))
    follow_up = [cohort.median_follow_up_months for cohort in cohorts]
    if any(value is not None for value in follow_up):
        rows.append(line("Median follow-up, months", [number(v, 1) for v in follow_up]))
    return rows


def _outcome_lines(
    cohorts: Sequence[CohortSummary], outcomes: Outcomes
) -> Iterator[tuple[str, list[str]]]:
    """A line each cause or class with its count in every cohort; one where there is one event."""
    counts = [
        dict(zip(outcomes[c.name].names, outcomes[c.name].counts, strict=True))
        if c.name in outcomes
        else {"the event": c.n_events}
        for c in cohorts
    ]
    for name in dict.fromkeys(name for found in counts for name in found):
        numbers = [
            (found.get(name), c.n_patients) for found, c in zip(counts, cohorts, strict=True)
        ]
        texts = [ABSENT if n is None else f"{count(n)} ({share(n, of)})" for n, of in numbers]
        what = "Class" if any(o.kind == "classes" for o in outcomes.values()) else "With"
        yield f"{what} {readable(name)}", texts


def _variable_rows(variable: str, cohorts: Sequence[CohortSummary]) -> list[Row]:
    known = [{r.level: r for r in c.variables if r.variable == variable} for c in cohorts]
    levels = list(dict.fromkeys(level for rows in known for level in rows))
    name = readable(variable)
    if levels == [""]:
        values = [rows[""].value if "" in rows else ABSENT for rows in known]
        rows = [Row((Cell(name, strong=True), *(Cell(v, numeric=True) for v in values)))]
    else:
        rows = [Row((Cell(name, strong=True), *(Cell("", numeric=True) for _ in cohorts)))]
        rows += [_level_row(level, known) for level in levels]
    missing = [_n_missing(found.values()) for found in known]
    if any(missing):
        texts = [
            ABSENT if n is None else f"{count(n)} ({share(n, c.n_patients)})"
            for n, c in zip(missing, cohorts, strict=True)
        ]
        cells = (Cell("missing", indent=True), *(Cell(t, numeric=True) for t in texts))
        rows.append(Row(cells))
    return rows


def _level_row(level: str, known: list[dict[str, VariableRow]]) -> Row:
    values = [rows[level].value if level in rows else ABSENT for rows in known]
    return Row((Cell(level, indent=True), *(Cell(v, numeric=True) for v in values)))


def _n_missing(rows: Iterable[VariableRow]) -> int | None:
    counts = [r.n_missing for r in rows if r.n_missing is not None]
    return counts[0] if counts else None


def _cohort_records(cohort: CohortSummary) -> list[dict[str, Value]]:
    base: dict[str, Value] = {"cohort": cohort.name, "role": cohort.role}
    sizes: dict[str, Value] = {
        "patients": cohort.n_patients,
        "events": cohort.n_events,
        "slides": cohort.n_slides,
        "sites": cohort.n_sites,
        "median follow-up, months": cohort.median_follow_up_months,
    }
    records = [{**base, "variable": name, "level": "", "value": v} for name, v in sizes.items()]
    return records + [
        {
            **base,
            "variable": row.variable,
            "level": row.level,
            "value": row.value,
            "missing": row.n_missing,
        }
        for row in cohort.variables
    ]
