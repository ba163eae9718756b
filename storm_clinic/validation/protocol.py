"""One fixed protocol from predictions and outcomes to estimates, the patient as the unit.

On external cohorts an interval comes from the infinitesimal jackknife where there is a formula and
enough events for it, else from bootstrap resamples of patients. In cross-validation all intervals
come from resamples: they describe no more than that. One seed draws one set of resamples, and
influences are subtracted patient by patient, so that gains of one model over another are paired. A
number that the data cannot give becomes an estimate without a value, with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal

import numpy as np

from storm_clinic.cohort.outcome import Classes, Floats, Outcome
from storm_clinic.errors import PredictionsError, StatisticsError
from storm_clinic.metrics.uncertainty import Interval, Statistic, bootstrap
from storm_clinic.predictions import Predictions
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions, align
from storm_clinic.validation.asked import Asked, all_asked
from storm_clinic.validation.evidence import Estimate, Kind, ResampledInterval
from storm_clinic.validation.measures import MEASURES, gain_of

RESAMPLING_ONLY = "describes resampling of these patients, supports no claim"
FEWEST_EVENTS = 10  # below, a normal approximation is not to be trusted
_RESAMPLED_TOO = ("c_index", "c_index_uno", "auroc", "auroc_macro")  # their intervals are checked
_FEWEST_SITES = 5  # to resample whole sites


@dataclass(frozen=True)
class _Protocol:
    """What all numbers of one evaluation share."""

    outcome: Outcome
    cohort: str
    kind: Kind
    bootstraps: int
    seed: int
    candidate: str
    comparator: str | None
    parts: Mapping[str, Sequence[str]]
    sites: Sequence[str | None] | None


def evaluate(
    predictions: Predictions,
    keys: Sequence[str],
    outcome: Outcome,
    *,
    cohort: str,
    endpoint: Endpoint,
    candidate: str,
    comparator: str | None,
    kind: Kind,
    seed: int,
    bootstraps: int = 1000,
    parts: Mapping[str, Sequence[str]] | None = None,
    thresholds: Sequence[float] = (),
    sites: Sequence[str | None] | None = None,
) -> list[Estimate]:
    """Every measure of every model on one cohort, and the gains between models.

    Parameters
    ----------
    predictions : Predictions
        Of all models; rows of other cohorts are not looked at.
    keys : sequence of str, length n_patients
        Patient keys, in the order of the outcome.
    outcome : Survival, CompetingRisks or Classes, length n_patients
        What happened to them. With competing risks, risks and numbers are about the first cause.
    cohort : str
        Rows of the predictions with this name are used.
    endpoint : Endpoint
        Horizons and tau, in months; unused for classes.
    candidate, comparator : str
        The candidate's gains are over every other model, every model's over the comparator (the
        clinical one; None if there is none).
    kind : {"cross-validation", "external"}
        Cross-validated risks are ranked inside folds only, because the folds' models share no
        scale, and averaged over repeats; their intervals support no claim.
    seed : int
        Of the bootstrap.
    bootstraps : int
        Resamples of patients.
    parts : mapping of model to models, optional
        For a model that fuses inputs: models that see some of them and no other. Its gains over
        each are estimated too.
    thresholds : sequence of float, optional
        Over which net benefit is averaged; without them there is none.
    sites : sequence of (str or None), length n_patients, optional
        Hospitals. Where there are several, ranking measures of an external cohort are resampled
        by whole hospitals too.

    Returns
    -------
    list of Estimate
        In the order of the measures, then the models, then the gains.

    Raises
    ------
    PredictionsError
        If predictions and outcomes are not about the same patients, or a model is absent.
    """
    models = align(predictions, keys, cohort=cohort, kind=kind)
    if len(keys) != outcome.n_patients:
        raise PredictionsError(f"{len(keys)} keys for {outcome.n_patients} outcomes", where=cohort)
    for name in (candidate, comparator):
        if name is not None and name not in {model.model for model in models}:
            raise PredictionsError(f"no row of model {name!r} for {cohort}", where="predictions")
    shared = _Protocol(
        outcome, cohort, kind, bootstraps, seed, candidate, comparator, parts or {}, sites
    )
    return [
        estimate
        for asked in all_asked(outcome, endpoint, kind, thresholds)
        for estimate in _measure(asked, models, shared)
    ]


def _measure(asked: Asked, models: list[ModelPredictions], shared: _Protocol) -> list[Estimate]:
    found: dict[str, Statistic | str] = {}
    for m in models:
        try:
            found[m.model] = _remembered(asked.compute(m))
        except (StatisticsError, PredictionsError) as error:
            found[m.model] = str(error)
    estimates = [_estimate(asked, name, None, found[name], shared) for name in found]
    if MEASURES[asked.metric].has_gain and asked.level is None:
        for name, other in _pairs(list(found), shared):
            gain = _difference(found[name], found[other])
            estimates.append(_estimate(asked, name, other, gain, shared))
    return estimates


def _pairs(models: list[str], shared: _Protocol) -> list[tuple[str, str]]:
    """Every model over the comparator, the candidate over every other, each fusion over its parts.

    Each pair once, in this order.
    """
    candidate, comparator = shared.candidate, shared.comparator
    pairs = [(m, comparator) for m in models if comparator and m != comparator]
    pairs += [(candidate, m) for m in models if m not in (candidate, comparator)]
    pairs += [(m, part) for m in models for part in shared.parts.get(m, ()) if part in models]
    return list(dict.fromkeys(pairs))


def _difference(value: Statistic | str, other: Statistic | str) -> Statistic | str:
    if isinstance(value, str) or isinstance(other, str):
        return value if isinstance(value, str) else str(other)
    return value - other


def _estimate(
    asked: Asked, model: str, over: str | None, found: Statistic | str, shared: _Protocol
) -> Estimate:
    metric = asked.metric if over is None else gain_of(asked.metric)
    place = {
        "metric": metric,
        "cohort": shared.cohort,
        "model": model,
        "over": over,
        "horizon_months": asked.horizon_months,
        "n_patients": shared.outcome.n_patients,
        "n_events": _n_events(shared.outcome, asked.level),
        "level": asked.level,
    }
    if isinstance(found, str):
        return Estimate(value=None, method="not estimable", note=found, **place)
    limits = f"; {RESAMPLING_ONLY}" if shared.kind == "cross-validation" else ""
    try:
        interval = interval_of(
            found,
            shared.outcome,
            kind=shared.kind,
            bootstraps=shared.bootstraps,
            seed=shared.seed,
        )
    except StatisticsError as error:
        return Estimate(value=found.value, method=found.method, note=str(error), **place)
    return Estimate(
        value=found.value,
        lower=interval.lower,
        upper=interval.upper,
        method=f"{interval.method}{limits}",
        resampled=tuple(_resampled(asked, found, shared)),
        **place,
    )


def interval_of(
    found: Statistic, outcome: Outcome, *, kind: Kind, bootstraps: int, seed: int
) -> Interval:
    """The interval that the protocol gives a number on these patients.

    Raises
    ------
    StatisticsError
        If there are too few patients or events for one.
    """
    by_formula = found.influence is not None and _fewest_events(outcome) >= FEWEST_EVENTS
    if kind == "external" and by_formula:
        return found.interval()
    return bootstrap(found, n=bootstraps, seed=seed)


def _resampled(asked: Asked, found: Statistic, shared: _Protocol) -> Iterator[ResampledInterval]:
    """The interval once more, by resampling patients, and hospitals where there are several."""
    formula = shared.kind == "external" and found.influence is not None
    if asked.metric not in _RESAMPLED_TOO or asked.level is not None or not formula:
        return
    units: list[tuple[Literal["patients", "sites"], Sequence[str] | None, int]] = [
        ("patients", None, shared.outcome.n_patients)
    ]
    if shared.sites is not None:
        sites = [site or "no site" for site in shared.sites]
        if len(set(sites)) >= _FEWEST_SITES:
            units.append(("sites", sites, len(set(sites))))
    for unit, clusters, n_units in units:
        about = {"unit": unit, "n_units": n_units, "n_resamples": shared.bootstraps}
        try:
            again = bootstrap(found, n=shared.bootstraps, seed=shared.seed, clusters=clusters)
        except StatisticsError as error:
            yield ResampledInterval(note=str(error), **about)
        else:
            yield ResampledInterval(lower=again.lower, upper=again.upper, **about)


def _fewest_events(outcome: Outcome) -> int:
    """Patients with the event or without it, or of the rarest class, whichever are fewer."""
    if isinstance(outcome, Classes):
        return int(np.bincount(outcome.label, minlength=len(outcome.levels)).min())
    return outcome.n_events


def _n_events(outcome: Outcome, level: str | None) -> int:
    if level is None or not isinstance(outcome, Classes):
        return outcome.n_events
    return int((outcome.label == outcome.levels.index(level)).sum())


def _remembered(statistic: Statistic) -> Statistic:
    """The same statistic, computed once for each block of resamples.

    A model's resampled values serve its own interval and every gain it takes part in.
    """
    known: dict[bytes, Floats] = {}

    def under(weights: Floats) -> Floats:
        key = blake2b(weights.tobytes(), digest_size=16).digest()
        if key not in known:
            known[key] = statistic.under(weights)
        return known[key]

    return replace(statistic, under=under)
