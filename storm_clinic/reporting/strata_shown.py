"""Subgroups and sites: forest plots, heterogeneity, and what a new site may expect."""

from __future__ import annotations

from storm_clinic.reporting.blocks import Block, Heading, Picture, Words, absent, cautions, made
from storm_clinic.reporting.interval_figure import IntervalRow, interval_forest
from storm_clinic.reporting.notation import count, listed, months, number, readable
from storm_clinic.reporting.numbers import (
    EXPLORATORY,
    bare_p,
    bounded_cell,
    decisive,
    digits_of_metric,
    ends,
    flat,
    holm_header,
    p_spoken,
    shown_by,
    spoken,
)
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.tables import Cell, Footnotes, Row, Table
from storm_clinic.validation.analyses import MetaAnalysis, Stratum, SubgroupAnalysis
from storm_clinic.validation.measures import MEASURES, base_of, label_of

_Measured = SubgroupAnalysis | MetaAnalysis


def subgroups_shown(part: CohortPart) -> list[Block]:
    """One plot and table a measure: every level of every declared variable."""
    found: tuple[SubgroupAnalysis, ...] = part.analyses("subgroups")
    measured = list(dict.fromkeys(_about(item) for item in found))
    blocks: list[Block] = []
    for at, about in enumerate(measured, start=1):
        here = [item for item in found if _about(item) == about]
        if len(measured) > 1:
            blocks.append(Heading(about, 4))
        blocks += _subgroups(here, about, f"{part.slug}-{at}")
    return blocks


def _about(item: _Measured) -> str:
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
        words = "" if item.heterogeneity is None else p_spoken(item.heterogeneity)
        short = words if len(words) < 34 else ""
        rows.append(IntervalRow(readable(item.variable), kind="heading", words=short))
        rows += [_row(stratum) for stratum in item.strata]
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
    return [
        Words(heterogeneity_sentence(here)),
        Picture(figure, caption),
        _subgroup_table(here, about, slug),
        *blocks,
        *cautions(*(item.note for item in here)),
        *made(*(item.method for item in here)),
    ]


def _row(stratum: Stratum) -> IntervalRow:
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
    few = [
        f"{readable(item.variable)} {stratum.label}"
        for item in here
        for stratum in item.strata
        if stratum.value is None
    ]
    tail = f" Too few patients to say anything: {listed(few)}." if few else ""
    if shown:
        return f"{what} is shown to differ between levels of {listed(shown)}.{tail}"
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
            for s in item.strata
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


def sites_shown(part: CohortPart) -> list[Block]:
    """Each measure by site, pooled, and where that of a new site may be expected."""
    blocks: list[Block] = []
    for at, item in enumerate(part.analyses("sites"), start=1):
        about = _about(item)
        if at > 1:
            blocks.append(Heading(about, 4))
        if not item.sites:
            blocks.append(absent(f"{about} by site", item.note))
            continue
        blocks += _sites(item, about, f"{part.slug}-{at}")
    return blocks


def _sites(item: MetaAnalysis, about: str, slug: str) -> list[Block]:
    pooled, low, high = item.pooled, item.prediction_lower, item.prediction_upper
    words = "" if pooled.lower is not None else "not pooled"
    rows = [_row(site) for site in item.sites]
    rows.append(
        IntervalRow("Pooled", pooled.value, pooled.lower, pooled.upper, kind="pooled", words=words)
    )
    if low is not None and high is not None:
        rows.append(IntervalRow("Expected in a new site", None, low, high, kind="prediction"))
    figure = interval_forest(
        rows,
        slug=f"{slug}-plot",
        title=f"{about} by site of {item.cohort}",
        axis=about,
        neutral=neutral_of(item.metric),
        digits=digits_of_metric(item.metric),
        signed=item.metric.endswith("_gain"),
    )
    caption = f"{about} by site of {item.cohort}; diamond: pooled"
    caption += "; thick line: 95% prediction interval of a new site." if low is not None else "."
    return [
        Words(new_site_sentence(item)),
        Picture(figure, caption),
        _site_table(item, about, slug),
        *cautions(item.note),
        *made(item.method),
    ]


def new_site_sentence(item: MetaAnalysis) -> str:
    """What is pooled, and what a new site may find."""
    digits, signed = digits_of_metric(item.metric), item.metric.endswith("_gain")
    text = (
        f"{_about(item)} over {len(item.sites)} sites: {spoken(item.pooled, digits, signed=signed)}"
    )
    low, high, neutral = item.prediction_lower, item.prediction_upper, neutral_of(item.metric)
    if low is None or high is None:
        return f"{text}. What a new site may find cannot be said from these."
    text += f". A new site may find {ends(low, high, digits, signed=signed)}"
    if neutral is not None and low <= neutral <= high:
        nothing = "no gain or a loss" if signed else "what chance gives"
        text += (
            f", so {nothing} is among what it may find"
            if MEASURES.get(base_of(item.metric))
            else ""
        )
    return f"{text}."


def _site_table(item: MetaAnalysis, about: str, slug: str) -> Table:
    notes = Footnotes()
    digits, signed = digits_of_metric(item.metric), item.metric.endswith("_gain")
    rows = [
        Row(
            (
                Cell(site.label),
                Cell(count(site.n_patients), numeric=True),
                Cell(count(site.n_events), numeric=True),
                bounded_cell(site, notes, digits, signed=signed),
            )
        )
        for site in item.sites
    ]
    empty = Cell("", numeric=True)
    rows.append(
        Row(
            (
                Cell("Pooled", strong=True),
                Cell(count(sum(s.n_patients for s in item.sites)), numeric=True),
                Cell(count(sum(s.n_events for s in item.sites)), numeric=True),
                bounded_cell(item.pooled, notes, digits, signed=signed),
            )
        )
    )
    if item.prediction_lower is not None:
        between = ends(item.prediction_lower, item.prediction_upper, digits, signed=signed)
        rows.append(
            Row((Cell("Expected in a new site"), empty, empty, Cell(between, numeric=True)))
        )
    spread = [
        f"{name} {number(value, 3)}"
        for name, value in (("τ²", item.tau2), ("I²", item.i2))
        if value is not None
    ]
    header = (
        Cell("Site"),
        Cell("Patients", numeric=True),
        Cell("Events", numeric=True),
        Cell(label_of(item.metric), numeric=True),
    )
    base = {"cohort": item.cohort, "metric": item.metric, "model": item.model, "over": item.over}
    records = [{**base, "what": "site", **flat(s.model_dump())} for s in item.sites]
    records.append({**base, "what": "pooled", "label": "", **flat(item.pooled.model_dump())})
    if item.prediction_lower is not None:
        limits = {"lower": item.prediction_lower, "upper": item.prediction_upper}
        records.append({**base, "what": "new site", "label": "", **limits})
    caption = f"{about} by site of {item.cohort}{f' ({chr(44).join(spread)})' if spread else ''}"
    return Table(slug, caption, header, tuple(rows), tuple(records), notes.all(), EXPLORATORY)
