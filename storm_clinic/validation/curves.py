"""Curves of risk groups and of classes, ready for the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.metrics import precision_recall_curve, roc_curve

from storm_clinic.cohort.outcome import Bools, Classes, CompetingRisks, Ints
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.classes import likeliest, one_against_rest
from storm_clinic.metrics.compare import log_rank, risk_groups
from storm_clinic.metrics.curves import at_risk, kaplan_meier
from storm_clinic.metrics.incidence import cumulative_incidence
from storm_clinic.metrics.inputs import Timed, all_causes, binary_event
from storm_clinic.validation.evidence import (
    ClassCurves,
    ConfusionMatrix,
    GroupCurve,
    RiskGroupCurves,
)

_STEPS_MONTHS = (1, 2, 3, 6, 12, 24, 36, 48, 60, 120)
_MAX_TICKS = 8


def group_labels(n_groups: int) -> tuple[str, ...]:
    """Names of risk groups from low to high."""
    named = {2: ("low", "high"), 3: ("low", "intermediate", "high")}
    return named.get(n_groups, tuple(f"group {i + 1}" for i in range(n_groups)))


def risk_group_curves(
    outcome: Timed,
    risk: ArrayLike,
    thresholds: Sequence[float],
    *,
    cohort: str,
    model: str,
    until_months: float | None = None,
) -> RiskGroupCurves:
    """Curves of groups cut at thresholds that were fixed on development data.

    Parameters
    ----------
    outcome : Survival or CompetingRisks, length n_patients
        What happened to them.
    risk : float array, shape (n_patients,)
        On the scale of the thresholds.
    thresholds : sequence of float
        Ascending; a risk equal to a threshold belongs to the upper group.
    cohort, model : str
        What the curves are about.
    until_months : float, optional
        Where the figure ends; by default at the longest follow-up.
    """
    groups = risk_groups(risk, thresholds)
    return curves_of_groups(
        outcome,
        groups,
        n_groups=len(thresholds) + 1,
        thresholds=thresholds,
        cohort=cohort,
        model=model,
        until_months=until_months,
    )


def cross_validated_groups(risk: ArrayLike, fold: ArrayLike, quantiles: Sequence[float]) -> Ints:
    """Groups of out-of-fold risks, cut at quantiles inside each fold; no outcome is used.

    Folds come from different models without a common scale, so one threshold for all would
    compare scales and not patients.
    """
    values, folds = np.asarray(risk, dtype=np.float64), np.asarray(fold)
    groups = np.zeros(len(values), dtype=np.int64)
    for code in np.unique(folds):
        member = folds == code
        # Tied risks stand at the middle of their ranks, so that they stay in one group.
        share = (rankdata(values[member]) - 0.5) / member.sum()
        groups[member] = np.searchsorted(quantiles, share, side="right")
    return groups


def curves_of_groups(
    outcome: Timed,
    groups: Ints,
    *,
    n_groups: int,
    thresholds: Sequence[float] = (),
    cohort: str,
    model: str,
    until_months: float | None = None,
    note: str = "",
) -> RiskGroupCurves:
    """Curves, numbers at risk and log-rank test of given groups (0 = lowest risk).

    Kaplan-Meier; with competing risks the cumulative incidence of the first cause, and the log-rank
    test of its cause-specific hazard, in which other causes end follow-up.
    """
    labels = group_labels(n_groups)
    present = [code for code in range(n_groups) if (groups == code).any()]
    absent = [labels[code] for code in range(n_groups) if code not in present]
    longest = float(outcome.time_months.max())
    ticks = tick_months(min(longest, until_months or longest))
    counts = at_risk(all_causes(outcome), ticks, groups)
    notes = [note] if note else []
    if absent:
        notes.append(f"no patient in the group {', '.join(absent)}")
    chi2, df, p = None, None, None
    try:
        alone = outcome.cause_specific() if isinstance(outcome, CompetingRisks) else outcome
        test = log_rank(alone, groups)
        chi2, df, p = test.chi2, test.df, test.p
    except StatisticsError as error:
        notes.append(f"no log-rank test: {error}")
    return RiskGroupCurves(
        cohort=cohort,
        model=model,
        thresholds=tuple(map(float, thresholds)),
        ticks_months=ticks,
        groups=tuple(
            _group_curve(labels[code], outcome.take(np.flatnonzero(groups == code)), counts[code])
            for code in present
        ),
        log_rank_chi2=chi2,
        log_rank_df=df,
        log_rank_p=p,
        note="; ".join(notes),
        event=outcome.causes[0] if isinstance(outcome, CompetingRisks) else "",
    )


def tick_months(until_months: float) -> tuple[float, ...]:
    """Round months from 0 on, at most eight, the last at or before ``until_months``."""
    step = next((s for s in _STEPS_MONTHS if until_months / s < _MAX_TICKS), _STEPS_MONTHS[-1])
    ticks = tuple(float(month) for month in np.arange(0, until_months + 1e-9, step))
    return ticks if len(ticks) > 1 else (0.0, float(until_months))


def _group_curve(label: str, outcome: Timed, at_ticks: Ints) -> GroupCurve:
    if isinstance(outcome, CompetingRisks):
        return _incidence_curve(label, outcome, at_ticks)
    curve = kaplan_meier(outcome)
    keep = _steps(curve.events > 0)
    return GroupCurve(
        label=label,
        n_patients=outcome.n_patients,
        n_events=outcome.n_events,
        months=(0.0, *curve.times_months[keep].tolist()),
        survival=(1.0, *curve.survival[keep].tolist()),
        lower=(1.0, *curve.lower[keep].tolist()),
        upper=(1.0, *curve.upper[keep].tolist()),
        censored_months=tuple(np.unique(outcome.time_months[~outcome.event]).tolist()),
        at_risk=tuple(at_ticks.tolist()),
    )


def _incidence_curve(label: str, outcome: CompetingRisks, at_ticks: Ints) -> GroupCurve:
    curve = cumulative_incidence(outcome)
    keep = _steps(curve.events > 0)
    return GroupCurve(
        label=label,
        n_patients=outcome.n_patients,
        n_events=outcome.n_events,
        n_competing=int((outcome.cause > 1).sum()),
        months=(0.0, *curve.times_months[keep].tolist()),
        incidence=(0.0, *curve.incidence[keep].tolist()),
        lower=(0.0, *curve.lower[keep].tolist()),
        upper=(0.0, *curve.upper[keep].tolist()),
        censored_months=tuple(np.unique(outcome.time_months[outcome.cause == 0]).tolist()),
        at_risk=tuple(at_ticks.tolist()),
    )


def _steps(happened: Bools) -> Bools:
    """Only steps are kept, and the end of follow-up: the curve is level in between."""
    keep = happened.copy()
    keep[-1] = True
    return keep


def class_curves(outcome: Classes, risk: ArrayLike, *, cohort: str, model: str) -> ClassCurves:
    """Receiver operating characteristic and precision-recall curve of a binary outcome.

    Raises
    ------
    StatisticsError
        If there are not two classes, or one does not occur.
    """
    event, values = binary_event(outcome), np.asarray(risk, dtype=np.float64)
    false_positive, true_positive, _ = roc_curve(event, values)
    precision, recall, _ = precision_recall_curve(event, values)
    return ClassCurves(
        cohort=cohort,
        model=model,
        event=outcome.levels[1],
        prevalence=float(event.mean()),
        false_positive_rate=tuple(false_positive.tolist()),
        true_positive_rate=tuple(true_positive.tolist()),
        recall=tuple(recall[::-1].tolist()),
        precision=tuple(precision[::-1].tolist()),
    )


def curves_by_class(
    outcome: Classes, probabilities: ArrayLike, *, cohort: str, model: str
) -> list[ClassCurves]:
    """`class_curves` of each of several classes against the rest, left out where one is absent.

    ``probabilities`` is (n_patients, n_levels), in the order of the levels.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    share = np.bincount(outcome.label, minlength=len(outcome.levels)) / outcome.n_patients
    return [
        class_curves(one_against_rest(outcome, level), p[:, at], cohort=cohort, model=model)
        for at, level in enumerate(outcome.levels)
        if 0 < share[at] < 1
    ]


def confusion(
    outcome: Classes, probabilities: ArrayLike, *, cohort: str, model: str, note: str = ""
) -> ConfusionMatrix:
    """How often each class was called which: the likeliest is called, the earlier of equals."""
    size = len(outcome.levels)
    cells = outcome.label * size + likeliest(outcome, probabilities)
    counts = np.bincount(cells, minlength=size * size).reshape(size, size)
    return ConfusionMatrix(
        cohort=cohort,
        model=model,
        levels=outcome.levels,
        counts=tuple(tuple(row) for row in counts.tolist()),
        note=note,
    )
