"""What the page shows of one cohort: tables and figures made from its evidence."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.figures import (
    ForestRow,
    calibration,
    class_curves,
    forest,
    risk_groups,
)
from storm_clinic.reporting.notation import count, interval_of, value_of
from storm_clinic.reporting.performance_tables import (
    horizon_table,
    other_gains_table,
    performance_tables,
    risk_group_table,
)
from storm_clinic.reporting.tables import Table
from storm_clinic.reporting.wording import headline, readings
from storm_clinic.validation.evidence import Evidence, RiskGroupCurves
from storm_clinic.validation.measures import MEASURES, gain_of


@dataclass(frozen=True)
class GroupsShown:
    """Risk groups of one model: the figure, the table, and what must be said beside them."""

    model: str
    figure: Markup
    table: Table
    note: str


@dataclass(frozen=True)
class Results:
    """Everything about one cohort, as the page shows it."""

    cohort: str
    external: bool
    forest: Markup
    performance: tuple[Table, ...]
    horizons: Table | None
    others: Table | None
    calibration: Markup | None
    calibration_notes: tuple[str, ...]
    groups: tuple[GroupsShown, ...]
    classes: Markup | None

    @property
    def tables(self) -> list[Table]:
        """All tables, for CSV."""
        found = [self.others, self.horizons, *(g.table for g in self.groups)]
        return [*self.performance, *(table for table in found if table is not None)]


@dataclass(frozen=True)
class KeyNumber:
    """One number of the first screen."""

    label: str
    value: str
    below: str


def all_results(content: ReportContent) -> list[Results]:
    """Validation cohorts first, then cross-validation."""
    sources = (*content.validation, *((content.development,) if content.development else ()))
    pairs = [(evidence, cohort) for evidence in sources for cohort in evidence.cohorts]
    return [
        _results(content, evidence, cohort, f"r{number}")
        for number, (evidence, cohort) in enumerate(pairs, start=1)
    ]


def _results(content: ReportContent, evidence: Evidence, cohort: str, slug: str) -> Results:
    curves = [c for c in evidence.calibration if c.cohort == cohort]
    drawn = [c for c in curves if c.model in (content.candidate, content.comparator)]
    classes = [c for c in evidence.classes if c.cohort == cohort]
    shown = [c for c in classes if c.model in (content.candidate, content.comparator)]
    # Candidate first; the other models' curves are in the CSV tables.
    groups = [
        g
        for model in dict.fromkeys((content.candidate, content.comparator))
        for g in evidence.risk_groups
        if (g.cohort, g.model) == (cohort, model)
    ]
    return Results(
        cohort=cohort,
        external=evidence.kind == "external",
        forest=_forest(content, evidence, cohort, slug),
        performance=tuple(performance_tables(content, evidence, cohort, f"{slug}-performance")),
        horizons=horizon_table(content, evidence, cohort, f"{slug}-horizons"),
        others=other_gains_table(content, evidence, cohort, f"{slug}-other-gains"),
        calibration=calibration(
            drawn,
            slug=f"{slug}-calibration",
            title=f"Observed against predicted risk on {cohort}",
            candidate=content.candidate,
        )
        if drawn
        else None,
        calibration_notes=tuple(
            dict.fromkeys(text for c in drawn for text in (c.method, c.note) if text)
        ),
        groups=tuple(_groups(g, f"{slug}-groups-{i}") for i, g in enumerate(groups, start=1)),
        classes=class_curves(
            shown,
            slug=f"{slug}-classes",
            title=f"Receiver operating characteristic and precision-recall on {cohort}",
            candidate=content.candidate,
        )
        if shown
        else None,
    )


def _groups(curves: RiskGroupCurves, slug: str) -> GroupsShown:
    figure = risk_groups(
        curves, slug=slug, title=f"Event-free patients of {curves.cohort} by risk group"
    )
    return GroupsShown(curves.model, figure, risk_group_table(curves, f"{slug}-table"), curves.note)


def _forest(content: ReportContent, evidence: Evidence, cohort: str, slug: str) -> Markup:
    metric = headline(evidence)
    over = content.comparator if len(evidence.models) > 1 else None
    rows = []
    for model in evidence.models:
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
        slug=f"{slug}-forest",
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
            events = f"{count(reading.value.n_events)} with the event"
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
