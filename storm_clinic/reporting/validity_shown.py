"""What a model knows of the hospital, and what its own patients say of it."""

from __future__ import annotations

from storm_clinic.reporting.blocks import Block, Heading, Picture, Words, absent, cautions, made
from storm_clinic.reporting.line_figures import learning_curve
from storm_clinic.reporting.notation import count, number
from storm_clinic.reporting.numbers import (
    EXPLORATORY,
    LEVEL,
    bare_p,
    bounded_cell,
    digits_of_metric,
    flat,
    spoken,
)
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.tables import Cell, Footnotes, Row, Table
from storm_clinic.validation.analyses import InternalValidity, LearningPoint, SiteProbe
from storm_clinic.validation.measures import label_of

_CHANCE = 0.5


def probes_shown(part: CohortPart) -> list[Block]:
    """Whether the site can be told, and what of the ranking is left within one."""
    found: tuple[SiteProbe, ...] = part.analyses("probes")
    blocks: list[Block] = [Words(probe_sentence(item)) for item in found]
    blocks.append(_probe_table(found, part))
    blocks += cautions(*(item.note for item in found))
    return [*blocks, *made(*(item.method for item in found))]


def probe_sentence(item: SiteProbe) -> str:
    """Whether the hospital can be told from what a model sees."""
    numbers = f"AUROC {spoken(item.auroc, 2)}"
    who = f"{count(item.n_patients)} patients of {count(item.n_sites)} sites"
    subject = f"{item.what[:1].upper()}{item.what[1:]}"
    if item.auroc.lower is None:
        return f"Whether the {item.what} tells the hospital is not known in {who}: {numbers}."
    if item.auroc.lower > _CHANCE:
        return f"{subject} tells the hospital better than chance in {who}: {numbers}."
    return f"That the {item.what} tells the hospital was not shown in {who}: {numbers}."


def _probe_table(found: tuple[SiteProbe, ...], part: CohortPart) -> Table:
    notes = Footnotes()
    metrics = list(dict.fromkeys(item.metric for item in found if item.metric))
    shown = label_of(metrics[0]) if len(metrics) == 1 else "Measure"
    rows = []
    for item in found:
        digits = digits_of_metric(item.metric) if item.metric else 2
        cells = [Cell(item.what, label_of(item.metric) if len(metrics) > 1 else "")]
        cells.append(bounded_cell(item.auroc, notes, 2))
        cells.append(Cell(bare_p(item.p), numeric=True))
        if metrics:
            numbers = (item.overall, item.within, item.site_alone)
            cells += [bounded_cell(b, notes, digits) for b in numbers]
        rows.append(Row(tuple(cells)))
    header = [Cell("What"), Cell("AUROC", "of telling sites", numeric=True)]
    header.append(Cell("p", "permutation", numeric=True))
    if metrics:
        header += [
            Cell(shown, below, numeric=True)
            for below in ("all pairs", "within sites", "site alone")
        ]
    records = tuple(flat(item.model_dump()) for item in found)
    caption = f"What tells the hospital in {part.cohort}, and ranking within sites"
    return Table(part.slug, caption, tuple(header), tuple(rows), records, notes.all(), EXPLORATORY)


def internal_shown(part: CohortPart) -> list[Block]:
    """Optimism, negative control and learning curve of each model."""
    found: tuple[InternalValidity, ...] = part.analyses("internal")
    told = [item for item in found if _has_numbers(item)]
    blocks: list[Block] = [
        absent(f"Internal validity of {item.model}", item.note)
        for item in found
        if not _has_numbers(item) and not item.learning
    ]
    blocks += [Words(text) for item in told for text in internal_sentences(item)]
    if told:
        blocks.append(_internal_table(told, part))
    for at, item in enumerate(found, start=1):
        if any(point.value is not None for point in item.learning):
            blocks += _learning(item, f"{part.slug}-learning-{at}")
        elif item.learning:
            blocks.append(absent(f"The learning curve of {item.model}", item.learning[0].note))
    shown = [item for item in found if _has_numbers(item) or item.learning]
    blocks += cautions(*(item.note for item in shown))
    return [*blocks, *made(*(item.method for item in shown))]


