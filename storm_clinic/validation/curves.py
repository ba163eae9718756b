"""Curves of risk groups and of classes, ready for the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import precision_recall_curve, roc_curve

from storm_clinic.cohort.outcome import Classes, Ints, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.compare import log_rank, risk_groups
from storm_clinic.metrics.curves import at_risk, kaplan_meier
from storm_clinic.metrics.inputs import binary_event
from storm_clinic.validation.evidence import (
    ClassCurves,
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
    outcome: Survival,
    risk: ArrayLike,
    thresholds: Sequence[float],
    *,
    cohort: str,
    model: str,
    until_months: float | None = None,
) -> RiskGroupCurves:
    """Kaplan-Meier curves of groups cut at thresholds that were fixed on development data.

    Parameters
    ----------
    outcome : Survival, length n_patients
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
        cuts = np.unique(np.quantile(values[member], quantiles))
        groups[member] = risk_groups(values[member], cuts)
    return groups


def curves_of_groups(
    outcome: Survival,
    groups: Ints,
    *,
    n_groups: int,
    thresholds: Sequence[float] = (),
    cohort: str,
    model: str,
    until_months: float | None = None,
    note: str = "",
) -> RiskGroupCurves:
    """Kaplan-Meier curves, numbers at risk and log-rank test of given groups (0 = lowest risk)."""
    labels = group_labels(n_groups)
    present = [code for code in range(n_groups) if (groups == code).any()]
    absent = [labels[code] for code in range(n_groups) if code not in present]
    longest = float(outcome.time_months.max())
    ticks = tick_months(min(longest, until_months or longest))
    counts = at_risk(outcome, ticks, groups)
    notes = [note] if note else []
    if absent:
        notes.append(f"no patient in the group {', '.join(absent)}")
    chi2, df, p = None, None, None
    try:
        test = log_rank(outcome, groups)
        chi2, df, p = test.chi2, test.df, test.p
    except StatisticsError as error:
        notes.append(f"no log-rank test: {error}")
    return RiskGroupCurves(
        cohort=cohort,
        model=model,
        thresholds=tuple(map(float, thresholds)),
        ticks_months=ticks,
        groups=tuple(
            _group_curve(labels[code], outcome.take(groups == code), counts[code])
            for code in present
        ),
        log_rank_chi2=chi2,
        log_rank_df=df,
        log_rank_p=p,
        note="; ".join(notes),
    )


def tick_months(until_months: float) -> tuple[float, ...]:
    """Round months from 0 on, at most eight, the last at or before ``until_months``."""
    step = next((s for s in _STEPS_MONTHS if until_months / s < _MAX_TICKS), _STEPS_MONTHS[-1])
    ticks = tuple(float(month) for month in np.arange(0, until_months + 1e-9, step))
    return ticks if len(ticks) > 1 else (0.0, float(until_months))


def _group_curve(label: str, outcome: Survival, at_ticks: Ints) -> GroupCurve:
    curve = kaplan_meier(outcome)
    # Only steps are kept, and the end of follow-up: the curve is level in between.
    keep = curve.events > 0
    keep[-1] = True
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
