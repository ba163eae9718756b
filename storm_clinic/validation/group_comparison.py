"""Risk groups compared: shares at the horizons, restricted means, tests, and landmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Ints, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.compare import LogRank, log_rank, risk_groups
from storm_clinic.metrics.curves import kaplan_meier
from storm_clinic.metrics.group_tests import GroupTest, gray, log_rank_trend, pairwise
from storm_clinic.metrics.incidence import incidence_at
from storm_clinic.metrics.inputs import Timed
from storm_clinic.metrics.restricted_mean import difference, restricted_mean, restricted_time_lost
from storm_clinic.metrics.uncertainty import Interval
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import (
    Bounded,
    Contrast,
    GroupComparison,
    GroupSummary,
    HypothesisTest,
)
from storm_clinic.validation.curves import cross_validated_groups, group_labels
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.landmarks import landmarks

_NO_SPREAD = "no event in this group by then, so there is no interval"


def group_comparisons(
    data: EvaluationData, *, quantiles: Sequence[float] = ()
) -> tuple[GroupComparison, ...]:
    """Compare the risk groups of every model whose cut points were fixed before.

    Parameters
    ----------
    data : EvaluationData
        Of an external validation, models in ``risk_cuts`` are grouped by their cut points. For
        classes there are no groups.
    quantiles : sequence of float
        Of a cross-validation: each patient's group is cut at these quantiles of the risks in the
        patient's own fold, as in the curves of risk groups; no outcome is used. Of several repeats
        the first is taken.

    Returns
    -------
    tuple of GroupComparison
        In the order of the models.
    """
    if isinstance(data.outcome, Classes):
        return ()
    if data.kind == "external":
        named = [model for model in data.models if model.model in data.risk_cuts]
    else:
        named = [m for m in data.models if quantiles or m.model in data.risk_cuts]
    return tuple(_comparison(data, data.outcome, model, quantiles) for model in named)


def _comparison(
    data: EvaluationData, outcome: Timed, model: ModelPredictions, quantiles: Sequence[float]
) -> GroupComparison:
    event = outcome.causes[0] if isinstance(outcome, CompetingRisks) else ""
    horizons, tau = data.endpoint.horizons_months, data.endpoint.tau_months
    place = {
        "cohort": data.cohort,
        "model": model.model,
        "horizons_months": horizons,
        "tau_months": tau,
        "event": event,
    }
    try:
        groups = _grouped(data, outcome, model, quantiles)
    except StatisticsError as error:
        return GroupComparison(groups=(), method="not estimable", note=str(error), **place)
    means = [_restricted(part, tau) for part in groups.outcomes]
    return GroupComparison(
        groups=tuple(
            _summary(label, part, horizons, mean)
            for label, part, mean in zip(groups.labels, groups.outcomes, means, strict=True)
        ),
        differences=_differences(groups, means),
        tests=_tests(outcome, groups),
        landmarks=landmarks(data, outcome, model),
        method=_method(outcome),
        note="; ".join(groups.notes),
        **place,
    )


@dataclass(frozen=True, eq=False)
class _Groups:
    """Groups that have patients, from low to high: names, positions, and what happened."""

    labels: tuple[str, ...]
    codes: Ints  # position in ``labels``, one a patient
    outcomes: tuple[Timed, ...]
    notes: tuple[str, ...]


def _grouped(
    data: EvaluationData, outcome: Timed, model: ModelPredictions, quantiles: Sequence[float]
) -> _Groups:
    notes = []
    if data.kind == "external":
        cuts = data.risk_cuts[model.model]
        codes, n_groups = risk_groups(model.risk[0], cuts), len(cuts) + 1
    elif quantiles:
        codes = cross_validated_groups(model.risk[0], model.fold[0], quantiles)
        n_groups = len(quantiles) + 1
        notes.append("groups cut inside each fold")
        if model.n_repeats > 1:
            notes.append(f"first of {model.n_repeats} repeats of cross-validation")
    else:
        raise StatisticsError(
            "risks of several folds share no scale on which one cut point could be fixed",
            fix="Name quantiles, at which the risks of each fold are cut.",
        )
    labels = group_labels(n_groups)
    present = [code for code in range(n_groups) if (codes == code).any()]
    parts = tuple(outcome.take(np.flatnonzero(codes == code)) for code in present)
    absent = [labels[code] for code in range(n_groups) if code not in present]
    if absent:
        notes.append(f"no patient in the group {', '.join(absent)}")
    calm = [labels[code] for code, part in zip(present, parts, strict=True) if not part.n_events]
    if calm:
        notes.append(f"no event in the group {', '.join(calm)}")
    return _Groups(
        tuple(labels[code] for code in present),
        np.searchsorted(present, codes).astype(np.int64),
        parts,
        tuple(notes),
    )


def _summary(
    label: str, outcome: Timed, horizons: tuple[float, ...], mean: Interval | str | None
) -> GroupSummary:
    return GroupSummary(
        label=label,
        n_patients=outcome.n_patients,
        n_events=outcome.n_events,
        by_horizon=tuple(_share(outcome, horizon) for horizon in horizons),
        restricted_mean=None if mean is None else _bounded(mean),
    )


def _share(outcome: Timed, horizon: float) -> Bounded:
    """Event-free share, or cumulative incidence of the cause of interest, by a horizon."""
    try:
        found = (
            kaplan_meier(outcome).at(horizon)
            if isinstance(outcome, Survival)
            else incidence_at(outcome, horizon)
        )
    except StatisticsError as error:
        return Bounded(note=str(error))
    if found.value == (1 if isinstance(outcome, Survival) else 0):
        return Bounded(value=found.value, note=_NO_SPREAD)
    return Bounded(value=found.value, lower=found.lower, upper=found.upper)


def _restricted(outcome: Timed, tau: float | None) -> Interval | str | None:
    """Restricted mean (or time lost) of one group, or why there is none; None without tau."""
    if tau is None:
        return None
    try:
        if isinstance(outcome, Survival):
            return restricted_mean(outcome, tau)
        return restricted_time_lost(outcome, tau)
    except StatisticsError as error:
        return str(error)


def _bounded(mean: Interval | str) -> Bounded:
    if isinstance(mean, str):
        return Bounded(note=mean)
    if not mean.se:
        return Bounded(value=mean.value, note=_NO_SPREAD)
    return Bounded(value=mean.value, lower=mean.lower, upper=mean.upper)


def _differences(groups: _Groups, means: Sequence[Interval | str | None]) -> tuple[Contrast, ...]:
    """Every group less the lowest."""
    found = []
    for label, mean in zip(groups.labels[1:], means[1:], strict=True):
        lowest = means[0]
        if mean is None or lowest is None:
            continue
        if isinstance(mean, str) or isinstance(lowest, str):
            where, why = (groups.labels[0], lowest) if isinstance(lowest, str) else (label, mean)
            found.append(Contrast(label=label, note=f"{where}: {why}"))
        elif not mean.se or not lowest.se:
            note = "one of the groups has no event by then, so there is no interval"
            found.append(Contrast(label=label, value=mean.value - lowest.value, note=note))
        else:
            gap = difference(mean, lowest)
            found.append(
                Contrast(label=label, value=gap.value, lower=gap.lower, upper=gap.upper, p=gap.p)
            )
    return tuple(found)


def _tests(outcome: Timed, groups: _Groups) -> tuple[HypothesisTest, ...]:
    """All groups at once; along their order and by pairs where there are more than two."""
    alone = outcome.cause_specific() if isinstance(outcome, CompetingRisks) else outcome
    name = "Gray" if isinstance(outcome, CompetingRisks) else "log-rank"
    tests = [_test(name, "all groups", lambda: _compare(outcome, groups.codes))]
    if len(groups.labels) > 2:
        about = "from low to high"
        if isinstance(outcome, CompetingRisks):
            about += f", cause-specific hazard of {outcome.causes[0]}"
        tests.append(_test("log-rank trend", about, lambda: log_rank_trend(alone, groups.codes)))
        tests += [
            HypothesisTest(
                name=name,
                about=f"{pair.second} against {pair.first}",
                p=pair.p,
                p_adjusted=pair.p_adjusted,
                method="Holm-adjusted over the pairs",
                note=pair.note,
            )
            for pair in pairwise(outcome, groups.codes, groups.labels, _compare)
        ]
    return tuple(tests)


def _compare(outcome: Timed, codes: Ints) -> GroupTest | LogRank:
    if isinstance(outcome, CompetingRisks):
        return gray(outcome, codes)
    return log_rank(outcome, codes)


def _test(name: str, about: str, compute: Callable[[], GroupTest | LogRank]) -> HypothesisTest:
    try:
        found = compute()
    except StatisticsError as error:
        return HypothesisTest(name=name, about=about, note=str(error))
    return HypothesisTest(
        name=name,
        about=about,
        statistic=found.chi2,
        df=found.df,
        p=found.p,
        method=found.method,
    )


def _method(outcome: Timed) -> str:
    if isinstance(outcome, Survival):
        share, mean = "Kaplan-Meier with log-log intervals", "mean event-free time"
        ranking = "C-index"
    else:
        share = "Aalen-Johansen with intervals on the log(-log) scale"
        mean, ranking = f"mean time lost to {outcome.causes[0]}", "Wolbers' C"
    return (
        f"{share}; restricted {mean} and its differences from the lowest group with Wald "
        f"intervals, p not adjusted; landmarks: {ranking} of those event-free and followed beyond "
        "the month"
    )
