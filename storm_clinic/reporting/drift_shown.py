"""Whether features look like those of development, overall, by scanner and by site."""

from __future__ import annotations

from storm_clinic.reporting.blocks import Block, Words, absent, cautions, made
from storm_clinic.reporting.notation import ABSENT, count, listed, number, share
from storm_clinic.reporting.numbers import (
    EXPLORATORY,
    LEVEL,
    bare_p,
    flat,
    holm_header,
    p_sign,
)
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.tables import Cell, Footnotes, Row, Table
from storm_clinic.validation.analyses import DriftComparison, FeatureDrift

_OF = {
    "image": "tile embeddings",
    "storm": "STORM embeddings",
    "virtual_expression": "imputed genes of tiles",
    "imputed_expression": "imputed genes",
}
_DIVISIONS = {"scanner": "scanners", "site": "sites"}


def drift_shown(part: CohortPart) -> list[Block]:
    """The sentence first, then each group held against development; small ones by name."""
    found: tuple[FeatureDrift, ...] = part.analyses("drift")
    blocks: list[Block] = []
    for at, item in enumerate(found, start=1):
        compared = [group for group in item.comparisons if group.n_outside is not None]
        if not compared:
            reasons = [item.note, *(group.note for group in item.comparisons[:1])]
            why = "; ".join(reason for reason in reasons if reason)
            blocks.append(absent(f"How {_OF[item.features]} differ from development's", why))
            continue
        blocks.append(Words(drift_sentence(item)))
        blocks.append(_table(item, compared, f"{part.slug}-{at}"))
        blocks += [*cautions(item.note, *_small(item)), *made(item.method)]
    return blocks


def drift_sentence(item: FeatureDrift) -> str:
    """What was shown of all patients, and of how many groups."""
    subject = _OF[item.features]
    whole = next((g for g in item.comparisons if g.division == "all"), None)
    said = []
    if whole is not None and whole.n_outside is not None:
        p = _decisive(whole)
        shown = p is not None and p < LEVEL
        how = (
            f"{subject[:1].upper()}{subject[1:]} of {item.cohort} differ from those of development"
            if shown
            else f"That {subject} of {item.cohort} differ from those of development was not shown"
        )
        adjusted = " after Holm's adjustment" if whole.p_adjusted is not None else ""
        said.append(
            f"{how} (energy distance {number(whole.distance, 2)}, p {p_sign(p)}{adjusted}); "
            f"{count(whole.n_outside)} of {count(whole.n_patients)} patients "
            f"({share(whole.n_outside, whole.n_patients)}) lie outside of what 99 in 100 patients "
            "of development keep to"
        )
    groups = [g for g in item.comparisons if g.division != "all" and g.p is not None]
    differing = [g.label for g in groups if (_decisive(g) or 0.0) < LEVEL]
    if differing:
        said.append(f"of {count(len(groups))} groups, {listed(differing)} differ")
    return "; ".join(said) + "."


def _decisive(group: DriftComparison) -> float | None:
    return group.p if group.p_adjusted is None else group.p_adjusted


def _small(item: FeatureDrift) -> list[str]:
    """Groups that were not compared, by division and reason."""
    texts = []
    for division, words in _DIVISIONS.items():
        left = [g for g in item.comparisons if g.division == division and g.n_outside is None]
        for reason in dict.fromkeys(group.note for group in left):
            names = [f"{g.label} ({count(g.n_patients)})" for g in left if g.note == reason]
            texts.append(f"{words} with {reason}: {', '.join(names)}")
    return texts


def _table(item: FeatureDrift, compared: list[DriftComparison], slug: str) -> Table:
    notes = Footnotes()
    adjusted = any(group.p_adjusted is not None for group in compared)
    header = [
        Cell("Patients", "of"),
        Cell("Number", numeric=True),
        Cell("Outside", numeric=True),
        Cell("Energy distance", "share of the largest", numeric=True),
        Cell("p", "permutation", numeric=True),
    ]
    header += [holm_header(notes)] if adjusted else []
    rows = []
    for group in compared:
        mark = notes.mark(group.note) if group.note else ""
        name = "all" if group.division == "all" else group.label
        outside = group.n_outside or 0
        below = "" if group.coefficient is None else number(group.coefficient, 3)
        cells = [
            Cell(name, "" if group.division == "all" else group.division, mark=mark),
            Cell(count(group.n_patients), numeric=True),
            Cell(count(outside), share(outside, group.n_patients), numeric=True),
            Cell(
                number(group.distance, 2) if group.distance is not None else ABSENT,
                below,
                numeric=True,
            ),
            Cell(bare_p(group.p), numeric=True),
        ]
        cells += [Cell(bare_p(group.p_adjusted), numeric=True)] if adjusted else []
        rows.append(Row(tuple(cells)))
    about = {"cohort": item.cohort, "features": item.features}
    records = tuple({**about, **flat(group.model_dump())} for group in item.comparisons)
    caption = (
        f"Features of {item.cohort} against {count(item.n_sampled)} patients of development along "
        f"{count(item.n_axes)} principal axes ({_OF[item.features]})"
    )
    return Table(slug, caption, tuple(header), tuple(rows), records, notes.all(), EXPLORATORY)
