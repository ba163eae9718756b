"""Hospitals: numbers in each, pooled over them, and what models see of the hospital itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.special import logit
from sklearn.model_selection import KFold

from storm_clinic.cohort.outcome import Classes, Floats, Ints
from storm_clinic.errors import PredictionsError, StatisticsError
from storm_clinic.inference.meta_analysis import random_effects
from storm_clinic.inference.site_probe import FEWEST_PATIENTS, probe_sites
from storm_clinic.metrics.calibration import complementary_log_log
from storm_clinic.metrics.inputs import of_interest
from storm_clinic.metrics.scales import back, name_of
from storm_clinic.metrics.uncertainty import Statistic
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import Analyses, Bounded, MetaAnalysis, SiteProbe
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.protocol import RESAMPLING_ONLY, interval_of
from storm_clinic.validation.strata import (
    Headline,
    Part,
    headline_metric,
    headlines,
    parts_of,
    ranking_of,
)

NO_SITE = "no site declared"
_PRIOR_PATIENTS = 5.0  # weight of the overall event rate in that of a site
_FOLDS = 5
_NARROW = (
    "the sites agree better than chance would let them, so that this interval is shorter than one "
    "that takes them for equal, and too short"
)


def site_analyses(data: EvaluationData) -> Analyses:
    """Meta-analyses over sites, and probes of what tells the site; empty without two sites."""
    if data.sites is None or len({site for site in data.sites if site}) < 2:
        return Analyses()
    labels = [site or NO_SITE for site in data.sites]
    return Analyses(
        sites=tuple(_meta(data, headline, labels) for headline in headlines(data)),
        probes=tuple(_probes(data, np.array(labels, dtype=object))),
    )


# Numbers in each site, and pooled


def _meta(data: EvaluationData, headline: Headline, labels: list[str]) -> MetaAnalysis:
    sizes = Counter(labels)
    order = sorted(sizes, key=lambda site: (-sizes[site], site))
    parts = parts_of(data, headline, labels, order)
    usable = [part for part in parts if part.on_scale is not None and part.shown.label != NO_SITE]
    about = {
        "cohort": data.cohort,
        "metric": headline.name,
        "model": headline.model,
        "over": headline.over,
        "sites": tuple(part.shown for part in parts),
    }
    notes = [_held_out(data)]
    if len(usable) < len(parts):
        notes.append(f"{len(parts) - len(usable)} of {len(parts)} sites are too small to enter")
    if len(usable) < 2:
        reason = f"{len(usable)} of {len(parts)} sites are large enough; two are needed"
        return MetaAnalysis(
            pooled=Bounded(note=reason), method="not pooled", note="; ".join(notes), **about
        )
    return _pooled(usable, about, notes)


def _pooled(usable: list[Part], about: Mapping[str, Any], notes: list[str]) -> MetaAnalysis:
    pairs = np.array([part.on_scale for part in usable], dtype=np.float64)
    found = random_effects(pairs[:, 0], pairs[:, 1])
    scale = usable[0].scale
    lower, upper = sorted((back(found.lower, scale), back(found.upper, scale)))
    ends: list[float | None] = [None, None]
    ahead = ""
    if found.prediction_lower is not None and found.prediction_upper is not None:
        ends = [*sorted(back(x, scale) for x in (found.prediction_lower, found.prediction_upper))]
        ahead = f", 95% prediction interval (Student, {found.n_studies - 2} degrees of freedom)"
    else:
        notes = [*notes, "two sites say nothing about where a third may lie"]
    if found.narrow:
        notes = [*notes, _NARROW]
    return MetaAnalysis(
        pooled=Bounded(value=back(found.value, scale), lower=lower, upper=upper),
        prediction_lower=ends[0],
        prediction_upper=ends[1],
        tau2=found.tau2,
        i2=found.i2,
        method=f"random effects on {name_of(scale)} over {len(usable)} sites: restricted maximum "
        f"likelihood, Hartung-Knapp-Sidik-Jonkman interval (Student, {found.n_studies - 1} degrees "
        f"of freedom){ahead}",
        note="; ".join(notes),
        **about,
    )


def _held_out(data: EvaluationData) -> str:
    if data.kind == "external":
        return "no site of this cohort was trained on"
    sites = np.array([site or NO_SITE for site in data.sites or ()], dtype=object)
    whole = all(
        len({int(f) for f in fold[sites == site]}) == 1
        for model in data.models
        for fold in model.fold
        for site in set(sites)
    )
    told = "each site was held out whole" if whole else "sites were split between folds"
    return f"{told}; {RESAMPLING_ONLY}"


# What tells the site


def _probes(data: EvaluationData, labels: Ints) -> Iterator[SiteProbe]:
    counts = Counter(labels.tolist())
    told = [s for s, n in sorted(counts.items()) if n >= FEWEST_PATIENTS and s != NO_SITE]
    features = {f"mean embedding ({name})": x for name, x in data.embeddings.items()}
    model = data.model(data.candidate)
    risk = _one_scale(data, model)
    if risk is not None:
        features[f"risk of {data.candidate} alone"] = risk[:, None]
    for what, x in features.items():
        yield _probe(data, what, x, labels, told)


def _probe(data: EvaluationData, what: str, x: Floats, labels: Ints, told: list[str]) -> SiteProbe:
    used = np.isin(labels, told) & np.isfinite(x).all(axis=1)
    present = [site for site in told if (labels[used] == site).sum() >= FEWEST_PATIENTS]
    used &= np.isin(labels, present)
    left_out = data.n_patients - int(used.sum())
    about = {
        "cohort": data.cohort,
        "what": what,
        "n_patients": int(used.sum()),
        "n_sites": len(present),
        "metric": headline_metric(data),
        "overall": _ranking(data, data.model(data.candidate), None),
        "within": _ranking(data, data.model(data.candidate), _codes(labels)),
        "site_alone": _ranking(data, _site_model(data, labels), None),
        "note": f"{left_out} patients of sites with fewer than {FEWEST_PATIENTS}, or without a "
        "value, are left out of the telling of sites"
        if left_out
        else "",
    }
    method = (
        "ridge regression on indicators of the sites, out of fold; macro AUROC; p from 200 "
        "permutations of the sites. Site alone: every patient is given the event rate of other "
        "patients of the same site"
    )
    try:
        found = probe_sites(x[used], _codes(labels[used]), seed=data.seed)
    except StatisticsError as error:
        return SiteProbe(auroc=Bounded(note=str(error)), method=method, **about)
    return SiteProbe(
        auroc=Bounded(value=found.auroc.value, lower=found.auroc.lower, upper=found.auroc.upper),
        p=found.p,
        method=method,
        **about,
    )


def _ranking(data: EvaluationData, model: ModelPredictions, within: Ints | None) -> Bounded:
    try:
        found: Statistic = ranking_of(data, model, within)
        interval = interval_of(
            found, data.outcome, kind=data.kind, bootstraps=data.bootstraps, seed=data.seed
        )
    except (StatisticsError, PredictionsError) as error:
        return Bounded(note=str(error))
    return Bounded(value=found.value, lower=interval.lower, upper=interval.upper)


def _site_model(data: EvaluationData, labels: Ints) -> ModelPredictions:
    """A model that knows the hospital and nothing else, fitted on other patients."""
    codes = _codes(labels)
    repeats = data.model(data.candidate).fold
    if isinstance(data.outcome, Classes):
        k = len(data.outcome.levels)
        happened = (data.outcome.label[:, None] == np.arange(k)).astype(np.float64)
        exposure = np.ones(data.n_patients)
        rates = _cross_fitted(codes, happened, exposure, data.seed)
        rates /= rates.sum(axis=1, keepdims=True)
        columns = {
            f"p_{level}": (rates[:, at],) * len(repeats)
            for at, level in enumerate(data.outcome.levels)
        }
        return ModelPredictions("site", (rates[:, -1],) * len(repeats), repeats, columns)
    event = of_interest(data.outcome).astype(np.float64)[:, None]
    rate = _cross_fitted(codes, event, data.outcome.time_months, data.seed)[:, 0]
    return ModelPredictions("site", (rate,) * len(repeats), repeats, {})


def _cross_fitted(codes: Ints, happened: Floats, exposure: Floats, seed: int) -> Floats:
    """Event rates of each patient's site among other patients, drawn to the overall rate."""
    found = np.empty_like(happened)
    for train, test in KFold(_FOLDS, shuffle=True, random_state=seed).split(codes):
        overall = happened[train].sum(axis=0) / exposure[train].sum()
        prior = _PRIOR_PATIENTS * exposure[train].mean()
        n_sites = int(codes.max()) + 1
        member = (codes[train][:, None] == np.arange(n_sites)).astype(np.float64)
        events, time = member.T @ happened[train], member.T @ exposure[train]
        rates = (events + prior * overall) / (time + prior)[:, None]
        found[test] = rates[codes[test]]
    return found


def _one_scale(data: EvaluationData, model: ModelPredictions) -> Floats | None:
    """Risks that compare over folds: from probabilities, since folds share no other scale."""
    if isinstance(data.outcome, Classes):
        column = f"p_{data.outcome.levels[-1]}"
        if column not in model.probabilities:
            return None
        p = np.mean(model.column(column), axis=0)
        return np.asarray(logit(np.clip(p, 1e-9, 1 - 1e-9)), dtype=np.float64)
    for horizon in reversed(data.endpoint.horizons_months):
        try:
            p = np.mean(model.risk_by(horizon), axis=0)
        except PredictionsError:
            continue
        return complementary_log_log(np.clip(p, 1e-9, 1 - 1e-9))
    return model.risk[0] if data.kind == "external" else None


def _codes(labels: Ints) -> Ints:
    return np.unique(labels.astype(str), return_inverse=True)[1].astype(np.int64)
