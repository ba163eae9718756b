"""Cohorts of several hospitals with what is planted in them, for tests of strata."""

from __future__ import annotations

import numpy as np
import pandas as pd

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Floats, Ints, Outcome, Survival
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.evidence import Kind

ENDPOINT = Endpoint(name="pfi", horizons_months=(12.0, 36.0), tau_months=60.0)


def made_data(
    n: int = 240,
    *,
    outcome: str = "survival",
    kind: Kind = "external",
    sites: list[str | None] | None = None,
    hidden: Floats | None = None,
    subgroups: pd.DataFrame | None = None,
    embeddings: dict[str, Floats] | None = None,
    whole_months: bool = False,
    seed: int = 1,
) -> EvaluationData:
    """Patients whose risk is the sum of a clinical and a tissue part; ``hidden`` adds to both."""
    rng = np.random.default_rng(seed)
    clinic, tissue = rng.normal(size=(2, n))
    extra = np.zeros(n) if hidden is None else hidden
    risk = clinic + 0.8 * tissue + extra
    happened = _happened(outcome, risk, rng, whole_months)
    folds, repeats = _folds(kind, n, sites)
    scored = {"clinical": clinic, "fusion": risk}
    models = tuple(
        ModelPredictions(name, (r,) * repeats, folds, _probabilities(happened, r, repeats))
        for name, r in scored.items()
    )
    return EvaluationData(
        cohort="b",
        kind=kind,
        outcome=happened,
        models=models,
        endpoint=ENDPOINT,
        candidate="fusion",
        comparator="clinical",
        seed=3,
        bootstraps=100,
        subgroups=subgroups,
        sites=None if sites is None else tuple(sites),
        embeddings=embeddings or {},
    )


def _happened(what: str, risk: Floats, rng: np.random.Generator, whole: bool) -> Outcome:
    n = len(risk)
    if what == "two classes":
        return Classes((rng.random(n) < 1 / (1 + np.exp(-risk))).astype(np.int64), ("no", "yes"))
    if what == "three classes":
        cut = risk + rng.logistic(size=n)
        return Classes(np.digitize(cut, [-1.0, 1.0]).astype(np.int64), ("low", "mid", "high"))
    time, end = rng.exponential(40 / np.exp(risk)) + 0.1, rng.uniform(20, 90, n)
    event, time = time <= end, np.minimum(time, end)
    time = np.ceil(time) if whole else time
    if what == "survival":
        return Survival.from_arrays(time, event)
    cause = np.where(event, 1 + (rng.random(n) < 0.3), 0).astype(np.int64)
    return CompetingRisks(time, cause, ("disease", "other"))


def _probabilities(outcome: Outcome, r: Floats, repeats: int) -> dict[str, tuple[Floats, ...]]:
    if not isinstance(outcome, Classes):
        by = {
            f"risk_at_{h:g}m": np.clip(1 - np.exp(-h / 40 * np.exp(r)), 0, 1 - 1e-9)
            for h in (12, 36)
        }
    elif len(outcome.levels) == 2:
        p = 1 / (1 + np.exp(-r))
        by = {"p_no": 1 - p, "p_yes": p}
    else:
        below, above = 1 / (1 + np.exp(1 + r)), 1 / (1 + np.exp(1 - r))
        by = {"p_low": below, "p_mid": 1 - below - above, "p_high": above}
    return {name: (p,) * repeats for name, p in by.items()}


def _folds(kind: Kind, n: int, sites: list[str | None] | None) -> tuple[tuple[Ints, ...], int]:
    if kind == "external":
        return (np.full(n, -1, dtype=np.int64),), 1
    if sites is None:
        return (np.arange(n) % 3, (np.arange(n) // 2) % 3), 2
    whole = np.unique(np.array([site or "" for site in sites]), return_inverse=True)[1] % 3
    return (whole.astype(np.int64), np.arange(n, dtype=np.int64) % 3), 2
