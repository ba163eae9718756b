"""The methods paragraphs and the limits, made from the study and the evidence."""

from __future__ import annotations

from storm_clinic.reporting.analysis_methods import analysis_methods
from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import listed, months, readable
from storm_clinic.reporting.phrases import composition, describe_inputs
from storm_clinic.reporting.sections import see
from storm_clinic.study import ModelSpec, Range, Scalar, Study
from storm_clinic.validation.evidence import Evidence

_COMPETING = (
    "Of each patient the first of {causes} counts, and {event} is the event of interest. Predicted "
    "and observed risks are cumulative incidences of {event} (observed: Aalen-Johansen), so that "
    "whoever had another event first did not have it. Such patients stay in comparisons as "
    "patients without the event, weighted by the chance that they would still be followed. The "
    "calibration slope is that of Fine and Gray's model; log-rank tests compare cause-specific "
    "hazards."
)
_CLASSES = (
    "Each of the classes {classes} was held against the rest; means over classes count every class "
    "the same, however rare. The likeliest class is that of the highest predicted probability."
)
_UNKNOWN = (
    "How the model was trained is not known to this report.",
    "Whether any of these patients were used for training is not known to this report.",
    "Which questions were named before the results were seen is not known to this report, so that "
    "everything in it is exploratory.",
)
_STATUS = {"fail": "Failed check", "warn": "Warning"}


def methods(content: ReportContent) -> list[str]:
    """Paragraphs that say how everything on the page was made."""
    paragraphs = []
    if content.study is None:
        paragraphs.append(
            "The predictions were made by another program and were evaluated as they are; how the "
            "model was trained is not known to this report."
        )
    else:
        paragraphs += [_design(content, content.study), _models(content.study)]
        if content.development is not None:
            paragraphs.append(_resampling(content.study))
    if content.validation:
        paragraphs.append(_validation(content))
    measured = list(content.evidence)
    if measured:
        paragraphs.append(_measures(measured))
        paragraphs += _outcomes(measured)
    paragraphs += analysis_methods(content)
    if content.provenance.versions:
        made = [f"{name} {version}" for name, version in content.provenance.versions]
        paragraphs.append(f"Computed with {listed(made)}.")
    return paragraphs


def _design(content: ReportContent, study: Study) -> str:
    endpoint = content.endpoint or study.endpoint.name
    text = f"The endpoint is {endpoint}."
    if study.endpoint.horizons_months:
        at = listed([f"{h:g}" for h in study.endpoint.horizons_months])
        text += f" Risks are predicted and judged at {at} months."
    if study.endpoint.tau_months is not None:
        tau = months(study.endpoint.tau_months)
        text += f" Patients are ranked by events before {tau}."
    text += f" Models were developed on {listed(study.development)}"
    if study.validation:
        return f"{text}; {listed(study.validation)} was set aside for validation beforehand."
    return f"{text}; no validation cohort is named."


def _models(study: Study) -> str:
    lines = [_model(study, spec) for spec in study.models]
    encoder = f" Histology enters as embeddings of the frozen encoder {study.features.encoder}."
    sees_images = any(set(spec.inputs) - {"clinical"} for spec in study.models)
    return f"Compared were {listed(lines)}.{encoder if sees_images else ''}"


def _model(study: Study, spec: ModelSpec) -> str:
    text = f"‘{spec.name}’ ({spec.head} on {describe_inputs(study, spec.name)}"
    settings = [f"{readable(name)} {value}" for name, value in spec.options.items()]
    tuned = [
        f"{readable(name)} chosen from {_values(values)}" for name, values in spec.tune.items()
    ]
    searched = []
    if spec.search is not None:
        how = {"tpe": "a tree of Parzen estimators", "random": "random draws"}
        searched = [f"{spec.search.trials} combinations proposed by {how[spec.search.sampler]}"]
    return f"{'; '.join([text, *settings, *tuned, *searched])})"


def _values(values: tuple[Scalar, ...] | Range) -> str:
    if isinstance(values, Range):
        return f"{values.lowest} to {values.highest}{' (log scale)' if values.log else ''}"
    return ", ".join(map(str, values))