def _has_numbers(item: InternalValidity) -> bool:
    return any(x is not None for x in (item.apparent, item.corrected, item.null_mean, item.null_p))


def internal_sentences(item: InternalValidity) -> list[str]:
    """What optimism and the negative control say."""
    digits, label = digits_of_metric(item.metric), label_of(item.metric)
    said = []
    if item.corrected is not None and item.apparent is not None:
        said.append(
            f"{label} of ‘{item.model}’ on its own patients, {number(item.apparent, digits)}, is "
            f"{number(item.optimism, digits)} too high by resampling; corrected: "
            f"{spoken(item.corrected, digits)}. This interval supports no claim."
        )
    if item.null_p is not None:
        where = f"with outcomes permuted it was {number(item.null_mean, digits)} on average"
        if item.null_p < LEVEL:
            said.append(
                f"‘{item.model}’ found more than chance gives: {where} (p {_sign(item.null_p)})."
            )
        else:
            said.append(
                f"That ‘{item.model}’ found more than chance gives was not shown: {where} "
                f"(p {_sign(item.null_p)})."
            )
    return said


def _sign(p: float) -> str:
    text = bare_p(p)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


def _internal_table(found: list[InternalValidity], part: CohortPart) -> Table:
    notes = Footnotes()
    rows = []
    for item in found:
        digits = digits_of_metric(item.metric)
        plain = [number(x, digits) for x in (item.apparent, item.optimism)]
        null = "" if item.null_upper is None else f"95% below {number(item.null_upper, digits)}"
        rows.append(
            Row(
                (
                    Cell(item.model, label_of(item.metric), strong=True),
                    *(Cell(text, numeric=True) for text in plain),
                    bounded_cell(item.corrected, notes, digits),
                    Cell(number(item.null_mean, digits), null, numeric=True),
                    Cell(bare_p(item.null_p), numeric=True),
                    Cell(count(item.n_resamples), numeric=True),
                )
            )
        )
    names = ("Apparent", "Optimism", "Corrected", "Outcomes permuted", "p", "Resamples")
    header = (Cell("Model"), *(Cell(name, numeric=True) for name in names))
    records = tuple(
        {
            **flat(
                {k: v for k, v in item.model_dump().items() if k not in ("corrected", "learning")}
            ),
            "corrected": None if item.corrected is None else item.corrected.value,
            "corrected_lower": None if item.corrected is None else item.corrected.lower,
            "corrected_upper": None if item.corrected is None else item.corrected.upper,
        }
        for item in found
    )
    caption = f"Optimism and negative control on {part.cohort}; intervals describe resampling"
    return Table(part.slug, caption, tuple(header), tuple(rows), records, notes.all(), EXPLORATORY)


def _learning(item: InternalValidity, slug: str) -> list[Block]:
    label = label_of(item.metric)
    title = f"Learning curve of {item.model} on {item.cohort}"
    figure = learning_curve(item, slug=f"{slug}-plot", title=title, label=label)
    notes = Footnotes()
    rows = tuple(_point(point, item.metric, notes) for point in item.learning)
    header = (Cell("Patients"), Cell("Events", numeric=True), Cell(label, numeric=True))
    records = tuple(
        {"cohort": item.cohort, "model": item.model, "metric": item.metric, **flat(p.model_dump())}
        for p in item.learning
    )
    return [
        Heading(title, 4),
        Picture(figure, f"{title}: {label} of models trained on part of the patients."),
        Table(slug, title, header, rows, records, notes.all(), EXPLORATORY),
    ]


def _point(point: LearningPoint, metric: str, notes: Footnotes) -> Row:
    return Row(
        (
            Cell(count(point.n_patients)),
            Cell(count(point.n_events), numeric=True),
            bounded_cell(point, notes, digits_of_metric(metric)),
        )
    )
