"""The sections of a page in one list: numbers, contents and cross references all come from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storm_clinic.reporting.content import ReportContent

Reader = Literal["clinician", "statistician", "regulator"]


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes
    ----------
    key : str
        Id of the element, and the name other text refers to it by.
    title : str
    reader : {"clinician", "statistician", "regulator"}
        For whom it is written.
    analysis : str
        Field of `Analyses` it shows; such a section is there only where something was asked for.
    infers : bool
        Whether it draws conclusions from samples, so that it must say what was named before.
    """

    key: str
    title: str
    reader: Reader
    analysis: str = ""
    infers: bool = False


SECTIONS: tuple[Section, ...] = (
    Section("patients", "Patients", "clinician"),
    Section("groups", "Risk groups and curves", "clinician", infers=True),
    Section("tiles", "What the model looked at", "clinician"),
    Section("glossary", "How to read these numbers", "clinician"),
    Section("adequacy", "Are there enough patients?", "statistician", "adequacy"),
    Section("missingness", "Missing values", "statistician", "missingness", infers=True),
    Section("case-mix", "Case mix", "statistician", "case_mix"),
    Section("drift", "Do features look like development's?", "statistician", "drift", infers=True),
    Section("storm-domain", "Slides unlike STORM's training", "statistician", "domain"),
    Section(
        "imputed-genes",
        "Imputed genes behind risks",
        "statistician",
        "attributions",
        infers=True,
    ),
    Section("performance", "Performance", "statistician", infers=True),
    Section("calibration", "Calibration", "statistician", infers=True),
    Section("utility", "Decision curves", "statistician", "decision", infers=True),
    Section("group-comparison", "Risk groups compared", "statistician", "groups", infers=True),
    Section("adjusted", "Beside what the clinic knows", "statistician", "regressions", infers=True),
    Section("time-effects", "Effects over time", "statistician", "time_effects", infers=True),
    Section("shapes", "Shapes of effects", "statistician", "shapes", infers=True),
    Section("subgroups", "Subgroups", "statistician", "subgroups", infers=True),
    Section("sites", "Sites", "statistician", "sites", infers=True),
    Section("site-probe", "Does it know the hospital?", "statistician", "probes", infers=True),
    Section("internal", "Internal validity", "statistician", "internal", infers=True),
    Section("methods", "Methods", "statistician"),
    Section("claims-section", "Claims", "regulator"),
    Section("checks", "Automatic checks", "regulator"),
    Section("life", "Moves and decision", "regulator"),
    Section("limits", "Limits", "regulator"),
    Section("tripod", "TRIPOD+AI, item by item", "regulator"),
    Section("probast", "PROBAST+AI, signals of bias", "regulator"),
    Section("provenance-section", "Provenance", "regulator"),
)
_LEADS: dict[Reader, str] = {
    "clinician": "Who was studied, what became of them, and what the words mean.",
    "statistician": "Every number with its interval, whom it rests on, and how it was made.",
    "regulator": "What was promised and what came out, what was checked, and what all rests on.",
}


@dataclass(frozen=True)
class PlacedSection:
    """A section of one page, with its number there."""

    section: Section
    number: int

    @property
    def key(self) -> str:
        """Id of the element."""
        return self.section.key

    @property
    def title(self) -> str:
        """Its heading."""
        return self.section.title


@dataclass(frozen=True)
class Part:
    """The sections for one kind of reader."""

    reader: Reader
    lead: str
    sections: tuple[PlacedSection, ...]


def placed(content: ReportContent) -> tuple[PlacedSection, ...]:
    """Sections that this content has, numbered as they come."""
    there = [section for section in SECTIONS if _is_there(content, section)]
    return tuple(PlacedSection(section, n) for n, section in enumerate(there, start=1))


def parts(content: ReportContent) -> tuple[Part, ...]:
    """The same, by reader."""
    sections = placed(content)
    return tuple(
        Part(reader, lead, tuple(s for s in sections if s.section.reader == reader))
        for reader, lead in _LEADS.items()
    )


def see(content: ReportContent, key: str) -> str:
    """``section 7``: how text refers to the section of this key.

    Raises
    ------
    KeyError
        If this page has no such section.
    """
    return f"section {number_of(content, key)}"


def number_of(content: ReportContent, key: str) -> int:
    """The number of the section of this key on this page.

    Raises
    ------
    KeyError
        If this page has no such section.
    """
    return {section.key: section.number for section in placed(content)}[key]


def _is_there(content: ReportContent, section: Section) -> bool:
    if section.key == "tiles":
        # Of another program's model nobody here knows whether it looked at tiles at all.
        return bool(content.tiles) or content.study is not None
    if section.key == "life":
        return bool(content.moves)
    if not section.analysis:
        return True
    return any(getattr(item.analyses, section.analysis) for item in content.evidence)
