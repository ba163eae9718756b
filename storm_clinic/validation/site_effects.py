"""Hospitals: numbers in each, pooled over them, and what models see of the hospital itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.model_selection import KFold

from storm_clinic.cohort.outcome import Classes, Floats, Ints
from storm_clinic.errors import PredictionsError, StatisticsError
from storm_clinic.inference.meta_analysis import random_effects
from storm_clinic.inference.site_probe import FEWEST_PATIENTS, probe_sites
from storm_clinic.metrics.calibration import complementary_log_log
from storm_clinic.metrics.inputs import of_interest
from storm_clinic.metrics.scales import back, name_of
from storm_clinic.predictions import horizon_column
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.analyses import Analyses, Bounded, MetaAnalysis, SiteProbe
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.protocol import RESAMPLING_ONLY
from storm_clinic.validation.strata import (
    Headline,
    Part,
    bounded,
    comparable,
    headline_metric,
    headlines,
    parts_of,
    ranking_of,
)

NO_SITE = "no site declared"
_PRIOR_PATIENTS = 5.0  # weight of the overall event rate in that of a site
_FOLDS = 5
Labels = NDArray[np.object_]
_METHOD = (
    "ridge regression on indicators of the sites, out of fold; macro AUROC, whose "
    "interval takes the fitted regression as known; p from 200 permutations of the sites inside "
    "folds. Rankings are of all patients whose site is known. "
    "Site alone: each is given the event rate of his site in other folds, and compared inside his "
    "own"
)


def site_analyses(data: EvaluationData) -> Analyses:
    """Meta-analyses over sites, and probes of what tells the site; empty without two sites."""
    if data.sites is None or len({site for site in data.sites if site}) < 2:
        return Analyses()
    labels = [site or NO_SITE for site in data.sites]
    return Analyses(
        sites=tuple(_meta(data, headline, labels) for headline in headlines(data)),
        probes=tuple(_probes(data)),
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
    n_sites = len(parts) - (NO_SITE in sizes)
    notes = [_held_out(data)]
    if len(usable) < n_sites:
        notes.append(
            f"{n_sites - len(usable)} of {n_sites} sites do not enter: too small, or without a "
            "value and its error"
        )
    if NO_SITE in sizes:
        notes.append(f"{sizes[NO_SITE]} patients without a declared site do not enter")
    if len(usable) < 2:
        reason = f"{len(usable)} of {n_sites} sites are large enough; two are needed"
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
    return MetaAnalysis(
        pooled=Bounded(value=back(found.value, scale), lower=lower, upper=upper),
        prediction_lower=ends[0],
        prediction_upper=ends[1],
        tau2=found.tau2,
        i2=found.i2,
        method=f"random effects on {name_of(scale)} over {len(usable)} sites: restricted maximum "
        "likelihood, Hartung-Knapp-Sidik-Jonkman interval with a factor of at least 1 (Student, "
        f"{found.n_studies - 1} degrees of freedom){ahead}",
        note="; ".join(
            [*notes, f"Cochran's Q {found.q:.2f}, {found.q_df} df, p = {found.q_p:.2g}"]
        ),
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
        for site in set(sites) - {NO_SITE}
    )
    told = "each site was held out whole" if whole else "sites were split between folds"
    return f"{told}; {RESAMPLING_ONLY}"


# What tells the site


def _probes(data: EvaluationData) -> Iterator[SiteProbe]:
    """Probes among the patients whose site is known."""
    known = np.flatnonzero([bool(site) for site in data.sites or ()])
    kept = _those(data, known)
    labels = np.array(kept.sites, dtype=object)
    counts = Counter(labels.tolist())
    told = [site for site, n in sorted(counts.items()) if n >= FEWEST_PATIENTS]
    features: dict[str, Floats | None] = {
        f"mean embedding ({name})": x for name, x in kept.embeddings.items()
    }
    risk = _one_scale(kept, kept.model(data.candidate))
    # A site of middling risks is told by no line: its distance from the middle tells it.
    features[f"risk of {data.candidate} alone"] = (
        None if risk is None else np.hstack([risk, (risk - risk.mean(axis=0)) ** 2])
    )
    ranking = _rankings(kept, _codes(labels))
    for what, x in features.items():
        about: dict[str, Any] = {"cohort": data.cohort, "what": what, **ranking}
        yield _probe(about, x, labels, told, data)


def _those(data: EvaluationData, index: Ints) -> EvaluationData:
    """The patients at these positions, as far as probes look at them."""
    return replace(
        data,
        outcome=data.outcome.take(index),
        models=tuple(model.take(index) for model in data.models),
        covariates=None,
        subgroups=None,
        sites=tuple((data.sites or ())[at] for at in index),
        embeddings={name: x[index] for name, x in data.embeddings.items()},
    )


def _probe(
    about: Mapping[str, Any],
    x: Floats | None,
    labels: Labels,
    told: list[str],
    data: EvaluationData,
) -> SiteProbe:
    if x is None:
        reason = "no probability was predicted, and risks of different folds share no scale"
        none = {"n_patients": 0, "n_sites": 0, "method": _METHOD}
        return SiteProbe(auroc=Bounded(note=reason), **none, **about)
    used = np.isin(labels, told) & np.isfinite(x).all(axis=1)
    present = [site for site in told if (labels[used] == site).sum() >= FEWEST_PATIENTS]
    used &= np.isin(labels, present)
    left_out = data.n_patients - int(used.sum())
    rest = {
        "n_patients": int(used.sum()),
        "n_sites": len(present),
        "method": _METHOD,
        "note": f"{left_out} patients without a declared site, of sites with fewer than "
        f"{FEWEST_PATIENTS}, or without a value, are left out of the telling of sites"
        if left_out
        else "",
        **about,
    }
    try:
        found = probe_sites(x[used], _codes(labels[used]), seed=data.seed)
    except StatisticsError as error:
        return SiteProbe(auroc=Bounded(note=str(error)), **rest)
    auroc = Bounded(value=found.auroc.value, lower=found.auroc.lower, upper=found.auroc.upper)
    return SiteProbe(auroc=auroc, p=found.p, **rest)


def _rankings(data: EvaluationData, codes: Ints) -> dict[str, Any]:
    """The candidate's ranking over all pairs and inside sites, and that of the site alone."""
    candidate = data.model(data.candidate)
    return {
        "metric": headline_metric(data),
        "overall": _ranking(data, comparable(data, candidate)),
        "within": _ranking(data, comparable(data, candidate, codes)),
        "site_alone": _ranking(data, _site_model(data, codes)),
    }


