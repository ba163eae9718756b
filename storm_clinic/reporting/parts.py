"""One cohort of one piece of evidence: what every table and figure of results is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storm_clinic.reporting.content import ReportContent
from storm_clinic.validation.evidence import Evidence, RiskGroupCurves


@dataclass(frozen=True)
class CohortPart:
    """One cohort of one piece of evidence, and the prefix of all that is made of it."""

    content: ReportContent
    evidence: Evidence
    cohort: str
    slug: str

    @property
    def shown(self) -> tuple[str, ...]:
        """Models whose curves are drawn; all others are in the CSV tables."""
        models = dict.fromkeys((self.content.candidate, self.content.comparator))
        return tuple(model for model in models if model is not None)

    @property
    def groups(self) -> list[RiskGroupCurves]:
        """Risk groups of the models that are drawn."""
        return [
            curves
            for model in self.shown
            for curves in self.evidence.risk_groups
            if (curves.cohort, curves.model) == (self.cohort, model)
        ]

    @property
    def external(self) -> bool:
        """Whether these patients were kept from training."""
        return self.evidence.kind == "external"

    def analyses(self, kind: str) -> tuple[Any, ...]:
        """The analyses of one kind that are about this cohort."""
        found = getattr(self.evidence.analyses, kind)
        return tuple(item for item in found if item.cohort == self.cohort)


def cohort_parts(content: ReportContent) -> list[CohortPart]:
    """Cohorts with estimates: validation first, then cross-validation."""
    pairs = [(item, cohort) for item in content.evidence for cohort in item.cohorts]
    return [
        CohortPart(content, evidence, cohort, f"r{number}")
        for number, (evidence, cohort) in enumerate(pairs, start=1)
    ]


def analysed_parts(content: ReportContent, kind: str) -> list[CohortPart]:
    """Cohorts with analyses of one kind; they may have no estimate at all."""
    found = []
    for number, evidence in enumerate(content.evidence, start=1):
        cohorts = dict.fromkeys(item.cohort for item in getattr(evidence.analyses, kind))
        # Those with estimates come first and keep their order.
        ordered = [c for c in evidence.cohorts if c in cohorts]
        ordered += [c for c in cohorts if c not in evidence.cohorts]
        found += [
            CohortPart(content, evidence, cohort, f"e{number}-{at}-{kind.replace('_', '-')}")
            for at, cohort in enumerate(ordered, start=1)
        ]
    return found
