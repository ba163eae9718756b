"""Phrases that sentences are made of: what a model sees, who had what, against whom."""

from __future__ import annotations

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import count, listed, readable
from storm_clinic.study import Study
from storm_clinic.validation.evidence import CohortOutcome

# Measurements are called what the cohorts call them.
_INPUTS = {
    "image": "histology",
    "storm": "STORM context",
    "imputed_expression": "imputed genes",
    "virtual_expression": "imputed genes of tiles",
}


def composition(outcome: CohortOutcome | None, n_events: int) -> str:
    """How many had what: ``40 with the event``, or every cause or class by its name."""
    if outcome is None:
        return f"{count(n_events)} with the event"
    numbers = zip(outcome.names, outcome.counts, strict=True)
    if outcome.kind == "classes":
        return ", ".join(f"{count(n)} {name}" for name, n in numbers)
    return listed([f"{count(n)} with {readable(name)}" for name, n in numbers])


def verb_of(outcome: CohortOutcome | None, *, past: bool = False) -> str:
    """What a model of this outcome does well or badly, as a verb with its object."""
    if outcome is not None and outcome.kind == "classes":
        classes = listed([readable(name) for name in outcome.names])
        return f"{'told' if past else 'tells'} {classes} apart"
    of = "" if outcome is None else f" of {readable(outcome.names[0])}"
    return f"{'ranked' if past else 'ranks'} patients by risk{of}"


def input_in_words(name: str) -> str:
    """An input of models: ``histology`` for ``image``."""
    return _INPUTS.get(name, readable(name))


def describe_inputs(study: Study | None, model: str) -> str:
    """What a model sees, in words: ``histology with age and stage``; empty if not known."""
    if study is None or model not in {spec.name for spec in study.models}:
        return ""
    inputs = study.model(model).inputs
    seen = [input_in_words(name) for name in inputs if name != "clinical"]
    if "clinical" not in inputs:
        return listed(seen)
    clinical = listed([readable(name) for name in study.clinical])
    return f"{listed(seen)} with {clinical}" if seen else f"{clinical} alone"


def subject(content: ReportContent, model: str) -> str:
    """A model as a sentence's subject: its name, and what it sees."""
    seen = describe_inputs(content.study, model)
    return f"model ‘{model}’ ({seen})" if seen else f"model ‘{model}’"


def opponent(content: ReportContent) -> str:
    """The clinical comparator as a phrase: ``age and stage alone``."""
    if content.comparator is None:
        return "clinical variables"
    seen = describe_inputs(content.study, content.comparator)
    return seen or f"the clinical comparator ‘{content.comparator}’"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