def _resampling(study: Study) -> str:
    plan = study.evaluation
    group = (
        "patients of one site were never split between folds"
        if plan.group == "site"
        else "all slides of a patient stayed in one fold"
    )
    return (
        f"On development data every model went through {plan.folds}-fold cross-validation, "
        f"repeated {plan.repeats} times; {group}. Settings and numbers of epochs were chosen by "
        f"{plan.inner_folds} folds inside each training part, never on the fold that is reported. "
        "Risks were ranked inside folds only, because the models of different folds share no "
        "scale, and numbers were averaged over repeats. Their intervals describe resampling of "
        "these patients and support no claim about others."
    )


def _validation(content: ReportContent) -> str:
    cohorts = listed([name for evidence in content.validation for name in evidence.cohorts])
    if content.study is None:
        return f"On {cohorts} the predictions were compared with the outcomes as they were given."
    text = (
        f"On {cohorts} nothing was fitted again: models, preprocessing and thresholds were those "
        "fixed on development data, and risks were computed before outcomes were joined."
    )
    named = " The claims had been named in the study file before."
    return f"{text}{named if content.study.claims else ''}"


def _measures(measured: list[Evidence]) -> str:
    plans = sorted({e.method for item in measured for e in item.estimates if e.lower is not None})
    short = sorted({plan.split("; ")[1] for plan in plans if "; " in plan})
    text = "The patient is the unit of every number. Intervals: " + (listed(short) or "none")
    text += ". Gains are differences between two models on the same resamples of patients."
    return f"{text} The exact method of every number stands in the CSV tables."


def _outcomes(measured: list[Evidence]) -> list[str]:
    """What counts as what, where there are several causes or classes."""
    found = {(o.kind, o.names): o for item in measured for o in item.outcomes}
    counts = [
        f"{o.cohort}: {composition(o, 0)}"
        + (f", {o.n_censored} without any of them" if o.kind == "competing risks" else "")
        for item in measured
        for o in item.outcomes
    ]
    texts = []
    for kind, names in found:
        words = [readable(name) for name in names]
        if kind == "competing risks":
            texts.append(_COMPETING.format(causes=listed(words), event=words[0]))
        else:
            texts.append(_CLASSES.format(classes=listed(words)))
    return [*texts, f"How many had what: {'; '.join(counts)}."] if texts else []


def _raised(content: ReportContent) -> list[str]:
    """Checks that did not pass; of development only what no validation's check repeats."""
    measured = content.evidence
    raised = [c for item in content.validation for c in item.checks if c.status in _STATUS]
    if content.development is not None:
        known = {check.code for check in raised}
        own = [c for c in content.development.checks if c.status in _STATUS]
        raised += [check for check in own if check.code not in known]
    checks = [f"{_STATUS[c.status]} {c.code}, ‘{c.title}’: {c.reason}." for c in raised]
    where = {"external": "On validation", "cross-validation": "In development"}
    notes = [f"{where[item.kind]}: {note}." for item in measured for note in item.notes]
    return [*checks, *notes]


def limits(content: ReportContent) -> list[str]:
    """What restricts the conclusions: general ones, checks that did not pass, and notes."""
    found = []
    if not content.validation:
        found.append(
            "There is no external validation: every number comes from the patients the models "
            "were developed on."
        )
    if content.comparator is None:
        found.append("There is no clinical comparator, so added value cannot be judged.")
    if content.study is None:
        found += _UNKNOWN
    if not content.cohorts:
        found.append("The patients are not described, so nobody can tell whom they stand for.")
    found += _raised(content)
    for cohort in content.cohorts:
        left = sum(s.n_before - s.n_after for s in cohort.flow if s.unit == "patients")
        if left:
            found.append(
                f"{left} patients of {cohort.name} were left out; if they differ from those "
                f"analysed, so may the results ({see(content, 'patients')})."
            )
    return [*dict.fromkeys(found), *content.limits]
