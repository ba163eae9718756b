"""Runs and metrics in MLflow's database against the evidence that they were taken from."""

from __future__ import annotations

from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.steps.training_files import headline_metrics
from storm_clinic.tracking import RunRecord
from storm_clinic.tracking.client import MlflowDatabase, mlflow_errors
from storm_clinic.validation.evidence import Evidence


def check_metrics(
    database: MlflowDatabase, run: RunRecord, evidence: Evidence
) -> tuple[list[Finding], int]:
    """Every value that a run logged of its evidence, bit by bit.

    Compared are the latest values, which MLflow's tables show, and the whole history, which its
    charts show. Values of folds and learning curves have no evidence to be compared with.

    Returns
    -------
    findings : list of Finding
    n_metrics : int
        How many values were compared.

    Raises
    ------
    StorageError
        If MLflow refuses.
    """
    expected = {metric.name: float(metric.value) for metric in headline_metrics(evidence)}
    found = []
    with mlflow_errors(database.shown):
        for name, value in expected.items():
            history = database.client.get_metric_history(run.run_id, name)
            there = [run.metrics[name]] if name in run.metrics else []
            there += [point.value for point in history]
            others = sorted({other for other in there if other != value})
            if not there or not history:
                found.append(_finding(Kind.METRIC_MISSING, run, name, str(value), "absent"))
            elif others:
                shown = ", ".join(map(str, others))
                found.append(_finding(Kind.METRIC_CHANGED, run, name, str(value), shown))
    about = tuple(f"{cohort}/" for cohort in evidence.cohorts)
    for name in sorted(set(run.metrics) - set(expected)):
        if name.startswith(about):
            shown = str(run.metrics[name])
            found.append(_finding(Kind.METRIC_ADDED, run, name, "absent", shown))
    return found, len(expected)


def is_deleted(database: MlflowDatabase, run_id: str) -> bool:
    """Whether somebody put a run into MLflow's bin; its files and numbers may still be there.

    Raises
    ------
    StorageError
        If MLflow has no such run.
    """
    with mlflow_errors(database.shown):
        return bool(database.client.get_run(run_id).info.lifecycle_stage != "active")


def _finding(kind: Kind, run: RunRecord, name: str, expected: str, found: str) -> Finding:
    text = (
        f"metric {name} of run {run.run_id} ({run.name}) is {found} in MLflow's database; by the "
        f"stored evidence it is {expected}"
    )
    return Finding(kind, f"metric {name} of run {run.run_id}", text, expected, found)
