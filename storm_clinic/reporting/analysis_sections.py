"""The further analyses by section: what is shown of each, cohort by cohort."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from storm_clinic.reporting.attributions_shown import attributions_shown
from storm_clinic.reporting.blocks import Block, Heading
from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.domain_shown import domain_shown
from storm_clinic.reporting.drift_shown import drift_shown
from storm_clinic.reporting.effects_shown import shapes_shown, time_effects_shown
from storm_clinic.reporting.groups_shown import groups_shown
from storm_clinic.reporting.labels import labelled
from storm_clinic.reporting.parts import CohortPart, analysed_parts
from storm_clinic.reporting.patients_shown import (
    adequacy_shown,
    case_mix_shown,
    missingness_shown,
)
from storm_clinic.reporting.regressions_shown import regressions_shown
from storm_clinic.reporting.sections import SECTIONS
from storm_clinic.reporting.sites_shown import sites_shown
from storm_clinic.reporting.strata_shown import subgroups_shown
from storm_clinic.reporting.tables import Table
from storm_clinic.reporting.utility_shown import utility_shown
from storm_clinic.reporting.validity_shown import internal_shown, probes_shown

_SHOWN: Mapping[str, Callable[[CohortPart], list[Block]]] = {
    "adequacy": adequacy_shown,
    "missingness": missingness_shown,
    "case_mix": case_mix_shown,
    "drift": drift_shown,
    "domain": domain_shown,
    "attributions": attributions_shown,
    "decision": utility_shown,
    "groups": groups_shown,
    "regressions": regressions_shown,
    "time_effects": time_effects_shown,
    "shapes": shapes_shown,
    "subgroups": subgroups_shown,
    "sites": sites_shown,
    "probes": probes_shown,
    "internal": internal_shown,
}


def analysis_blocks(content: ReportContent) -> dict[str, tuple[Block, ...]]:
    """Blocks of every section of analyses that this content has, by the section's key."""
    return {
        section.key: tuple(_blocks(content, section.analysis))
        for section in SECTIONS
        if section.analysis and analysed_parts(content, section.analysis)
    }


def analysis_tables(content: ReportContent) -> list[Table]:
    """The tables among them."""
    return [b for found in analysis_blocks(content).values() for b in found if isinstance(b, Table)]


def _blocks(content: ReportContent, kind: str) -> list[Block]:
    blocks: list[Block] = []
    for part in analysed_parts(content, kind):
        place = "validation" if part.external else "development patients"
        blocks.append(Heading(f"{part.cohort}: {place}"))
        shown = _SHOWN[kind](part)
        if kind == "decision":
            # A claim may name net benefit; all other analyses are never claimed.
            shown = [
                labelled(b, content, external=part.external) if isinstance(b, Table) else b
                for b in shown
            ]
        blocks += shown
    return blocks
