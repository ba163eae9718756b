"""What a training leaves in MLflow: files by name, and numbers by fold. Keys only, no ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Outcome, Survival
from storm_clinic.cohort.split import Splits
from storm_clinic.errors import StatisticsError
from storm_clinic.files import csv_text, write_json, write_text
from storm_clinic.heads.out_of_fold import FoldRecord, OutOfFold
from storm_clinic.metrics.classes import macro_auroc
from storm_clinic.metrics.competing import wolbers_concordance
from storm_clinic.metrics.discrimination import auroc, concordance
from storm_clinic.predictions import Predictions
from storm_clinic.steps.cohort_summary import summarise_cohort, write_summaries
from storm_clinic.steps.development_record import DevelopmentRecord
from storm_clinic.steps.study_patients import Development
from storm_clinic.study import Endpoint, Study
from storm_clinic.tracking import Metric, fold_step
from storm_clinic.validation.evidence import Estimate, Evidence

PREDICTIONS = "predictions.parquet"
EVIDENCE = "evidence.json"
SPLITS = "splits.json"
ATTRITION = "attrition.csv"
FOLDS = "folds.json"
TIMINGS = "timings.json"


def write_study_files(
    folder: Path,
    study: Study,
    predictions: Predictions,
    evidence: Evidence,
    splits: Splits,
    development: Development,
    record: DevelopmentRecord,
) -> None:
    """Predictions, evidence, folds, development record and attrition of a whole training."""
    folder.mkdir(parents=True)
    predictions.write(folder / PREDICTIONS)
    evidence.write(folder / EVIDENCE)
    splits.write(folder / SPLITS)
    record.write(folder)
    write_summaries(
        folder,
        [
            summarise_cohort((*study.clinical, *study.subgroups), part, "development")
            for part in development.parts
        ],
    )
    tables = [
        part.patients.attrition.table().assign(cohort=part.patients.cohort.name)
        for part in development.parts
    ]
    write_text(folder / ATTRITION, csv_text(pd.concat(tables)))


def write_model_files(folder: Path, predictions: Predictions, result: OutOfFold) -> None:
    """Out-of-fold predictions of one model, and what was chosen in each fold."""
    folder.mkdir(parents=True)
    predictions.write(folder / PREDICTIONS)
    write_json(folder / FOLDS, [record.as_dict() for record in result.records])


def write_timings(folder: Path, seconds: Mapping[str, Mapping[str, float]]) -> list[Metric]:
    """Wall seconds of each model by part; returns their sums as metrics."""
    content = {"format": "storm_clinic/timings", "format_version": 1, "models": seconds}
    write_json(folder / TIMINGS, content)
    return [Metric(f"seconds/{name}", sum(parts.values())) for name, parts in seconds.items()]


def fold_metrics(result: OutOfFold, outcome: Outcome, endpoint: Endpoint) -> list[Metric]:
    """Numbers of each fold and repeat, under `fold_step`."""
    folds = int(result.fold.max()) + 1
    return [
        Metric(name, value, fold_step(record.repeat, record.fold, folds=folds))
        for record in result.records
        for name, value in _of_fold(record, result, outcome, endpoint).items()
    ]


def _of_fold(
    record: FoldRecord, result: OutOfFold, outcome: Outcome, endpoint: Endpoint
) -> dict[str, float]:
    tested = np.flatnonzero(result.fold[record.repeat] == record.fold)
    values = {
        "fold_patients": float(record.n_test),
        "fold_events": float(record.n_test_events),
        "fold_stages": float(record.fit.n_stages),
    }
    if record.fit.inner:
        values["fold_inner_score"] = max(inner.score for inner in record.fit.inner)
    seen, risk = outcome.take(tested), result.risk[record.repeat, tested]
    try:
        if isinstance(seen, Survival):
            tau = endpoint.tau_months
            values["fold_c_index"] = concordance(seen, risk, tau_months=tau).value
        elif isinstance(seen, CompetingRisks):
            tau = endpoint.tau_months
            values["fold_c_index"] = wolbers_concordance(seen, risk, tau_months=tau).value
        elif isinstance(seen, Classes) and len(seen.levels) == 2:
            values["fold_auroc"] = auroc(seen, risk).value
        elif isinstance(seen, Classes):
            columns = [result.probabilities[f"p_{level}"] for level in seen.levels]
            p = np.stack([column[record.repeat, tested] for column in columns], axis=1)
            values["fold_auroc_macro"] = macro_auroc(seen, p).value
    except StatisticsError:
        pass  # too few in this fold to rank; its counts above say so
    return values


def headline_metrics(evidence: Evidence) -> list[Metric]:
    """Estimates of the evidence under ``<metric>[_<months>m][_over_<model>]/<model>``.

    Those about one of several classes are left to the evidence: a class may be called what MLflow
    allows in no metric's name.
    """
    return [
        Metric(f"{_name(estimate)}/{estimate.model}{suffix}", value)
        for estimate in evidence.estimates
        for suffix, value in (
            ("", estimate.value),
            ("/lower", estimate.lower),
            ("/upper", estimate.upper),
        )
        if value is not None and estimate.level is None
    ]


def _name(estimate: Estimate) -> str:
    at = "" if estimate.horizon_months is None else f"_{estimate.horizon_months:g}m"
    over = "" if estimate.over is None else f"_over_{estimate.over}"
    return f"{estimate.cohort}/{estimate.metric}{at}{over}"
