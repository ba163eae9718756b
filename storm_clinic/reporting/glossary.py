"""What the words of the page mean, for a reader who is not a statistician."""

from __future__ import annotations

from storm_clinic.reporting.content import ReportContent
from storm_clinic.validation.measures import COMPETING_MEANINGS, MEASURES, base_of

_GENERAL = (
    (
        "95% interval",
        "Values that the data leave open. Where it includes the value of no effect, nothing is "
        "shown, whatever the number before it.",
    ),
    (
        "Exploratory",
        "Not named before anybody saw the results: a hint for further work, and no proof.",
    ),
)
# Field of the analyses, and the words it brings.
_OF_ANALYSES = (
    (
        "case_mix",
        "Standardised difference",
        "How far two groups of patients lie apart, counted in their spread; under 0.1 is little.",
    ),
    (
        "drift",
        "Energy distance",
        "How far two groups of patients lie apart in what a model sees of their slides; 0 only "
        "where they do not differ at all. A difference says that a model meets what it has not "
        "learned from, not that it fails there.",
    ),
    (
        "decision",
        "Net benefit",
        "Share of patients rightly treated, less those wrongly treated, who count by the threshold "
        "of risk at which one would act. Treating nobody has 0.",
    ),
    (
        "groups",
        "Restricted mean",
        "Mean number of months without the event within the time named.",
    ),
    (
        "regressions",
        "Hazard ratio",
        "How many times as often the event happens, at any time, per step of the variable, with "
        "the other variables of the table held alike. 1: no association.",
    ),
    (
        "sites",
        "Expected in a new site",
        "Where the number of a hospital that was not studied may lie (prediction interval).",
    ),
    (
        "internal",
        "Optimism",
        "How much higher a number is on the patients a model was fitted to than on others.",
    ),
)


def glossary(content: ReportContent) -> list[tuple[str, str]]:
    """Name and meaning of everything on the page, in the order of the tables."""
    used = {base_of(e.metric) for item in content.evidence for e in item.estimates}
    competing = any(o.kind == "competing risks" for i in content.evidence for o in i.outcomes)
    measures = [
        (m.label, COMPETING_MEANINGS.get(name, m.meaning) if competing else m.meaning)
        for name, m in MEASURES.items()
        if name in used
    ]
    further = [
        (name, meaning)
        for field, name, meaning in _OF_ANALYSES
        if any(getattr(item.analyses, field) for item in content.evidence)
        and name not in {label for label, _ in measures}
    ]
    return [*(_GENERAL if content.evidence else ()), *measures, *further]
