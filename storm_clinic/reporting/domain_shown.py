"""Slides that look unlike what STORM's checkpoint was trained on: how many, and whose."""

from __future__ import annotations

from storm_clinic.reporting.blocks import Block, Words, absent, cautions
from storm_clinic.reporting.notation import ABSENT, count, number, share
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.tables import Cell, Row, Table, Value
from storm_clinic.validation.domain_warnings import DomainWarnings, PatientOutside

MEANING = (
    "more tiles of such a slide look unlike the training sections than of any section left out: "
    "what STORM says of it, imputed genes and embeddings alike, was not shown to hold, and "
    "held-out correlations are about other tissue"
)
_OPEN = 15  # patients beyond whom the table is folded
_KEY = 12  # characters of a key on the page; the CSV has all of it


def domain_shown(part: CohortPart) -> list[Block]:
    """The sentence first, then what it means, then patients by key."""
    blocks: list[Block] = []
    for at, item in enumerate(part.analyses("domain"), start=1):
        if not item.n_judged:
            what = f"Whether slides look like the training data of {item.checkpoint}"
            blocks.append(absent(what, item.note or "no patient has a STORM file"))
            continue
        blocks.append(Words(domain_sentence(item)))
        unknown = ""
        if item.n_unknown:
            slides = "slide" if item.n_unknown == 1 else "slides"
            unknown = f"of {count(item.n_unknown)} further {slides} it is not known: {item.note}"
        blocks += [*cautions(MEANING if item.n_outside else "", unknown)]
        blocks.append(_table(item, f"{part.slug}-{at}"))
    return blocks


def domain_sentence(item: DomainWarnings) -> str:
    """How many slides of how many patients lie outside of which checkpoint's training data."""
    slides = f"{count(item.n_judged)} slides of {count(item.n_patients)} patients of {item.cohort}"
    trained = f"what the STORM checkpoint {item.checkpoint} was trained on"
    if not item.n_outside:
        return f"None of {slides} looks unlike {trained}."
    whose = "patient" if item.n_patients_outside == 1 else "patients"
    verb = "looks" if item.n_outside == 1 else "look"
    return (
        f"Of {slides}, {count(item.n_outside)} ({share(item.n_outside, item.n_judged)}) of "
        f"{count(item.n_patients_outside)} {whose} {verb} unlike {trained}."
    )


def _table(item: DomainWarnings, slug: str) -> Table:
    header = (
        Cell("Patient", "key"),
        Cell("Slides", numeric=True),
        Cell("Outside", numeric=True),
        Cell("Tiles outside", "largest of a slide", numeric=True),
        Cell("Distance", "about 1 in training", numeric=True),
    )
    everybody = (
        Cell("all", f"{count(item.n_patients)} patients"),
        Cell(count(item.n_judged), numeric=True),
        Cell(count(item.n_outside), share(item.n_outside, item.n_judged), numeric=True),
        Cell("", numeric=True),
        Cell("", numeric=True),
    )
    about: dict[str, Value] = {
        "cohort": item.cohort,
        "checkpoint": item.checkpoint,
        "checkpoint_digest": item.checkpoint_digest,
    }
    whole: dict[str, Value] = {
        **about,
        "patient_key": "",
        "n_slides": item.n_slides,
        "n_outside": item.n_outside,
        "n_unknown": item.n_unknown,
        "n_patients": item.n_patients,
        "n_patients_outside": item.n_patients_outside,
    }
    return Table(
        slug,
        f"Slides of {item.cohort} unlike the training data of {item.checkpoint}, and whose they "
        "are",
        header,
        (Row(everybody), *(Row(_cells(patient)) for patient in item.outside)),
        (whole, *({**about, **patient.model_dump()} for patient in item.outside)),
        folded=item.n_patients_outside > _OPEN,
    )


def _cells(patient: PatientOutside) -> tuple[Cell, ...]:
    key, tiles = patient.patient_key, patient.share_outside
    return (
        Cell(key if len(key) <= _KEY else f"{key[:_KEY]}…"),
        Cell(count(patient.n_slides), numeric=True),
        Cell(count(patient.n_outside), numeric=True),
        Cell(ABSENT if tiles is None else f"{tiles:.0%}", numeric=True),
        Cell(ABSENT if patient.distance is None else number(patient.distance, 2), numeric=True),
    )
