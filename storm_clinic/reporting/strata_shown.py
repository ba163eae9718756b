"""Subgroups: forest plots, heterogeneity, and strata that are too small to say."""

from __future__ import annotations

from dataclasses import replace

from storm_clinic.reporting.blocks import Block, Heading, Picture, Words, absent, cautions, made
from storm_clinic.reporting.interval_figure import IntervalRow, interval_forest
from storm_clinic.reporting.notation import count, listed, months, readable
from storm_clinic.reporting.numbers import (
    EXPLORATORY,
    bare_p,
    bounded_cell,
    decisive,
    digits_of_metric,
    flat,
    holm_header,
    p_short,
    shown_by,
)
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.phrases import capital
from storm_clinic.reporting.tables import Cell, Footnotes, Row, Table
from storm_clinic.validation.analyses import MetaAnalysis, Stratum, SubgroupAnalysis
from storm_clinic.validation.measures import MEASURES, base_of, label_of

_Measured = SubgroupAnalysis | MetaAnalysis
_MOST_SMALL = 4  # levels of a variable that are too small and still get a line each
_MOST_NAMED = 8  # of them in a sentence
_SITE = "site"


def subgroups_shown(part: CohortPart) -> list[Block]:
    """One plot and table a measure: every level of every declared variable."""
    found: tuple[SubgroupAnalysis, ...] = part.analyses("subgroups")
    blocks: list[Block] = []
    if part.analyses("sites") and any(item.variable == _SITE for item in found):
        found = tuple(item for item in found if item.variable != _SITE)
        blocks.append(Words("Numbers by site stand among the sites, and in the CSV tables."))
    measured = list(dict.fromkeys(about_of(item) for item in found))
    for at, about in enumerate(measured, start=1):
        here = [item for item in found if about_of(item) == about]
        if len(measured) > 1:
            blocks.append(Heading(about, 4))
        blocks += _subgroups(here, about, f"{part.slug}-{at}")
    return blocks


def about_of(item: _Measured) -> str:
    """What a number is about, e.g. ``C-index of fusion by 36 months``."""
    over = f" over {item.over}" if item.over else ""
    horizon = item.horizon_months if isinstance(item, SubgroupAnalysis) else None
    at = "" if horizon is None else f" by {months(horizon)}"
    return f"{label_of(item.metric)} of {item.model}{over}{at}"


def neutral_of(metric: str) -> float | None:
    """Where a measure or a gain shows nothing."""
    if metric.endswith("_gain"):
        return 0.0
    measure = MEASURES.get(base_of(metric))
    return None if measure is None else measure.neutral


def _subgroups(here: list[SubgroupAnalysis], about: str, slug: str) -> list[Block]:
    blocks: list[Block] = [
        absent(f"{about} by {readable(item.variable)}", item.note)
        for item in here
        if not item.strata
    ]
    here = [item for item in here if item.strata]
    if not here:
        return blocks
    first = here[0]
    rows: list[IntervalRow] = []
    for item in here:
        words = "" if item.heterogeneity is None else p_short(item.heterogeneity)
        rows.append(IntervalRow(readable(item.variable), kind="heading", words=words))
        rows += [interval_row(stratum) for stratum in told(item)]
    figure = interval_forest(
        rows,
        slug=f"{slug}-plot",
        title=f"{about} in subgroups of {first.cohort}",
        axis=about,
        neutral=neutral_of(first.metric),
        digits=digits_of_metric(first.metric),
        signed=first.metric.endswith("_gain"),
    )
    caption = (
        f"{about} in subgroups of {first.cohort}, with 95% intervals. Beside a variable: whether "
        "its levels differ."
    )
    drawn = [Picture(figure, caption)] if any_number(rows) else []
    return [
        Words(heterogeneity_sentence(here)),
        *drawn,
        replace(_subgroup_table(here, about, slug), folded=bool(drawn)),
        *blocks,
        *cautions(*(item.note for item in here)),
        *made(*(item.method for item in here)),
    ]


