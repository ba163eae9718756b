"""Whether patients are enough, what of them is missing, how unlike development they are."""

from __future__ import annotations

from storm_clinic.reporting.blocks import Block, Picture, Words, cautions, made
from storm_clinic.reporting.difference_figure import NOTABLE, differences
from storm_clinic.reporting.notation import ABSENT, count, listed, number, readable, share
from storm_clinic.reporting.numbers import (
    EXPLORATORY,
    bare_p,
    flat,
    holm_header,
    shown_by,
)
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.tables import Cell, Footnotes, Row, Table
from storm_clinic.validation.analyses import (
    Adequacy,
    CaseMix,
    CovariateProfile,
    Missingness,
    Requirement,
)

_ENOUGH = {True: ("enough", "pass"), False: ("too few", "fail"), None: ("not judged", "na")}


def adequacy_shown(part: CohortPart) -> list[Block]:
    """The sentence first, then what each criterion needs and what there is."""
    blocks: list[Block] = []
    found: tuple[Adequacy, ...] = part.analyses("adequacy")
    for at, item in enumerate(found, start=1):
        blocks.append(Words(item.sentence))
        if item.requirements:
            blocks.append(_requirements(item, f"{part.slug}-{at}"))
        blocks += cautions(item.note)
        blocks += made(item.method)
    return blocks


def _requirements(item: Adequacy, slug: str) -> Table:
    notes = Footnotes()
    rows = [_requirement(requirement, notes) for requirement in item.requirements]
    header = (
        Cell("Criterion", below="what the need is for"),
        Cell("Needed", below="patients, events", numeric=True),
        Cell("At hand", below="patients, events", numeric=True),
        Cell("What they give"),
        Cell("Judged"),
    )
    records = tuple(
        {"cohort": item.cohort, "stage": item.stage, **flat(r.model_dump())}
        for r in item.requirements
    )
    verb = "develop" if item.stage == "development" else "validate"
    caption = f"Sample size of {item.cohort}: patients and events needed to {verb} a model"
    return Table(slug, caption, header, tuple(rows), records, notes.all(), style="words")


def _requirement(item: Requirement, notes: Footnotes) -> Row:
    def pair(patients: int | None, events: int | None) -> Cell:
        texts = [ABSENT if n is None else count(n) for n in (patients, events)]
        return Cell(texts[0], texts[1], numeric=True)

    text, tone = _ENOUGH[item.enough]
    mark = notes.mark(item.note) if item.note else ""
    return Row(
        (
            Cell(item.criterion, item.target),
            pair(item.needed_patients, item.needed_events),
            pair(item.available_patients, item.available_events),
            Cell(item.reached),
            Cell(text, tone=tone, mark=mark),
        )
    )


def missingness_shown(part: CohortPart) -> list[Block]:
    """How much is missing, among whom, and whether it goes with the outcome."""
    found: tuple[Missingness, ...] = part.analyses("missingness")
    return [Words(_missing_sentence(found)), _missing_table(found, part)]


def _missing_sentence(found: tuple[Missingness, ...]) -> str:
    some = [item for item in found if item.n_missing]
    if not some:
        return "No value of these variables is missing."
    linked = [readable(item.variable) for item in some if shown_by(item.test)]
    if linked:
        return (
            f"Whether {listed(linked)} {'is' if len(linked) == 1 else 'are'} known goes with the "
            "outcome, so that patients with complete data do not stand for all."
        )
    tested = any(item.test is not None and item.test.p is not None for item in some)
    if not tested:
        return "Whether being missing goes with the outcome was not tested."
    return "That being missing goes with the outcome was not shown, which does not rule it out."


def _missing_table(found: tuple[Missingness, ...], part: CohortPart) -> Table:
    notes = Footnotes()
    adjusted = any(i.test is not None and i.test.p_adjusted is not None for i in found)
    header = [Cell("Variable"), Cell("Patients", numeric=True), Cell("Missing", numeric=True)]
    header += [
        Cell("Missing", below="with the event", numeric=True),
        Cell("Missing", below="without it", numeric=True),
        Cell("p", below="goes with outcome", numeric=True),
    ]
    header += [holm_header(notes)] if adjusted else []
    rows = []
    for item in sorted(found, key=lambda i: -i.n_missing):
        test = item.test
        mark = notes.mark(test.note) if test is not None and test.note else ""
        cells = [
            Cell(readable(item.variable)),
            Cell(count(item.n_patients), numeric=True),
            Cell(count(item.n_missing), share(item.n_missing, item.n_patients), numeric=True),
            Cell(_percent(item.missing_with_event), numeric=True),
            Cell(_percent(item.missing_without_event), numeric=True),
            Cell(bare_p(test.p if test else None), numeric=True, mark=mark),
        ]
        if adjusted:
            cells.append(Cell(bare_p(test.p_adjusted if test else None), numeric=True))
        rows.append(Row(tuple(cells)))
    caption = f"Missing values in {part.cohort}, most first"
    records = tuple(flat(item.model_dump()) for item in found)
    return Table(part.slug, caption, tuple(header), tuple(rows), records, notes.all(), EXPLORATORY)


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{number(100 * value, 1)}%"


