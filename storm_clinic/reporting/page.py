"""One self-contained page: no network, no script, printable; every table also as CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from storm_clinic.errors import InputError
from storm_clinic.files import write_text
from storm_clinic.reporting.analysis_sections import analysis_blocks, analysis_tables
from storm_clinic.reporting.answer import answer
from storm_clinic.reporting.cohort_tables import cohort_table, flow_table
from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.curve_tables import (
    calibration_records,
    class_records,
    risk_group_records,
)
from storm_clinic.reporting.effects_shown import shape_records, time_effect_records
from storm_clinic.reporting.findings import failed_checks, findings, not_for
from storm_clinic.reporting.glossary import glossary
from storm_clinic.reporting.labels import multiplicity, section_label
from storm_clinic.reporting.methods import limits, methods
from storm_clinic.reporting.model_life import decision_table, life_sentence, moves_table
from storm_clinic.reporting.notation import count, readable, share
from storm_clinic.reporting.record_tables import checks_table, claims_table, provenance_table
from storm_clinic.reporting.references import references
from storm_clinic.reporting.regulator_tables import probast_table, tripod_table
from storm_clinic.reporting.results import all_results, key_numbers, result_tables
from storm_clinic.reporting.sections import parts, placed, see
from storm_clinic.reporting.tables import Table, Value, estimate_records, to_csv
from storm_clinic.reporting.utility_shown import decision_records

__all__ = ["Report", "ReportContent", "render"]

_TEMPLATES = Environment(
    loader=PackageLoader("storm_clinic.reporting", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"count": count, "readable": readable}
_TEMPLATES.globals |= {"share": share}


def render(content: ReportContent) -> str:
    """The whole report as one HTML document.

    The same content gives the same bytes. Nothing in it is fetched and nothing runs: text from
    cohorts and studies is escaped, and the page's own policy forbids scripts and network.
    """
    template = _TEMPLATES.get_template("page.html.j2")
    style = _TEMPLATES.get_template("style.css").render()
    sections = placed(content)
    return template.render(
        content=content,
        style=Markup(style),
        answer=answer(content),
        life=life_sentence(content),
        findings=findings(content),
        failed=failed_checks(content),
        see_checks=see(content, "checks"),
        not_for=not_for(content),
        key_numbers=key_numbers(content),
        parts=parts(content),
        labels={s.key: section_label(content, s.section) for s in sections},
        multiplicity=multiplicity(content),
        blocks=analysis_blocks(content),
        results=all_results(content),
        glossary=glossary(content),
        methods=methods(content),
        references=references(content),
        limits=limits(content),
        tables=_named_tables(content),
        checks=_checks(content),
        refer=_linked({str(s.number): s.key for s in sections}),
    )


def _linked(keys: Mapping[str, str]) -> Callable[[str], Markup]:
    """Escape text, and make ``section 7`` in it a link to that section."""

    def link(found: re.Match[str]) -> str:
        key = keys.get(found[1])
        return found[0] if key is None else f'<a href="#{key}">{found[0]}</a>'

    return lambda text: Markup(re.sub(r"\bsection (\d+)\b", link, str(escape(text))))


@dataclass(frozen=True)
class Report:
    """A report that can be saved.

    Attributes
    ----------
    content : ReportContent
    """

    content: ReportContent

    def save(self, path: str | Path) -> Path:
        """Write the page, and every table as CSV into ``<name>_tables/`` beside it.

        That folder belongs to the report: CSV files of an earlier save are removed, so that no
        old number lies beside a new page.

        Parameters
        ----------
        path : str or Path
            Must end in ``.html``.

        Raises
        ------
        InputError
            If the path ends otherwise.
        StorageError
            If the disk is full or the folder may not be written.
        """
        path = Path(path)
        if path.suffix != ".html":
            raise InputError("a report ends in .html", where=path, fix="Name it so.")
        write_text(path, render(self.content))
        folder = path.with_name(f"{path.stem}_tables")
        files = self.tables()
        for name, text in files.items():
            write_text(folder / f"{name}.csv", text)
        for old in folder.glob("*.csv"):
            if old.stem not in files:
                old.unlink()
        return path

    def tables(self) -> dict[str, str]:
        """Every table of the page, and the curves of its figures, as CSV text by name."""
        found = {table.slug: table.to_csv() for table in self._tables() if table.records}
        curves = {name: to_csv(records) for name, records in self._curves().items() if records}
        return {**found, **curves}

    def _tables(self) -> list[Table]:
        named = [t for t in _named_tables(self.content).values() if t is not None]
        results = [table for item in result_tables(self.content) for table in item.all]
        flows = [table for _, table in _flows(self.content)]
        analyses = analysis_tables(self.content)
        return [*named, *flows, *results, *analyses, *_checks(self.content)]

    def _curves(self) -> dict[str, tuple[Mapping[str, Value], ...]]:
        measured = self.content.evidence
        return {
            "all-estimates": tuple(
                record
                for item in measured
                for record in estimate_records(item.estimates, item.kind)
            ),
            "calibration-curves": calibration_records(
                [curve for item in measured for curve in item.calibration]
            ),
            "risk-group-curves": risk_group_records(
                [curve for item in measured for curve in item.risk_groups]
            ),
            "decision-curves": tuple(
                record
                for item in measured
                for curve in item.analyses.decision
                for record in decision_records(curve)
            ),
            "effects-over-time": time_effect_records(
                [effect for item in measured for effect in item.analyses.time_effects]
            ),
            "shapes-of-effects": shape_records(
                [shape for item in measured for shape in item.analyses.shapes]
            ),
            "class-curves": class_records([curve for item in measured for curve in item.classes]),
        }


def _named_tables(content: ReportContent) -> dict[str, Table | None]:
    outcomes = {found.cohort: found for item in content.evidence for found in item.outcomes}
    return {
        "cohorts": cohort_table(content.cohorts, outcomes) if content.cohorts else None,
        "claims": claims_table(content),
        "moves": moves_table(content),
        "decision": decision_table(content),
        "tripod": tripod_table(content),
        "probast": probast_table(content),
        "provenance": provenance_table(content),
    }


def _flows(content: ReportContent) -> list[tuple[str, Table]]:
    return [
        (cohort.name, flow_table(cohort, f"flow-{number}"))
        for number, cohort in enumerate(content.cohorts, start=1)
        if cohort.flow
    ]


def _checks(content: ReportContent) -> list[Table]:
    titles = {"external": "Checks of the validation", "cross-validation": "Checks of development"}
    return [
        checks_table(item, f"checks-{number}", titles[item.kind])
        for number, item in enumerate(content.evidence, start=1)
        if item.checks
    ]
