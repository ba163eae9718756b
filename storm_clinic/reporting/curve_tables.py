"""Tables and records of the curves: risk groups, calibration, classes."""

from __future__ import annotations

from collections.abc import Sequence

from storm_clinic.reporting.notation import count, share
from storm_clinic.reporting.numbers import EXPLORATORY
from storm_clinic.reporting.tables import Cell, Row, Table, Value
from storm_clinic.validation.evidence import (
    CalibrationCurve,
    ClassCurves,
    ConfusionMatrix,
    GroupCurve,
    RiskGroupCurves,
)


def risk_group_table(curves: RiskGroupCurves, slug: str) -> Table:
    """Patients, events, and the curve's value of each group at the curves' ticks.

    Event-free patients or, with competing risks, the cumulative incidence of the cause of interest.
    """
    ticks = [m for m in curves.ticks_months if m > 0]
    rows: list[Row] = []
    records: list[dict[str, Value]] = []
    for group in curves.groups:
        cells = [Cell(group.label, strong=True)]
        numbers = [group.n_patients, group.n_events]
        numbers += [] if group.n_competing is None else [group.n_competing]
        cells += [Cell(count(n), numeric=True) for n in numbers]
        for month in ticks:
            s, low, high = curve_at(group.months, (group.values, group.lower, group.upper), month)
            # Where everybody had an event, the curve stays where it is however long one looks.
            followed = group.months[-1] >= month or _over(group)
            text = f"{100 * s:.0f}%" if followed else "not followed"
            below = f"{100 * low:.0f}% to {100 * high:.0f}%" if followed else ""
            cells.append(Cell(text, below, numeric=True))
            records.append(
                {
                    "cohort": curves.cohort,
                    "model": curves.model,
                    "group": group.label,
                    "patients": group.n_patients,
                    "events": group.n_events,
                    **({} if group.n_competing is None else {"other_events": group.n_competing}),
                    "months": month,
                    _measured(curves): s if followed else None,
                    "lower": low if followed else None,
                    "upper": high if followed else None,
                }
            )
        rows.append(Row(tuple(cells)))
    header = (
        Cell("Risk group"),
        Cell("Patients", numeric=True),
        Cell("Events", numeric=True),
        *([Cell("Other events", numeric=True)] if curves.event else []),
        *(Cell(f"{m:g} mo", numeric=True) for m in ticks),
    )
    what, how = f"Event-free patients of {curves.cohort}", "Kaplan-Meier"
    if curves.event:
        what, how = f"Cumulative incidence of {curves.event} in {curves.cohort}", "Aalen-Johansen"
    caption = f"{what} by risk group of {curves.model} ({how}, 95% interval)"
    return Table(slug, caption, header, tuple(rows), tuple(records), label=EXPLORATORY)


def _measured(curves: RiskGroupCurves) -> str:
    return "incidence" if curves.event else "event_free"


def _over(group: GroupCurve) -> bool:
    """Whether nobody is left to whom anything could happen."""
    if group.incidence:
        return group.months[-1] not in group.censored_months
    return group.survival[-1] == 0


def curve_at(
    times: Sequence[float], curves: Sequence[Sequence[float]], month: float
) -> list[float]:
    """Values of step functions at a month: what was reached at or before it."""
    position = max(sum(time <= month for time in times) - 1, 0)
    return [curve[position] for curve in curves]


def calibration_records(curves: Sequence[CalibrationCurve]) -> tuple[dict[str, Value], ...]:
    """Points and smooth curves of the calibration figures as records."""
    records: list[dict[str, Value]] = []
    for curve in curves:
        base: dict[str, Value] = {
            "cohort": curve.cohort,
            "model": curve.model,
            "horizon_months": curve.horizon_months,
            **({"class": curve.level} if curve.level else {}),
        }
        records += [{**base, "what": "group", **group.model_dump()} for group in curve.groups]
        line = zip(curve.predicted, curve.observed, curve.lower, curve.upper, strict=True)
        names = ("predicted", "observed", "lower", "upper")
        records += [
            {**base, "what": "smooth", **dict(zip(names, point, strict=True))} for point in line
        ]
    return tuple(records)


def risk_group_records(curves: Sequence[RiskGroupCurves]) -> tuple[dict[str, Value], ...]:
    """Steps of the risk groups' curves as records."""
    return tuple(
        {
            "cohort": item.cohort,
            "model": item.model,
            "group": group.label,
            "months": group.months[i],
            _measured(item): group.values[i],
            "lower": group.lower[i],
            "upper": group.upper[i],
        }
        for item in curves
        for group in item.groups
        for i in range(len(group.months))
    )


def class_records(curves: Sequence[ClassCurves]) -> tuple[dict[str, Value], ...]:
    """Points of the curves of classes as records: both curves, told apart by ``curve``."""
    records: list[dict[str, Value]] = []
    for item in curves:
        base: dict[str, Value] = {"cohort": item.cohort, "model": item.model, "event": item.event}
        for name, x, y in (
            ("roc", item.false_positive_rate, item.true_positive_rate),
            ("precision-recall", item.recall, item.precision),
        ):
            records += [{**base, "curve": name, "x": a, "y": b} for a, b in zip(x, y, strict=True)]
    return tuple(records)


def confusion_table(matrix: ConfusionMatrix, slug: str) -> Table:
    """Class that was by class that was the likeliest: patients, and share of the row."""
    rows: list[Row] = []
    records: list[dict[str, Value]] = []
    for was, counts in zip(matrix.levels, matrix.counts, strict=True):
        n = sum(counts)
        cells = [Cell(was, strong=True), Cell(count(n), numeric=True)]
        for called, found in zip(matrix.levels, counts, strict=True):
            cells.append(Cell(count(found), share(found, n), numeric=True, strong=called == was))
            records.append(
                {
                    "cohort": matrix.cohort,
                    "model": matrix.model,
                    "was": was,
                    "predicted": called,
                    "patients": found,
                }
            )
        rows.append(Row(tuple(cells)))
    header = (
        Cell("Class that was"),
        Cell("Patients", numeric=True),
        *(Cell(f"Predicted {level}", numeric=True) for level in matrix.levels),
    )
    n = sum(map(sum, matrix.counts))
    note = f"; {matrix.note}" if matrix.note else ""
    caption = (
        f"Likeliest class by ‘{matrix.model}’ for {count(n)} patients of {matrix.cohort}: patients "
        f"over share of the class that was{note}"
    )
    return Table(slug, caption, header, tuple(rows), tuple(records))
