"""Regressions of the outcome on risks and covariates: for inference, never to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storm_clinic.cohort.outcome import CompetingRisks, Outcome
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.added_value import AddedValue, added_value
from storm_clinic.inference.design_matrix import Design
from storm_clinic.inference.fitted import ChiSquared, Fitted, Kind
from storm_clinic.inference.proportional_hazards import ProportionalHazards, proportional_hazards
from storm_clinic.validation.analyses import Analyses, HypothesisTest, Regression, Term
from storm_clinic.validation.effect_curves import effect_shapes, effects_over_time
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.regression_questions import (
    Question,
    fit_on,
    hazard_outcome,
    kinds_of,
    questions,
)

_NEARLY_GIVEN = 0.9  # R² of the risk on what stands beside it (variance inflation of 10)
_PH = "score test against time on the scale of 1 - Kaplan-Meier (cox.zph)"


@dataclass(frozen=True, eq=False)
class Answer:
    """A fitted question: what later curves start from.

    Attributes
    ----------
    question : Question
    design : Design
        Of the complete patients.
    outcome : Survival, CompetingRisks or Classes
        Theirs.
    fit : Fitted
    hazards : ProportionalHazards or None
        Of a Cox model.
    """

    question: Question
    design: Design
    outcome: Outcome
    fit: Fitted
    hazards: ProportionalHazards | None


def regressions(data: EvaluationData) -> Analyses:
    """Regressions of every model, effects over time and shapes of the candidate's.

    Each model is asked, the candidate first: the ratio per standard deviation of its risk alone,
    beside the clinical comparator's risk, and beside the covariates, with the test of what it adds.
    Survival outcomes are fitted by Cox models, competing risks by Fine and Gray's and by a
    cause-specific Cox model, two classes by logistic regression. Patients with a gap in a covariate
    are left out of regressions with covariates, and counted.

    Effects over time are drawn for the candidate's risk, and for each covariate beside it whose
    hazards are not proportional at p < 0.05; shapes for its risk and each continuous covariate.

    A number that these patients do not give has its reason in a note; nothing is raised.
    """
    fitted: list[Regression] = []
    answers: list[Answer] = []
    for model in _candidate_first(data):
        try:
            asked = [(q, kind) for q in questions(model, data) for kind in kinds_of(data.outcome)]
        except StatisticsError as error:
            fitted.append(_refused(data, model, f"Risk of {model}", "cox", error))
            continue
        for question, kind in asked:
            try:
                answer, regression = _ask(question, kind, data)
            except StatisticsError as error:
                fitted.append(_refused(data, model, question.title, kind, error))
                continue
            fitted.append(regression)
            answers += [answer] if model == data.candidate else []
    found = Analyses(regressions=tuple(fitted))
    # Of the candidate's, the one with most beside it; with competing risks the cause-specific one.
    curved = [a for a in answers if a.fit.kind != "fine-gray"]
    if not curved:
        return found
    last = curved[-1]
    effects = () if last.hazards is None else effects_over_time(data, last.fit, last.hazards)
    shapes = effect_shapes(data, last.question, last.design, last.outcome, last.fit.kind)
    return found + Analyses(time_effects=effects, shapes=shapes)


def regression_terms(fit: Fitted) -> tuple[Term, ...]:
    """Coefficients with Wald intervals on the log scale.

    Raises
    ------
    StatisticsError
        If a ratio or its interval is too large to be written as a number.
    """
    terms = []
    for at, name in enumerate(fit.names):
        b, se, lower, upper, p = fit.interval(at)
        if not max(abs(lower), abs(upper)) < np.log(np.finfo(float).max):
            raise StatisticsError(f"the effect of {name} is too uncertain to have an interval")
        ratio, low, high = (float(np.exp(x)) for x in (b, lower, upper))
        terms.append(Term(term=name, coefficient=b, se=se, ratio=ratio, lower=low, upper=high, p=p))
    return tuple(terms)


def hypothesis(name: str, about: str, found: ChiSquared, method: str) -> HypothesisTest:
    """A chi-squared test as a result."""
    return HypothesisTest(
        name=name, about=about, statistic=found.statistic, df=found.df, p=found.p, method=method
    )


def _candidate_first(data: EvaluationData) -> list[str]:
    names = [model.model for model in data.models]
    return sorted(names, key=lambda name: name != data.candidate)


def _ask(question: Question, kind: Kind, data: EvaluationData) -> tuple[Answer, Regression]:
    if question.refused:
        raise StatisticsError(question.refused)
    complete = question.complete
    design, outcome = question.design().take(complete), data.outcome.take(complete)
    fit = fit_on(design, outcome, kind)
    tests = [*_value_tests(question, design, outcome, fit)]
    hazards, more = _hazards(design, outcome, fit)
    left_out = int((~complete).sum())
    notes = [
        fit.note and f"Caution: {fit.note}.",
        left_out and f"{left_out} of {len(complete)} patients lack a covariate and are left out.",
        _nearly_given(design, question.risk.name),
        *question.notes,
    ]
    regression = Regression(
        cohort=data.cohort,
        model=question.model,
        kind=kind,
        title=question.title,
        missing="complete cases" if left_out else "none",
        n_patients=fit.n_patients,
        n_events=fit.n_events,
        terms=regression_terms(fit),
        tests=(*tests, *more),
        method=_method(fit, question, data.outcome),
        note=" ".join(str(note) for note in notes if note),
    )
    return Answer(question, design, outcome, fit, hazards), regression


def _nearly_given(design: Design, name: str) -> str:
    """A caution where what stands beside a risk nearly determines it."""
    at = list(design.terms[name])
    others = np.delete(design.matrix, at, axis=1)
    if not others.shape[1]:
        return ""
    risk = design.matrix[:, at[0]] - design.matrix[:, at[0]].mean()
    centred = others - others.mean(axis=0)
    rest = risk - centred @ np.linalg.lstsq(centred, risk, rcond=None)[0]
    share = 1 - float(rest @ rest) / float(risk @ risk)
    if share < _NEARLY_GIVEN:
        return ""
    return (
        f"What stands beside the risk nearly determines it (R² {share:.3f}): the ratios are not to "
        "be read one by one; the test of added value is of both together."
    )


def _method(fit: Fitted, question: Question, outcome: Outcome) -> str:
    cause = ""
    if isinstance(outcome, CompetingRisks):
        cause = f" of {outcome.causes[0]}"
        cause += ", cause-specific hazard (other causes end follow-up)" if fit.kind == "cox" else ""
    per = "; covariates per unit or against their reference level" if question.coding else ""
    return f"{fit.method}{cause}; risk: {question.risk.scale}, per SD of all patients{per}"


def _value_tests(
    question: Question, design: Design, outcome: Outcome, fit: Fitted
) -> Sequence[HypothesisTest]:
    """What the risk adds to whatever stands beside it, or that it tells anything at all."""
    if not question.beside:
        if fit.kind == "fine-gray":
            return [hypothesis("robust Wald", question.risk.name, fit.wald, "chi-squared")]
        found = fit.likelihood_ratio
        return [hypothesis("likelihood ratio", question.risk.name, found, "against no covariate")]
    smaller = fit_on(design.without(question.risk.name), outcome, fit.kind)
    value = added_value(fit, smaller)
    about = f"added value beside {question.beside}"
    return [
        hypothesis(value.method, about, value.test, f"against {question.beside} alone"),
        *_adequacy(value, question.beside),
    ]


def _adequacy(value: AddedValue, beside: str) -> list[HypothesisTest]:
    if value.adequacy is None:
        return []
    explained = f"explained variation {value.explained_smaller:.3f} to {value.explained:.3f}"
    return [
        HypothesisTest(
            name="adequacy index",
            about=beside,
            statistic=value.adequacy,
            method="likelihood ratio of it alone over that of both (Harrell); " + explained,
            note="A share from 0 (all is in the risk) to 1 (the risk adds nothing); no test.",
        )
    ]


def _hazards(
    design: Design, outcome: Outcome, fit: Fitted
) -> tuple[ProportionalHazards | None, list[HypothesisTest]]:
    survival = hazard_outcome(outcome)
    if fit.kind != "cox" or survival is None:
        return None, []
    name = "proportional hazards"
    try:
        found = proportional_hazards(fit, design.matrix, survival, terms=design.terms)
    except StatisticsError as error:
        return None, [HypothesisTest(name=name, about="GLOBAL", method=_PH, note=str(error))]
    tests = [hypothesis(name, term, test, _PH) for term, test in found.terms.items()]
    return found, [*tests, hypothesis(name, "GLOBAL", found.overall, _PH)]


def _refused(
    data: EvaluationData, model: str, title: str, kind: Kind, error: StatisticsError
) -> Regression:
    """A regression that these patients do not give, with the reason."""
    if kind == "cox" and hazard_outcome(data.outcome) is None:
        kind = "logistic"
    return Regression(
        cohort=data.cohort,
        model=model,
        kind=kind,
        title=title,
        missing="none",
        n_patients=data.n_patients,
        n_events=data.outcome.n_events,
        terms=(),
        method="not fitted",
        note=str(error),
    )
