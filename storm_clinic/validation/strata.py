"""Headline numbers in parts of a cohort: subgroups and sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from storm_clinic.cohort.outcome import Classes, Ints, Outcome
from storm_clinic.errors import PredictionsError, StatisticsError
from storm_clinic.metrics.scales import Scale, onto
from storm_clinic.metrics.uncertainty import Statistic
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import Stratum
from storm_clinic.validation.asked import Asked, all_asked
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.measures import MEASURES, gain_of
from storm_clinic.validation.protocol import interval_of

FEWEST_PATIENTS, FEWEST_EVENTS = 20, 10  # below, a part of a cohort is too small to say
_HEADLINES = ("c_index", "auc", "auroc", "auroc_macro", "o_e", "calibration_slope")
_RANKINGS = ("c_index", "auc", "auroc", "auroc_macro")


@dataclass(frozen=True)
class Headline:
    """One number that is asked of each part: a measure of a model, or its gain over another."""

    metric: str
    horizon_months: float | None
    model: str
    over: str | None = None

    @property
    def name(self) -> str:
        """As in docs/statistics.md."""
        return self.metric if self.over is None else gain_of(self.metric)


@dataclass(frozen=True)
class Part:
    """A stratum with what a comparison of strata needs.

    Attributes
    ----------
    shown : Stratum
    on_scale : (float, float) or None
        Value and standard error on ``scale``; None where there is none.
    scale : str
    """

    shown: Stratum
    on_scale: tuple[float, float] | None
    scale: Scale = "identity"


def headlines(data: EvaluationData) -> list[Headline]:
    """Headline measures of the candidate, its gains in ranking, and the comparator's ranking.

    Measures of a horizon are taken at the last one that is followed.
    """
    found: list[Headline] = []
    for asked in _asked_once(data):
        found.append(Headline(asked.metric, asked.horizon_months, data.candidate))
        if data.comparator is not None and asked.metric in _RANKINGS:
            place = (asked.metric, asked.horizon_months)
            found.append(Headline(*place, data.candidate, data.comparator))
            found.append(Headline(*place, data.comparator))
    return found


def parts_of(
    data: EvaluationData, headline: Headline, labels: Sequence[str], order: Sequence[str]
) -> list[Part]:
    """One headline in each part of a cohort.

    Parameters
    ----------
    data : EvaluationData
        The cohort.
    headline : Headline
        What is asked of each part.
    labels : sequence of str, length n_patients
        The part of each patient.
    order : sequence of str
        Parts that are shown, in order.
    """
    names = np.asarray(labels, dtype=object)
    return [_part(data, headline, label, np.flatnonzero(names == label)) for label in order]


def _asked_once(data: EvaluationData) -> Iterator[Asked]:
    asked = all_asked(data.outcome, data.endpoint, data.kind)
    last: float | None = None
    if not isinstance(data.outcome, Classes):
        longest = float(data.outcome.time_months.max())
        last = max((h for h in data.endpoint.horizons_months if h < longest), default=None)
    for item in asked:
        wanted = item.metric in _HEADLINES and item.level is None
        if wanted and item.horizon_months in (None, last):
            yield item


def _part(data: EvaluationData, headline: Headline, label: str, index: Ints) -> Part:
    if not len(index):
        return Part(Stratum(label=label, n_patients=0, n_events=0, note="nobody is in it"), None)
    outcome = data.outcome.take(index)
    place = {"label": label, "n_patients": len(index), "n_events": outcome.n_events}
    if len(index) < FEWEST_PATIENTS or _fewest(outcome) < FEWEST_EVENTS:
        each = " (or patients of a class)" if isinstance(outcome, Classes) else ""
        note = (
            f"too small to say: fewer than {FEWEST_PATIENTS} patients or {FEWEST_EVENTS} "
            f"events{each}"
        )
        return Part(Stratum(note=note, **place), None)
    try:
        statistic = _statistic(data, headline, outcome, index)
    except (StatisticsError, PredictionsError) as error:
        return Part(Stratum(note=str(error), **place), None)
    shown = Stratum(**bounded(data, statistic, outcome), **place)
    return Part(shown, _on_scale(statistic), statistic.scale)


def bounded(data: EvaluationData, found: Statistic, outcome: Outcome) -> dict[str, Any]:
    """A number with its interval, as fields of `Bounded`; a note where there is no interval."""
    if found.se == 0:
        note = "the patients do not spread (e.g. every pair is ranked right): no interval"
        return {"value": found.value, "note": note}
    try:
        interval = interval_of(
            found, outcome, kind=data.kind, bootstraps=data.bootstraps, seed=data.seed
        )
    except StatisticsError as error:
        return {"value": found.value, "note": str(error)}
    return {"value": found.value, "lower": interval.lower, "upper": interval.upper}


def _statistic(
    data: EvaluationData, headline: Headline, outcome: Outcome, index: Ints
) -> Statistic:
    asked = next(
        item
        for item in all_asked(outcome, data.endpoint, data.kind)
        if (item.metric, item.horizon_months, item.level)
        == (headline.metric, headline.horizon_months, None)
    )
    value = asked.compute(data.model(headline.model).take(index))
    if headline.over is None:
        return value
    return value - asked.compute(data.model(headline.over).take(index))


def _on_scale(statistic: Statistic) -> tuple[float, float] | None:
    if not statistic.se:
        return None
    try:
        value, factor = onto(statistic.value, statistic.scale)
    except StatisticsError:
        return None
    return value, statistic.se * factor


def _fewest(outcome: Outcome) -> int:
    """Events; of classes, patients of the rarest."""
    if isinstance(outcome, Classes):
        return int(np.bincount(outcome.label, minlength=len(outcome.levels)).min())
    return outcome.n_events


def ranking_of(data: EvaluationData, model: ModelPredictions) -> Statistic:
    """The first ranking measure of a model, over pairs of patients of one fold only."""
    return all_asked(data.outcome, data.endpoint, "cross-validation")[0].compute(model)


def comparable(
    data: EvaluationData, model: ModelPredictions, within: Ints | None = None
) -> ModelPredictions:
    """The same model with folds inside which its risks are to be compared.

    Those of cross-validation, and one for all external patients; where ``within`` is given, each
    parted by its codes.
    """
    folds = tuple(
        _joint(fold if data.kind == "cross-validation" else np.zeros_like(fold), within)
        for fold in model.fold
    )
    return replace(model, fold=folds)


def headline_metric(data: EvaluationData) -> str:
    """Name of that measure."""
    return MEASURES[all_asked(data.outcome, data.endpoint, data.kind)[0].metric].name


def _joint(fold: Ints, within: Ints | None) -> Ints:
    """One code for each pair of fold and group."""
    if within is None:
        return fold
    pairs = np.stack([fold, within], axis=1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
