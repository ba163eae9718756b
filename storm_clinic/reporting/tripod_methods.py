"""TRIPOD+AI, items 5 to 17: methods."""

from __future__ import annotations

from storm_clinic.reporting.notation import readable
from storm_clinic.reporting.reported_facts import CALIBRATION, RANKING, ReportedFacts
from storm_clinic.reporting.tripod_answers import (
    Answer,
    Item,
    always_authors,
    by_authors,
    in_full,
    in_part,
)


def _sources(facts: ReportedFacts) -> Answer:
    missing = "why these data were chosen and how far they represent the patients meant"
    if facts.cohorts and all(dict(cohort.origin).get("source") for cohort in facts.cohorts):
        return in_part("the source of each cohort is named", missing, "patients")
    return by_authors(f"the source of the data, {missing}")


def _dates(facts: ReportedFacts) -> Answer:
    missing = "first and last date of recruitment, and the end of follow-up"
    if facts.cohorts and all(c.median_follow_up_months is not None for c in facts.cohorts):
        return in_part("median follow-up of each cohort is given", missing, "patients")
    return by_authors(missing)


def _setting(facts: ReportedFacts) -> Answer:
    missing = "level of care, and where the hospitals are"
    if facts.cohorts and all(cohort.n_sites is not None for cohort in facts.cohorts):
        return in_part("the number of sites of each cohort is given", missing, "patients")
    return by_authors(f"number of hospitals, {missing}")


def _eligibility(facts: ReportedFacts) -> Answer:
    if facts.cohorts and all(cohort.flow for cohort in facts.cohorts):
        what = "who left, at which step and for which reason, is counted"
        return in_part(what, "the clinical criteria of eligibility", "patients")
    return by_authors("who was eligible, and who was excluded and why")


def _preparation(facts: ReportedFacts) -> Answer:
    if facts.developed and facts.sees_images():
        what = "the frozen encoder is named, and its features have digests"
        missing = "staining, scanning and quality checks, and whether they were alike everywhere"
        return in_part(what, missing, "methods", "provenance-section")
    return by_authors("how the data were checked and prepared, and whether alike for all groups")


def _outcome(facts: ReportedFacts) -> Answer:
    study = facts.content.study
    name = facts.content.endpoint or (study.endpoint.name if study else "")
    if not name:
        return by_authors("the outcome, its time horizon, how and when it was assessed, and why")
    horizons = study.endpoint.horizons_months if study else ()
    at = f" at {', '.join(f'{h:g}' for h in horizons)} months" if horizons else ""
    missing = "how and when it was assessed, and why this outcome"
    return in_part(f"the outcome is {name}{at}", missing, "methods")


def _choice_of_predictors(facts: ReportedFacts) -> Answer:
    study = facts.content.study
    seen = ", ".join(readable(name) for name in study.inputs) if study else "their inputs"
    what = f"what each model sees is listed ({seen})"
    return in_part(what, "why these predictors were chosen", "methods")


def _predictors(facts: ReportedFacts) -> Answer:
    missing = "how and when each was measured, and who did it"
    if facts.cohorts and all(cohort.variables for cohort in facts.cohorts):
        return in_part("the variables of each cohort are shown", missing, "patients")
    return by_authors(f"every predictor, {missing}")


def _sample_size(facts: ReportedFacts) -> Answer:
    found = facts.analyses.adequacy
    if not found:
        return by_authors("how the size was arrived at, and whether it is enough")
    what = " ".join(item.sentence for item in found)
    if facts.covers_every_cohort({item.cohort for item in found}):
        return in_full(what, "adequacy")
    return in_part(what, "the same for the other cohorts", "adequacy")


def _missing(facts: ReportedFacts) -> Answer:
    found = facts.analyses.missingness
    if found and facts.developed and facts.covers_every_cohort({m.cohort for m in found}):
        what = "how much is missing and among whom is shown, and how models and analyses met it"
        return in_full(what, "missingness", "methods")
    missing = "how missing values were handled, and why any data were left out"
    if found:
        return in_part("how much is missing, and among whom, is shown", missing, "missingness")
    if any(row.n_missing is not None for cohort in facts.cohorts for row in cohort.variables):
        return in_part("missing values of each variable are counted", missing, "patients")
    return by_authors(missing)


def _use_of_data(facts: ReportedFacts) -> Answer:
    if facts.developed and facts.content.development is not None:
        return in_full("cohorts, folds, repeats and what is never split are named", "methods")
    if facts.validated:
        what = "who was evaluated is shown"
        return in_part(what, "how the data were used to develop the model", "patients", "methods")
    return by_authors("which data served to develop, tune and evaluate the model")


def _handling(facts: ReportedFacts) -> Answer:
    missing = "why predictors were scaled, transformed or grouped as they were"
    if facts.analyses.shapes:
        what = "the shape of effects of continuous covariates is shown"
        return in_part(what, missing, "shapes", "methods")
    return by_authors(f"how predictors enter the models; {missing}")


def _building(facts: ReportedFacts) -> Answer:
    what = "kind, inputs, settings and search of every model are given"
    if facts.content.development is None:
        return in_part(what, "why these models, and how they were validated inside", "methods")
    internal = ("internal",) if facts.analyses.internal else ()
    return in_full(f"{what}, with nested cross-validation", "methods", *internal)


def _clusters(facts: ReportedFacts) -> Answer:
    if facts.analyses.sites:
        return in_full("measures are pooled over sites with a random-effects model", "sites")
    study = facts.content.study
    if study is not None and study.evaluation.group == "site":
        what = "no site is split between folds"
        return in_part(what, "how differences between sites were looked for", "methods")
    return by_authors("whether and how differences between hospitals were looked for")


