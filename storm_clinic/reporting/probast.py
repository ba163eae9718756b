"""PROBAST+AI: signals of bias by domain, as far as the data of a report tell.

No overall judgement is made: that belongs to a reviewer who knows the clinic. Wordings are short
ones of this house, and so are the numbers inside a domain; the tool has the full questions.

References
----------
Moons et al., PROBAST+AI, BMJ 388 (2025) e082505.
"""

from __future__ import annotations

from dataclasses import dataclass

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.probast_answers import Domain, Part, Question, Signal
from storm_clinic.reporting.probast_development import DEVELOPMENT
from storm_clinic.reporting.probast_evaluation import EVALUATION
from storm_clinic.reporting.reported_facts import ReportedFacts

__all__ = ["Domain", "Part", "ProbastRow", "Signal", "probast_rows"]


@dataclass(frozen=True)
class ProbastRow:
    """One signalling question as far as this report's data answer it.

    Attributes
    ----------
    part : {"development", "evaluation"}
        Quality of development, or risk of bias in evaluation.
    domain : str
        Participants and data sources, predictors, outcome or analysis.
    question : str
        Domain and number in this list, e.g. "4.2".
    asks : str
        The question in short words.
    signal : {"low", "high", "unclear", "for the reviewer to judge"}
        Concern that the data show; the last where no data can tell.
    reason : str
        The numbers it rests on, or what a reviewer must look at.
    anchors : tuple of str
        Ids of the page's sections with the numbers; empty where there are none.
    """

    part: Part
    domain: Domain
    question: str
    asks: str
    signal: Signal
    reason: str
    anchors: tuple[str, ...] = ()

    def record(self) -> dict[str, str]:
        """One row of the CSV."""
        return {
            "part": self.part,
            "domain": self.domain,
            "question": self.question,
            "asks": self.asks,
            "signal": self.signal,
            "reason": self.reason,
            "where": "; ".join(self.anchors),
        }


def probast_rows(content: ReportContent) -> tuple[ProbastRow, ...]:
    """Every signalling question, development first where the models were developed here.

    Evaluation is that on validation cohorts where there is any, else cross-validation.
    """
    facts = ReportedFacts(content)
    rows = _rows("development", DEVELOPMENT, facts) if facts.developed else []
    return (*rows, *(_rows("evaluation", EVALUATION, facts) if facts.evidence else []))


def _rows(part: Part, questions: tuple[Question, ...], facts: ReportedFacts) -> list[ProbastRow]:
    found = [(question, question.answer(facts)) for question in questions]
    return [
        ProbastRow(part, q.domain, q.number, q.asks, said.signal, said.reason, said.anchors)
        for q, said in found
    ]
