"""What was named before and what is exploratory, as labels on sections and tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import listed
from storm_clinic.reporting.numbers import EXPLORATORY
from storm_clinic.reporting.sections import Section
from storm_clinic.reporting.tables import Table
from storm_clinic.study import Claim
from storm_clinic.validation.measures import label_of

NO_CLAIM = "supports no claim"
_MULTIPLICITY = (
    "intervals are not widened for their number, and p values are adjusted (Holm) only inside the "
    "family of one table, and only where a column says so."
)
_UTILITY = "net_benefit_gain"
_METRIC_KEYS = ("metric", "measure", "gain_measure", "slope_measure")


def multiplicity(content: ReportContent) -> str:
    """What was named before, and that nothing is adjusted for all that was not."""
    if _claims(content):
        named = "Only the study's claims were named before validation. All else is exploratory"
    elif content.study is not None:
        named = "The study names no claim. Everything is exploratory"
    else:
        named = "Nothing is known to have been named before. Everything is exploratory"
    return f"{named}: {_MULTIPLICITY}"


def section_label(content: ReportContent, section: Section) -> str:
    """The label behind a section's heading; empty where nothing is inferred."""
    if section.key == "claims-section":
        return "named before" if _claims(content) else ""
    if not section.infers:
        return ""
    claims = [c for c in _claims(content) if (c.metric == _UTILITY) == (section.key == "utility")]
    if not content.validation or section.key not in ("performance", "utility"):
        return EXPLORATORY
    return _named(claims)


def labelled(table: Table, content: ReportContent, *, external: bool) -> Table:
    """The table with the label of the measures that it holds."""
    if not external:
        return replace(table, label=NO_CLAIM)
    metrics = {record.get(key) for record in table.records for key in _METRIC_KEYS}
    return replace(table, label=_named(c for c in _claims(content) if c.metric in metrics))


def _named(claims: Iterable[Claim]) -> str:
    names = [
        label_of(claim.metric) + (f" over {claim.over}" if claim.over else "") for claim in claims
    ]
    if not names:
        return EXPLORATORY
    return f"named before: {listed(list(dict.fromkeys(names)))}; all else {EXPLORATORY}"


def _claims(content: ReportContent) -> tuple[Claim, ...]:
    return () if content.study is None else content.study.claims
