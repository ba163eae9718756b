"""Tables of what was checked, claimed and used."""

from __future__ import annotations

from collections.abc import Sequence

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.tables import Cell, Row, Table
from storm_clinic.validation.claims import claim_status, describe_claim
from storm_clinic.validation.evidence import Evidence

_TONES = {"pass": "pass", "warn": "warn", "fail": "fail", "not applicable": "na"}
_CLAIM_TONES = {"met": "pass", "not met": "fail", "not shown": "warn"}


def checks_table(evidence: Evidence, slug: str, caption: str) -> Table:
    """Automatic checks with their codes, worst first."""
    order = ("fail", "warn", "pass", "not applicable")
    checks = sorted(evidence.checks, key=lambda check: (order.index(check.status), check.code))
    rows = tuple(
        Row(
            (
                Cell(check.code),
                Cell(check.status, tone=_TONES[check.status]),
                Cell(check.title, check.reason),
            )
        )
        for check in checks
    )
    header = (Cell("Code"), Cell("Result"), Cell("What was checked, and why this came out"))
    records = tuple({"kind": evidence.kind, **check.model_dump()} for check in checks)
    return Table(slug, caption, header, rows, records)


def claims_table(content: ReportContent, slug: str = "claims") -> Table | None:
    """Every claim that was made beforehand, and whether it holds; None where none was made."""
    if content.study is None or not content.study.claims:
        return None
    results = claim_status(content.study.claims, content.validation)
    rows = tuple(
        Row(
            (
                Cell(describe_claim(result.claim), strong=True),
                Cell(result.status, tone=_CLAIM_TONES[result.status]),
                Cell(result.reason),
            )
        )
        for result in results
    )
    records = tuple(
        {
            "claim": describe_claim(result.claim),
            "metric": result.claim.metric,
            "status": result.status,
            "reason": result.reason,
        }
        for result in results
    )
    header = (Cell("Claim"), Cell("Result"), Cell("What was found"))
    return Table(slug, "Claims made before validation", header, rows, records)


def provenance_table(content: ReportContent, slug: str = "provenance") -> Table:
    """Identifiers, digests, versions and seeds."""
    origin = content.provenance
    digests = dict(origin.digests)
    for evidence in (content.development, *content.validation):
        if evidence is not None:
            digests |= {"study": evidence.study_digest, **evidence.digests}
            digests[f"evidence, {evidence.kind}, {', '.join(evidence.cohorts)}"] = evidence.digest
    parts: list[tuple[str, str, str]] = []
    parts += [("identifier", name, value) for name, value in origin.identifiers]
    if origin.made_on is not None:
        parts.append(("date", "report made on", origin.made_on))
    if origin.seed is not None:
        parts.append(("seed", "folds, initial weights, resampling", str(origin.seed)))
    parts += [("SHA-256", name, digest) for name, digest in sorted(digests.items())]
    parts += [("version", name, version) for name, version in origin.versions]
    return _plain(slug, "What this report rests on", ("Kind", "Name", "Value"), parts)


def _plain(slug: str, caption: str, names: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    return Table(
        slug,
        caption,
        tuple(map(Cell, names)),
        tuple(Row(tuple(map(Cell, line))) for line in lines),
        tuple(dict(zip(map(str.lower, names), line, strict=True)) for line in lines),
    )