def _measures(facts: ReportedFacts) -> Answer:
    there, lacking = [], []
    for name, anchor, found in (
        ("discrimination", "performance", facts.has_interval(RANKING)),
        ("calibration", "calibration", facts.has_interval(CALIBRATION)),
        ("clinical utility", "utility", bool(facts.analyses.decision)),
    ):
        if found:
            there.append((name, anchor))
        else:
            lacking.append(name)
    if not there:
        return by_authors("which measures and figures judge the model, and why")
    what = f"{', '.join(name for name, _ in there)} with intervals"
    anchors = tuple(anchor for _, anchor in there)
    if lacking:
        return in_part(what, f"why there is no {' and no '.join(lacking)}", *anchors)
    return in_full(what, *anchors)


def _updating(facts: ReportedFacts) -> Answer:
    if facts.locked():
        what = "none: the locked model was scored as it was"
        return in_full(what, "methods", "provenance-section")
    return by_authors("whether the model was recalibrated or otherwise updated, and how")


def _calculated(facts: ReportedFacts) -> Answer:
    if facts.locked():
        return in_full("by the locked model whose digest is given", "provenance-section")
    return by_authors("how predictions were calculated: formula, code or service, with its version")


def _imbalance(facts: ReportedFacts) -> Answer:
    study = facts.content.study
    if study is None:
        return by_authors("whether classes were re-weighted or re-sampled, and how it was undone")
    options = {name for model in study.models for name in (*model.options, *model.tune)}
    touched = sorted(name for name in options if "weight" in name or "sampl" in name)
    about = f", among them {', '.join(touched)}" if touched else ""
    what = f"settings that differ from a model's defaults are listed{about}"
    return in_part(what, "whether classes were re-weighted or re-sampled, and why", "methods")


def _fairness(facts: ReportedFacts) -> Answer:
    if facts.analyses.subgroups:
        what = "measures are given by declared subgroup, with tests of difference"
        return in_part(what, "why these groups, and what was done about unfairness", "subgroups")
    return by_authors("what was done to look for and to reduce unfairness between groups")


def _output(facts: ReportedFacts) -> Answer:
    study = facts.content.study
    if study is None or not (study.endpoint.horizons_months or facts.analyses.decision):
        return by_authors("what the model gives, and how any classes and thresholds were set")
    what = "risks at named horizons" if study.endpoint.horizons_months else "probabilities"
    return in_part(f"the model gives {what}", "why thresholds of use were set so", "methods")


def _differences(facts: ReportedFacts) -> Answer:
    missing = "differences in setting, eligibility and how outcome and predictors were measured"
    if facts.analyses.case_mix:
        what = "distributions of predictors are compared with development"
        return in_part(what, missing, "case-mix")
    if all(facts.cohorts_of(role) for role in ("development", "validation")):
        return in_part("both cohorts are shown side by side", missing, "patients")
    return by_authors(missing)


_METHODS = "Methods"
METHODS = (
    Item("5a", _METHODS, "Sources of the data, and why these", "D;E", _sources),
    Item("5b", _METHODS, "Dates of the data", "D;E", _dates),
    Item("6a", _METHODS, "Setting and sites", "D;E", _setting),
    Item("6b", _METHODS, "Who was eligible", "D;E", _eligibility),
    Item(
        "6c",
        _METHODS,
        "Treatments, and how they were handled",
        "D;E",
        always_authors("which treatments patients had, and how models and analyses treat them"),
    ),
    Item("7", _METHODS, "Preparation and quality of the data", "D;E", _preparation),
    Item("8a", _METHODS, "Outcome, horizon, and how it was assessed", "D;E", _outcome),
    Item(
        "8b",
        _METHODS,
        "Who assessed an outcome that needs judgement",
        "D;E",
        always_authors("qualification and background of those who assessed the outcome"),
    ),
    Item(
        "8c",
        _METHODS,
        "Blinding of the outcome's assessment",
        "D;E",
        always_authors("whether those who assessed the outcome knew the predictors"),
    ),
    Item("9a", _METHODS, "How predictors were chosen", "D", _choice_of_predictors),
    Item("9b", _METHODS, "Definition and measurement of predictors", "D;E", _predictors),
    Item(
        "9c",
        _METHODS,
        "Who assessed predictors that need judgement",
        "D;E",
        always_authors("qualification and background of those who assessed predictors"),
    ),
    Item("10", _METHODS, "Sample size", "D;E", _sample_size),
    Item("11", _METHODS, "Missing data", "D;E", _missing),
    Item("12a", _METHODS, "How the data were used and partitioned", "D;E", _use_of_data),
    Item("12b", _METHODS, "How predictors were handled", "D", _handling),
    Item("12c", _METHODS, "Type, building, tuning, internal validation", "D", _building),
    Item("12d", _METHODS, "Differences between clusters", "D;E", _clusters),
    Item("12e", _METHODS, "Measures and figures of performance", "D;E", _measures),
    Item("12f", _METHODS, "Updating of the model", "E", _updating),
    Item("12g", _METHODS, "How predictions were calculated", "E", _calculated),
    Item("13", _METHODS, "Class imbalance", "D;E", _imbalance),
    Item("14", _METHODS, "Fairness", "D;E", _fairness),
    Item("15", _METHODS, "What the model gives", "D", _output),
    Item("16", _METHODS, "Development against evaluation data", "E", _differences),
    Item(
        "17",
        _METHODS,
        "Ethical approval and consent",
        "D;E",
        always_authors("who approved the study, and how patients consented or why they need not"),
    ),
)
