"""What a report holds, as checklists ask for it: of whom, and which analyses were made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from storm_clinic.reporting.content import CohortSummary, ReportContent
from storm_clinic.validation.analyses import Analyses
from storm_clinic.validation.evidence import Check, Evidence, Status

RANKING = ("c_index", "auroc", "auroc_macro", "auc")
CALIBRATION = ("o_e", "calibration_slope", "calibration_intercept")
_WORST: tuple[Status, ...] = ("fail", "warn", "pass")


@dataclass(frozen=True)
class ReportedFacts:
    """Questions to the content of a report; every answer is read from it.

    Attributes
    ----------
    content : ReportContent
    """

    content: ReportContent

    @cached_property
    def evidence(self) -> tuple[Evidence, ...]:
        """Validation first, then cross-validation."""
        development = self.content.development
        return (*self.content.validation, *((development,) if development else ()))

    @property
    def judged(self) -> tuple[Evidence, ...]:
        """Of validation where there is any, else of cross-validation."""
        return self.content.validation or self.evidence

    @cached_property
    def analyses(self) -> Analyses:
        """All analyses of all evidence."""
        return sum((item.analyses for item in self.evidence), Analyses())

    @property
    def developed(self) -> bool:
        """Whether the models were developed here, and not by another program."""
        return self.content.study is not None

    @property
    def validated(self) -> bool:
        return bool(self.content.validation)

    @property
    def cohorts(self) -> tuple[CohortSummary, ...]:
        return self.content.cohorts

    def cohorts_of(self, role: str) -> tuple[CohortSummary, ...]:
        """Those of development or of validation."""
        return tuple(cohort for cohort in self.cohorts if cohort.role == role)

    def sees_images(self) -> bool:
        """Whether some model reads feature files."""
        study = self.content.study
        return study is not None and any(set(m.inputs) - {"clinical"} for m in study.models)

    def has_interval(self, metrics: tuple[str, ...]) -> bool:
        """Whether every judged cohort has the candidate's measure of that kind, with interval."""
        pairs = [(item, cohort) for item in self.judged for cohort in item.cohorts]
        return bool(pairs) and all(
            any(
                e.metric in metrics and e.lower is not None
                for e in item.find(model=self.content.candidate, cohort=cohort)
            )
            for item, cohort in pairs
        )

    def covers_every_cohort(self, names: set[str]) -> bool:
        """Whether these cohorts are all those that are judged."""
        asked = {cohort for item in self.evidence for cohort in item.cohorts}
        return bool(asked) and asked <= names

    def checks(self, code: str, evidence: tuple[Evidence, ...]) -> list[Check]:
        """The checks of that code that apply."""
        found = [check for item in evidence for check in item.checks if check.code == code]
        return [check for check in found if check.status != "not applicable"]

    def worst(self, code: str, evidence: tuple[Evidence, ...]) -> Check | None:
        """The worst of them; None where none applies."""
        found = self.checks(code, evidence)
        return min(found, key=lambda check: _WORST.index(check.status)) if found else None

    def locked(self) -> str | None:
        """Digest of the model's bundle, where the report says who locked it."""
        if not any(move.kind == "locked" for move in self.content.moves):
            return None
        return dict(self.content.provenance.digests).get("model bundle")
