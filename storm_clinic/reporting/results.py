"""What the page shows of one cohort: tables and figures made from its evidence."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from storm_clinic.reporting.calibration_figure import calibration
from storm_clinic.reporting.class_figure import class_curves
from storm_clinic.reporting.comparison_tables import class_table, comparison_table, fusion_table
from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.curve_tables import confusion_table, risk_group_table
from storm_clinic.reporting.forest_figure import ForestRow, forest
from storm_clinic.reporting.labels import labelled
from storm_clinic.reporting.notation import count, interval_of, value_of
from storm_clinic.reporting.parts import CohortPart, cohort_parts
from storm_clinic.reporting.performance_tables import (
    horizon_table,
    other_gains_table,
    performance_tables,
)
from storm_clinic.reporting.phrases import composition
from storm_clinic.reporting.readings import readings
from storm_clinic.reporting.risk_group_figure import risk_groups
from storm_clinic.reporting.tables import Table
from storm_clinic.validation.comparison import headline, models_in_order
from storm_clinic.validation.evidence import CalibrationCurve, RiskGroupCurves
from storm_clinic.validation.measures import MEASURES, gain_of


@dataclass(frozen=True)
class ResultTables:
    """Tables about one cohort of one piece of evidence."""

    comparison: Table | None
    fusions: Table | None
    performance: tuple[Table, ...]
    others: Table | None
    horizons: Table | None
    groups: tuple[Table, ...]
    by_class: Table | None
    confusion: tuple[Table, ...]

    @property
    def all(self) -> list[Table]:
        """Every table that is there."""
        found = [self.comparison, self.fusions, *self.performance, self.others, self.horizons]
        found += [*self.groups, self.by_class, *self.confusion]
        return [table for table in found if table is not None]


@dataclass(frozen=True)
class GroupsShown:
    """Risk groups of one model: the figure, the table, and what must be said beside them."""

    model: str
    figure: Markup
    table: Table
    note: str
    event: str  # the cause whose incidence is drawn; empty: event-free patients


@dataclass(frozen=True)
class Results:
    """Everything about one cohort, as the page shows it."""

    cohort: str
    external: bool
    tables: ResultTables
    forest: Markup
    calibration: Markup | None
    calibration_notes: tuple[str, ...]
    groups: tuple[GroupsShown, ...]
    classes: Markup | None


@dataclass(frozen=True)
class KeyNumber:
    """One number of the first screen."""

    label: str
    value: str
    below: str


def all_results(content: ReportContent) -> list[Results]:
    """Tables and figures: validation cohorts first, then cross-validation."""
    return [_results(part) for part in cohort_parts(content)]


def result_tables(content: ReportContent) -> list[ResultTables]:
    """The tables alone, in the same order."""
    return [_tables(part) for part in cohort_parts(content)]


def _tables(part: CohortPart) -> ResultTables:
    about = (part.content, part.evidence, part.cohort)
    matrices = [
        matrix
        for model in part.shown
        for matrix in part.evidence.confusion
        if (matrix.cohort, matrix.model) == (part.cohort, model)
    ]
    comparison = comparison_table(*about, f"{part.slug}-comparison")
    metric = headline(part.evidence)
    seen = {metric, gain_of(metric), "calibration_slope"} if comparison else set()
    performance = performance_tables(*about, f"{part.slug}-performance", without=seen)
    return ResultTables(
        comparison=_labelled(part, comparison),
        fusions=_labelled(part, fusion_table(*about, f"{part.slug}-fusions")),
        performance=tuple(t for found in performance if (t := _labelled(part, found))),
        others=_labelled(part, other_gains_table(*about, f"{part.slug}-other-gains")),
        horizons=_labelled(part, horizon_table(*about, f"{part.slug}-horizons")),
        groups=tuple(
            risk_group_table(curves, f"{part.slug}-groups-{number}-table")
            for number, curves in enumerate(part.groups, start=1)
        ),
        by_class=_labelled(part, class_table(*about, f"{part.slug}-classes-table", part.shown)),
        confusion=tuple(
            confusion_table(matrix, f"{part.slug}-confusion-{number}")
            for number, matrix in enumerate(matrices, start=1)
        ),
    )


def _labelled(part: CohortPart, table: Table | None) -> Table | None:
    return None if table is None else labelled(table, part.content, external=part.external)


def _results(part: CohortPart) -> Results:
    tables = _tables(part)
    return Results(
        cohort=part.cohort,
        external=part.external,
        tables=tables,
        forest=_forest(part),
        calibration=_calibration(part),
        calibration_notes=tuple(
            dict.fromkeys(
                text for c in _calibration_curves(part) for text in (c.method, c.note) if text
            )
        ),
        groups=tuple(
            GroupsShown(
                curves.model,
                _groups(curves, f"{part.slug}-groups-{n}"),
                table,
                curves.note,
                curves.event,
            )
            for n, (curves, table) in enumerate(zip(part.groups, tables.groups, strict=True), 1)
        ),
        classes=_classes(part),
    )


def _groups(curves: RiskGroupCurves, slug: str) -> Markup:
    what = (
        f"Cumulative incidence of {curves.event} in" if curves.event else "Event-free patients of"
    )
    title = f"{what} {curves.cohort} by risk group of {curves.model}"
    return risk_groups(curves, slug=slug, title=title)


def _calibration_curves(part: CohortPart) -> list[CalibrationCurve]:
    return [
        curve
        for curve in part.evidence.calibration
        if curve.cohort == part.cohort and curve.model in part.shown
    ]


def _calibration(part: CohortPart) -> Markup | None:
    curves = _calibration_curves(part)
    if not curves:
        return None
    return calibration(
        curves,
        slug=f"{part.slug}-calibration",
        title=f"Observed against predicted risk on {part.cohort}",
        candidate=part.content.candidate,
    )


def _classes(part: CohortPart) -> Markup | None:
    curves = [
        curve
        for curve in part.evidence.classes
        if curve.cohort == part.cohort and curve.model in part.shown
    ]
    if not curves:
        return None
    return class_curves(
        curves,
        slug=f"{part.slug}-classes",
        title=f"Receiver operating characteristic and precision-recall on {part.cohort}",
        candidate=part.content.candidate,
    )


def _forest(part: CohortPart) -> Markup:
    content, evidence, cohort = part.content, part.evidence, part.cohort
    metric = headline(evidence)
    over = content.comparator if len(evidence.models) > 1 else None
    rows = []
    for model in models_in_order(evidence, content.study):
        value = evidence.find(metric, model=model, cohort=cohort)
        gain = evidence.find(gain_of(metric), model=model, cohort=cohort, over=over) if over else []
        rows.append(
            ForestRow(
                model,
                value[0] if value else None,
                gain[0] if gain else None,
                is_candidate=model == content.candidate,
                is_comparator=model == content.comparator,
            )
        )
    return forest(
        rows,
        slug=f"{part.slug}-forest",
        label=MEASURES[metric].label,
        over=over,
        neutral=MEASURES[metric].neutral,
        title=f"{MEASURES[metric].label} of every model on {cohort}",
    )


def key_numbers(content: ReportContent) -> list[tuple[str, list[KeyNumber]]]:
    """For each cohort of the answer: patients, the candidate, the comparator, the difference."""
    strips = []
    for reading in readings(content):
        numbers = []
        if reading.value is not None:
            events = composition(reading.outcome, reading.value.n_events)
            numbers.append(KeyNumber("Patients", count(reading.value.n_patients), events))
        for label, estimate in (
            (f"{MEASURES[reading.metric].label}, {content.candidate}", reading.value),
            (f"{MEASURES[reading.metric].label}, {content.comparator}", reading.comparator),
            ("Difference", reading.gain),
        ):
            if estimate is not None:
                numbers.append(KeyNumber(label, value_of(estimate), interval_of(estimate)))
        place = "validation" if reading.kind == "external" else "cross-validation"
        strips.append((f"{reading.cohort}, {place}", numbers))
    return strips
