"""Regressions for inference: complete cases beside imputation, and what the risk adds."""

from __future__ import annotations

import re

from storm_clinic.reporting.blocks import (
    Block,
    Heading,
    Picture,
    Words,
    absent,
    cautions,
    folded,
    made,
)
from storm_clinic.reporting.interval_figure import IntervalRow, interval_forest
from storm_clinic.reporting.notation import ABSENT, count, number, readable
from storm_clinic.reporting.numbers import (
    EXPLORATORY,
    bare_p,
    decisive,
    ends,
    p_spoken,
    shown_by,
    tests_table,
)
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.tables import Cell, Row, Table
from storm_clinic.validation.analyses import HypothesisTest, Regression, Term

_RATIOS = {
    "cox": "Hazard ratio",
    "fine-gray": "Subdistribution hazard ratio",
    "logistic": "Odds ratio",
}
_MISSING = {
    "none": "nothing missing",
    "complete cases": "complete cases",
    "multiple imputation": "multiple imputation",
}
_ADDED = re.compile(r"\badded?\b|\badds\b", re.IGNORECASE)


def regressions_shown(part: CohortPart) -> list[Block]:
    """One plot and table a question, the ways of missing data side by side."""
    found: tuple[Regression, ...] = part.analyses("regressions")
    questions = list(dict.fromkeys((item.title, item.kind) for item in found))
    blocks: list[Block] = []
    for at, question in enumerate(questions, start=1):
        here = [item for item in found if (item.title, item.kind) == question]
        shown = _question(here, f"{part.slug}-{at}")
        if here[0].model and here[0].model not in part.shown:
            blocks += folded(shown)
        else:
            blocks += [Heading(question[0], 4), *shown]
    return blocks


def _question(here: list[Regression], slug: str) -> list[Block]:
    fitted = [item for item in here if item.terms]
    blocks: list[Block] = [
        absent(f"The regression ({_how(item)})", item.note) for item in here if not item.terms
    ]
    if not fitted:
        return blocks
    blocks += [Words(text) for item in fitted for text in added_sentences(item)]
    ratio = _RATIOS[fitted[0].kind]
    names = (_how(fitted[0]), _how(fitted[1])) if len(fitted) > 1 else None
    figure = interval_forest(
        _rows(fitted),
        slug=f"{slug}-plot",
        title=f"{fitted[0].title}, {fitted[0].cohort}",
        axis=f"{ratio} (logarithmic)",
        neutral=1.0,
        digits=2,
        log=True,
        legend=names,
    )
    caption = f"{ratio}s with 95% intervals; an interval that crosses 1 shows no association."
    blocks += [Picture(figure, caption), _terms(fitted, slug)]
    tests = [
        test.model_copy(update={"about": _about(test, item, len(fitted))})
        for item in fitted
        for test in item.tests
    ]
    if tests:
        caption = f"Tests of these regressions, {fitted[0].cohort}"
        blocks.append(tests_table(f"{slug}-tests", caption, tests))
    blocks += cautions(*(item.note for item in fitted))
    return [*blocks, *made(*(item.method for item in fitted))]


def _about(test: HypothesisTest, item: Regression, n: int) -> str:
    return "; ".join(p for p in (readable(test.about), _how(item) if n > 1 else "") if p)


def _how(item: Regression) -> str:
    text = _MISSING[item.missing]
    return f"{text} ({item.n_imputations} times)" if item.n_imputations else text


def added_sentences(item: Regression) -> list[str]:
    """What tests of added value show; each says who was analysed."""
    who = f"{count(item.n_patients)} patients, {count(item.n_events)} events, {_how(item)}"
    said = []
    for test in item.tests:
        words = f"{test.name} {test.about}"
        if "likelihood ratio" not in test.name.lower() or not _ADDED.search(words):
            continue
        if decisive(test) is None:
            text = f"Whether the risk of ‘{item.model}’ adds to the other terms is not known"
        elif shown_by(test):
            text = f"The risk of ‘{item.model}’ adds to what the other terms tell"
        else:
            text = f"It was not shown that the risk of ‘{item.model}’ adds to the other terms"
        said.append(f"{text} ({p_spoken(test)}; {who}).")
    return said


def _names(fitted: list[Regression]) -> list[str]:
    return list(dict.fromkeys(term.term for item in fitted for term in item.terms))


def _rows(fitted: list[Regression]) -> list[IntervalRow]:
    rows = []
    for name in _names(fitted):
        for at, item in enumerate(fitted):
            term = _term(item, name)
            if term is None:
                continue
            kind = "row" if at == 0 else "second"
            label = readable(name) if at == 0 or _term(fitted[0], name) is None else ""
            rows.append(IntervalRow(label, term.ratio, term.lower, term.upper, kind=kind))  # type: ignore[arg-type]
    return rows


def _term(item: Regression, name: str) -> Term | None:
    return next((term for term in item.terms if term.term == name), None)


def _terms(fitted: list[Regression], slug: str) -> Table:
    header = [Cell("Term")]
    for item in fitted:
        n = f"{count(item.n_patients)} patients, {count(item.n_events)} events"
        header += [Cell(_how(item).capitalize(), n, numeric=True), Cell("p", numeric=True)]
    rows = []
    for name in _names(fitted):
        cells = [Cell(readable(name), strong=True)]
        for item in fitted:
            term = _term(item, name)
            if term is None:
                cells += [Cell(ABSENT, numeric=True), Cell("", numeric=True)]
                continue
            interval = ends(term.lower, term.upper, 2)
            cells += [Cell(number(term.ratio), interval, numeric=True)]
            cells += [Cell(bare_p(term.p), numeric=True)]
        rows.append(Row(tuple(cells)))
    records = tuple(
        {
            "cohort": item.cohort,
            "model": item.model,
            "kind": item.kind,
            "title": item.title,
            "missing": item.missing,
            "patients": item.n_patients,
            "events": item.n_events,
            **term.model_dump(),
        }
        for item in fitted
        for term in item.terms
    )
    caption = f"{_RATIOS[fitted[0].kind]}s over 95% intervals, {fitted[0].cohort}"
    return Table(slug, caption, tuple(header), tuple(rows), records, label=EXPLORATORY)