def case_mix_shown(part: CohortPart) -> list[Block]:
    """Each variable in development and here, and how far apart they are."""
    found: tuple[CaseMix, ...] = part.analyses("case_mix")
    known = [item for item in found if item.standardised_difference is not None]
    blocks: list[Block] = [Words(_mix_sentence(part.cohort, found))]
    if known:
        title = f"Standardised differences of {part.cohort} from development"
        caption = (
            f"How {part.cohort} differs from development, in standard deviations. Dots: "
            "continuous, positive where higher here; diamonds: categories, which have a size and "
            f"no direction. Grey: smaller than {NOTABLE:g}."
        )
        blocks.append(Picture(differences(known, slug=f"{part.slug}-plot", title=title), caption))
    return [*blocks, _mix_table(found, part)]


def _mix_sentence(cohort: str, found: tuple[CaseMix, ...]) -> str:
    known = {
        readable(item.variable): abs(item.standardised_difference)
        for item in found
        if item.standardised_difference is not None
    }
    if not known:
        return f"How {cohort} differs from development is not known."
    apart = sorted((name for name, d in known.items() if d > NOTABLE), key=lambda n: -known[n])
    if not apart:
        return (
            f"No difference between {cohort} and development is larger than {NOTABLE:g} standard "
            f"deviations in the {len(known)} variables compared."
        )
    worst = f", {apart[0]} most ({number(known[apart[0]])})"
    return (
        f"{cohort} differs from development by more than {NOTABLE:g} standard deviations in "
        f"{len(apart)} of {len(known)} variables: {listed(apart)}{worst if len(apart) > 1 else ''}."
    )


def _mix_table(found: tuple[CaseMix, ...], part: CohortPart) -> Table:
    notes, rows = Footnotes(), []
    for item in found:
        mark = notes.mark(item.note) if item.note else ""
        difference = Cell(number(item.standardised_difference), numeric=True, mark=mark)
        both = (item.development, item.evaluated)
        name = Cell(readable(item.variable), strong=True)
        if item.evaluated.kind == "continuous":
            rows.append(Row((name, *(Cell(_moments(p), numeric=True) for p in both), difference)))
        else:
            empty = Cell("", numeric=True)
            rows.append(Row((name, empty, empty, difference)))
            rows += [_level(level, both) for level in _levels(both)]
        if any(profile.n_missing for profile in both):
            texts = [
                f"{count(p.n_missing)} ({share(p.n_missing, p.n_missing + p.n_known)})"
                for p in both
            ]
            cells = (Cell(text, numeric=True) for text in texts)
            rows.append(Row((Cell("missing", indent=True), *cells, Cell("", numeric=True))))
    names = (found[0].development.cohort, part.cohort) if found else ("development", part.cohort)
    header = (
        Cell("Variable"),
        Cell(names[0], "development", numeric=True),
        Cell(names[1], "evaluated", numeric=True),
        Cell("Standardised", "difference", numeric=True),
    )
    caption = "Case mix. Continuous: mean (standard deviation); levels: count (share of the known)"
    records = tuple(
        {
            "cohort": item.cohort,
            "variable": item.variable,
            "standardised_difference": item.standardised_difference,
            **{f"development_{k}": v for k, v in flat(item.development.model_dump()).items()},
            **{f"evaluated_{k}": v for k, v in flat(item.evaluated.model_dump()).items()},
            "note": item.note,
        }
        for item in found
    )
    return Table(part.slug, caption, header, tuple(rows), records, notes.all())


def _moments(profile: CovariateProfile) -> str:
    return f"{number(profile.mean, 1)} ({number(profile.sd, 1)})"


def _levels(both: tuple[CovariateProfile, CovariateProfile]) -> list[str]:
    return list(dict.fromkeys(level for profile in both for level in profile.levels))


def _level(level: str, both: tuple[CovariateProfile, CovariateProfile]) -> Row:
    cells = [Cell(level, indent=True)]
    for profile in both:
        counts = dict(zip(profile.levels, profile.counts, strict=True))
        n = counts.get(level, 0)
        cells.append(Cell(f"{count(n)} ({share(n, profile.n_known)})", numeric=True))
    return Row((*cells, Cell("", numeric=True)))
