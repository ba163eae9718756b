"""How effects move with time and over a covariate's range, as curves of a report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from storm_clinic.cohort.outcome import Floats, Outcome
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.design_matrix import Design
from storm_clinic.inference.fitted import Fitted, Kind
from storm_clinic.inference.proportional_hazards import ProportionalHazards, time_varying
from storm_clinic.inference.splines import spline_effect
from storm_clinic.validation.analyses import HypothesisTest, Shape, TimeEffect
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.regression_questions import Question, fit_on

_NOT_CONSTANT = 0.05
_MANY = 100  # patients and events from which a spline has four knots instead of three
_SMOOTHED = (
    "scaled Schoenfeld residuals, smoothed by a natural spline with 4 degrees of freedom over "
    "1 - Kaplan-Meier (plot.cox.zph); pointwise 95% Wald interval"
)
_TEST = "score test of the term against time on the scale of 1 - Kaplan-Meier (cox.zph)"


def effects_over_time(
    data: EvaluationData, fit: Fitted, hazards: ProportionalHazards
) -> tuple[TimeEffect, ...]:
    """Log hazard ratios over time: the candidate's risk, and terms that are not constant.

    Parameters
    ----------
    data : EvaluationData
        For the cohort's and the candidate's name.
    fit : Fitted
        The candidate's Cox model; the risk is its first term.
    hazards : ProportionalHazards
        Its tests, a term at a time.

    Returns
    -------
    tuple of TimeEffect
        One a coefficient of each term. Without points where events are too few, with the reason
        in the test's note.
    """
    position = 0
    effects = []
    for at, (term, test) in enumerate(hazards.terms.items()):
        columns = range(position, position + test.df)
        position += test.df
        if at and not test.p < _NOT_CONSTANT:
            continue
        for column in columns:
            effects.append(_over_time(data, fit, hazards, term, column))
    return tuple(effects)


def _over_time(
    data: EvaluationData, fit: Fitted, hazards: ProportionalHazards, term: str, column: int
) -> TimeEffect:
    found, note = hazards.terms[term], ""
    try:
        curve = time_varying(hazards, column)
        months, value = curve.months, curve.log_hazard_ratio
        lower, upper = curve.lower, curve.upper
    except StatisticsError as error:
        months = value = lower = upper = np.empty(0)
        note = str(error)
    return TimeEffect(
        cohort=data.cohort,
        model=data.candidate,
        term=fit.names[column],
        months=_tuple(months),
        log_hazard_ratio=_tuple(value),
        lower=_tuple(lower),
        upper=_tuple(upper),
        constant=float(fit.coefficients[column]),
        test=HypothesisTest(
            name="proportional hazards",
            about=term,
            statistic=found.statistic,
            df=found.df,
            p=found.p,
            method=_TEST,
            note=note,
        ),
        method=_SMOOTHED,
    )


def effect_shapes(
    data: EvaluationData, question: Question, design: Design, outcome: Outcome, kind: Kind
) -> tuple[Shape, ...]:
    """Restricted cubic splines of the candidate's risk and of each continuous covariate.

    Parameters
    ----------
    data : EvaluationData
        For the cohort's and the candidate's name.
    question : Question
        The candidate's, with most beside its risk.
    design : Design
        Its columns of complete patients.
    outcome : Survival, CompetingRisks or Classes
        Theirs.
    kind : {"cox", "logistic"}
        The regression; other terms of ``question`` stand beside the spline as they are.

    Returns
    -------
    tuple of Shape
        Without points where the data cannot carry a spline, with the reason in the test's note.
    """
    curved = [question.risk.name]
    if question.coding is not None:
        curved += [c.name for c in question.coding.columns if not c.levels]
    return tuple(_shape(data, design, outcome, kind, name, curved[0]) for name in curved)


def _shape(
    data: EvaluationData, design: Design, outcome: Outcome, kind: Kind, name: str, risk: str
) -> Shape:
    (column,) = design.terms[name]
    others = design.without(name)

    def fit(matrix: Floats, names: Sequence[str]) -> Fitted:
        return fit_on(Design(matrix, tuple(names), {}), outcome, kind)

    n_knots = 4 if min(outcome.n_patients, outcome.n_events) >= _MANY else 3
    what = "log odds" if kind == "logistic" else "log hazard"
    beside = f" beside {', '.join(others.terms)}" if others.terms else ""
    common = {
        "cohort": data.cohort,
        "model": data.candidate,
        "variable": name,
        "unit": "SD" if name == risk else "",
        "method": f"restricted cubic spline with {n_knots} knots at Harrell's quantiles{beside}; "
        f"{what} against the median, pointwise 95% Wald interval",
    }
    test, about = "nonlinearity", f"{name}: spline against a line"
    try:
        found = spline_effect(
            design.matrix[:, column],
            fit,
            n_knots=n_knots,
            beside=others.matrix,
            beside_names=others.names,
        )
    except StatisticsError as error:
        reason = HypothesisTest(name=test, about=about, note=str(error))
        nothing = dict.fromkeys(("at", "log_hazard_ratio", "lower", "upper", "knots"), ())
        return Shape.model_validate({**common, **nothing, "nonlinear": reason})
    ratio = found.likelihood_ratio
    return Shape.model_validate(
        {
            **common,
            "at": _tuple(found.at),
            "log_hazard_ratio": _tuple(found.effect),
            "lower": _tuple(found.lower),
            "upper": _tuple(found.upper),
            "knots": _tuple(found.knots),
            "nonlinear": HypothesisTest(
                name=test,
                about=about,
                statistic=ratio.statistic,
                df=ratio.df,
                p=ratio.p,
                method="likelihood ratio",
            ),
        }
    )


def _tuple(values: Floats) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