def told(item: SubgroupAnalysis) -> list[Stratum]:
    """Levels as they are shown: many that are too small share one line."""
    small = [stratum for stratum in item.strata if stratum.value is None]
    if len(small) <= _MOST_SMALL:
        return list(item.strata)
    together = Stratum(
        label=f"{len(small)} other levels",
        n_patients=sum(stratum.n_patients for stratum in small),
        n_events=sum(stratum.n_events for stratum in small),
        note="; ".join(dict.fromkeys(stratum.note for stratum in small)),
    )
    return [*(stratum for stratum in item.strata if stratum.value is not None), together]


def any_number(rows: list[IntervalRow]) -> bool:
    """Whether there is anything to draw."""
    return any(row.value is not None for row in rows)


def interval_row(stratum: Stratum) -> IntervalRow:
    """A line of the forest plot; a stratum without a number is put into words."""
    words = "too few to say" if stratum.value is None else ""
    if stratum.value is not None and stratum.lower is None:
        words = f"{stratum.value:.2f}, no interval"
    return IntervalRow(
        stratum.label,
        stratum.value,
        stratum.lower,
        stratum.upper,
        stratum.n_patients,
        stratum.n_events,
        words=words,
    )


def heterogeneity_sentence(here: list[SubgroupAnalysis]) -> str:
    """Between the levels of which variables a difference is shown."""
    shown = [readable(item.variable) for item in here if shown_by(item.heterogeneity)]
    known = [item for item in here if decisive(item.heterogeneity) is not None]
    what = label_of(here[0].metric)
    what = what[0].lower() + what[1:] if what.startswith("Gain ") else what
    few = [
        f"{readable(item.variable)} {stratum.label}"
        for item in here
        for stratum in item.strata
        if stratum.value is None
    ]
    if len(few) > _MOST_NAMED:
        few = [*few[: _MOST_NAMED - 1], f"{len(few) - _MOST_NAMED + 1} more"]
    tail = f" Too few patients to say anything: {listed(few)}." if few else ""
    if shown:
        return f"{capital(what)} is shown to differ between levels of {listed(shown)}.{tail}"
    if not known:
        return f"Whether {what} differs between subgroups could not be tested.{tail}"
    return (
        f"No difference in {what} between subgroups is shown; with these numbers of patients that "
        f"does not mean there is none.{tail}"
    )


def _subgroup_table(here: list[SubgroupAnalysis], about: str, slug: str) -> Table:
    notes = Footnotes()
    digits = digits_of_metric(here[0].metric)
    signed = here[0].metric.endswith("_gain")
    adjusted = any(i.heterogeneity and i.heterogeneity.p_adjusted is not None for i in here)
    header = [
        Cell("Subgroup"),
        Cell("Patients", numeric=True),
        Cell("Events", numeric=True),
        Cell(label_of(here[0].metric), numeric=True),
        Cell("p", "levels differ", numeric=True),
    ]
    header += [holm_header(notes)] if adjusted else []
    empty, rows = Cell("", numeric=True), []
    for item in here:
        test = item.heterogeneity
        mark = notes.mark(test.note) if test is not None and test.note else ""
        cells = [Cell(readable(item.variable), strong=True), empty, empty, empty]
        cells.append(Cell(bare_p(test.p) if test else "", numeric=True, mark=mark))
        cells += [Cell(bare_p(test.p_adjusted) if test else "", numeric=True)] if adjusted else []
        rows.append(Row(tuple(cells)))
        rows += [
            Row(
                (
                    Cell(s.label, indent=True),
                    Cell(count(s.n_patients), numeric=True),
                    Cell(count(s.n_events), numeric=True),
                    bounded_cell(s, notes, digits, signed=signed),
                    *([empty] * (2 if adjusted else 1)),
                )
            )
            for s in told(item)
        ]
    records = tuple(
        {
            "cohort": item.cohort,
            "variable": item.variable,
            "metric": item.metric,
            "model": item.model,
            "over": item.over,
            "horizon_months": item.horizon_months,
            **flat(stratum.model_dump()),
            "heterogeneity_p": None if item.heterogeneity is None else item.heterogeneity.p,
            "heterogeneity_p_adjusted": decisive(item.heterogeneity),
        }
        for item in here
        for stratum in item.strata
    )
    caption = f"{about} in subgroups of {here[0].cohort}: value over 95% interval"
    return Table(slug, caption, tuple(header), tuple(rows), records, notes.all(), EXPLORATORY)