def _ranking(data: EvaluationData, model: ModelPredictions) -> Bounded:
    try:
        found = ranking_of(data, model)
    except (StatisticsError, PredictionsError) as error:
        return Bounded(note=str(error))
    return Bounded(**bounded(data, found, data.outcome))


def _site_model(data: EvaluationData, codes: Ints) -> ModelPredictions:
    """A model that knows the hospital and nothing else, fitted on other patients.

    Its folds are those of its own fitting: inside one, what a site is given rests on none of the
    patients that are compared. Over folds, a patient's own event would lower what the others of his
    site are given, and chance would look worse than it is.
    """
    fold = np.empty(data.n_patients, np.int64)
    splits = list(KFold(_FOLDS, shuffle=True, random_state=data.seed).split(codes))
    for at, (_, test) in enumerate(splits):
        fold[test] = at
    if isinstance(data.outcome, Classes):
        levels = data.outcome.levels
        happened = (data.outcome.label[:, None] == np.arange(len(levels))).astype(np.float64)
        rates = _cross_fitted(codes, happened, np.ones(len(codes)), fold)
        rates /= rates.sum(axis=1, keepdims=True)
        columns: dict[str, tuple[Floats, ...]] = {
            f"p_{level}": (rates[:, at],) for at, level in enumerate(levels)
        }
        return ModelPredictions("site", (rates[:, -1],), (fold,), columns)
    event = of_interest(data.outcome).astype(np.float64)[:, None]
    entry = data.outcome.entry_months
    exposure = data.outcome.time_months - (0.0 if entry is None else entry)
    rate = _cross_fitted(codes, event, np.asarray(exposure), fold)[:, 0]
    return ModelPredictions("site", (rate,), (fold,), {})


def _cross_fitted(codes: Ints, happened: Floats, exposure: Floats, fold: Ints) -> Floats:
    """Event rates of each patient's site in other folds, drawn to the overall rate."""
    found = np.empty_like(happened)
    for held in range(_FOLDS):
        train, test = fold != held, fold == held
        overall = happened[train].sum(axis=0) / exposure[train].sum()
        prior = _PRIOR_PATIENTS * exposure[train].mean()
        member = (codes[train][:, None] == np.arange(int(codes.max()) + 1)).astype(np.float64)
        events, time = member.T @ happened[train], member.T @ exposure[train]
        rates = (events + prior * overall) / (time + prior)[:, None]
        found[test] = rates[codes[test]]
    return found


def _one_scale(data: EvaluationData, model: ModelPredictions) -> Floats | None:
    """Risks that compare over folds, (n_patients, k): from probabilities.

    The folds of a cross-validation share no other scale. Classes: the log-odds of each, of two
    only the second.
    """
    if isinstance(data.outcome, Classes):
        levels = data.outcome.levels[1:] if len(data.outcome.levels) == 2 else data.outcome.levels
        if any(f"p_{level}" not in model.probabilities for level in levels):
            return None
        p = np.stack([np.mean(model.column(f"p_{level}"), axis=0) for level in levels], axis=1)
        return np.asarray(logit(np.clip(p, 1e-9, 1 - 1e-9)), dtype=np.float64)
    for horizon in reversed(data.endpoint.horizons_months):
        if horizon_column(horizon) in model.probabilities:
            p = np.mean(model.risk_by(horizon), axis=0)
            return complementary_log_log(np.clip(p, 1e-9, 1 - 1e-9))[:, None]
    return model.risk[0][:, None] if data.kind == "external" else None


def _codes(labels: Labels) -> Ints:
    return np.unique(labels.astype(str), return_inverse=True)[1].astype(np.int64)
