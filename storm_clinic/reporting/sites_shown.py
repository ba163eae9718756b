"""Sites: each of them, pooled, and what a new one may find."""

from __future__ import annotations

from dataclasses import replace

from storm_clinic.reporting.blocks import Block, Heading, Picture, Words, absent, cautions, made
from storm_clinic.reporting.interval_figure import IntervalRow, interval_forest
from storm_clinic.reporting.notation import ABSENT, count, listed, number
from storm_clinic.reporting.numbers import (
    EXPLORATORY,
    bounded_cell,
    digits_of_metric,
    ends,
    flat,
    spoken,
)
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.strata_shown import (
    about_of,
    any_number,
    interval_row,
    neutral_of,
)
from storm_clinic.reporting.tables import Cell, Footnotes, Row, Table, Value
from storm_clinic.validation.analyses import MetaAnalysis, Stratum
from storm_clinic.validation.measures import MEASURES, base_of, label_of

# With fewer, the spread between sites is hardly known, and so is what a new one may find.
_FEW_SITES = 5


def sites_shown(part: CohortPart) -> list[Block]:
    """Each measure by site, pooled, and where that of a new site may be expected."""
    blocks: list[Block] = []
    nowhere: list[MetaAnalysis] = []
    for at, item in enumerate(part.analyses("sites"), start=1):
        about, slug = about_of(item), f"{part.slug}-{at}"
        if not item.sites:
            blocks.append(absent(f"{about} by site", item.note))
        elif not entering(item):
            nowhere.append(item)
            blocks.append(replace(_site_table(item, about, slug), folded=True))
        else:
            blocks += [Heading(about, 4), *_sites(item, about, slug)]
    return [*_nowhere(nowhere), *blocks]


def _nowhere(items: list[MetaAnalysis]) -> list[Block]:
    """Measures that no site is large enough for, in one sentence."""
    if not items:
        return []
    named = listed([about_of(item) for item in items])
    n_sites = len(items[0].sites)
    text = f"Not one of {n_sites} sites is large enough to say anything of {named}."
    return [Words(text), *cautions(items[0].note)]


def _sites(item: MetaAnalysis, about: str, slug: str) -> list[Block]:
    pooled, low, high = item.pooled, item.prediction_lower, item.prediction_upper
    words = "" if pooled.lower is not None else "not pooled"
    rows = [interval_row(site) for site in entering(item)]
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
    drawn = [Picture(figure, caption)] if any_number(rows) else []
    return [
        Words(new_site_sentence(item)),
        *drawn,
        replace(_site_table(item, about, slug), folded=bool(drawn)),
        *cautions(item.note),
        *made(item.method),
    ]


def _higher_is_better(metric: str) -> bool:
    measure = MEASURES.get(base_of(metric))
    return metric.endswith("_gain") or (measure is not None and measure.better == "higher")


def entering(item: MetaAnalysis) -> list[Stratum]:
    """Sites with a number; others are too small and are counted in words."""
    return [site for site in item.sites if site.value is not None]


def _small(item: MetaAnalysis) -> list[Stratum]:
    return [site for site in item.sites if site.value is None]


def _sites_in_words(item: MetaAnalysis) -> str:
    n, of = len(entering(item)), len(item.sites)
    if n < of:
        return f"{n} of {of} sites"
    return "one site" if n == 1 else f"{n} sites"


def new_site_sentence(item: MetaAnalysis) -> str:
    """What is pooled, and what a new site may find."""
    digits, signed = digits_of_metric(item.metric), item.metric.endswith("_gain")
    pooled = spoken(item.pooled, digits, signed=signed)
    text = f"{about_of(item)} over {_sites_in_words(item)}: {pooled}"
    low, high, neutral = item.prediction_lower, item.prediction_upper, neutral_of(item.metric)
    if low is None or high is None:
        return f"{text}. What a new site may find cannot be said from these."
    if len(entering(item)) < _FEW_SITES:
        text += f". Fewer than {_FEW_SITES} sites hardly tell how sites differ"
    text += f". A new site may find {ends(low, high, digits, signed=signed)}"
    # Below nothing altogether is no better than around it.
    if neutral is not None and low <= neutral and _higher_is_better(item.metric):
        nothing = "no gain or a loss" if signed else "what chance gives, or less,"
        text += f", so {nothing} is among what it may find"
    return f"{text}."


def _left_out(small: list[Stratum], notes: Footnotes) -> Row:
    """One line for all sites that are too small, with the reasons."""
    reasons = "; ".join(dict.fromkeys(site.note for site in small))
    return Row(
        (
            Cell("one site left out" if len(small) == 1 else f"{len(small)} sites left out"),
            Cell(count(sum(site.n_patients for site in small)), numeric=True),
            Cell(count(sum(site.n_events for site in small)), numeric=True),
            Cell(ABSENT, numeric=True, mark=notes.mark(reasons)),
        )
    )


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
        for site in entering(item)
    ]
    empty = Cell("", numeric=True)
    entered, small = entering(item), _small(item)
    rows.append(
        Row(
            (
                Cell("Pooled", strong=True),
                Cell(count(sum(s.n_patients for s in entered)), numeric=True),
                Cell(count(sum(s.n_events for s in entered)), numeric=True),
                bounded_cell(item.pooled, notes, digits, signed=signed),
            )
        )
    )
    if item.prediction_lower is not None:
        between = ends(item.prediction_lower, item.prediction_upper, digits, signed=signed)
        rows.append(
            Row((Cell("Expected in a new site"), empty, empty, Cell(between, numeric=True)))
        )
    if small:
        rows.append(_left_out(small, notes))
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
    caption = f"{about} by site of {item.cohort}{f' ({listed(spread)})' if spread else ''}"
    return Table(slug, caption, header, tuple(rows), _records(item), notes.all(), EXPLORATORY)


def _records(item: MetaAnalysis) -> tuple[dict[str, Value], ...]:
    """Every site, also those left out, what is pooled and what is expected."""
    base: dict[str, Value] = {
        "cohort": item.cohort,
        "metric": item.metric,
        "model": item.model,
        "over": item.over,
    }
    records: list[dict[str, Value]] = [
        {**base, "what": "site", **flat(s.model_dump())} for s in item.sites
    ]
    records.append({**base, "what": "pooled", "label": "", **flat(item.pooled.model_dump())})
    if item.prediction_lower is not None:
        limits = {"lower": item.prediction_lower, "upper": item.prediction_upper}
        records.append({**base, "what": "new site", "label": "", **limits})
    return tuple(records)
