"""Clinical prediction on frozen embeddings.

slides → features → cohort → model → validation → registry

Everything public is named here and loaded on first use, so that ``import storm_clinic`` pulls in
neither torch nor MLflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
    from storm_clinic.cohort.table import Cohort
    from storm_clinic.errors import StormClinicError
    from storm_clinic.features.store import FeatureStore
    from storm_clinic.files import Workspace
    from storm_clinic.predictions import Predictions
    from storm_clinic.steps.cohort_check import check_cohort
    from storm_clinic.steps.demonstration import demo
    from storm_clinic.steps.diagnosis import diagnose_encoders, doctor
    from storm_clinic.steps.explanation import explain
    from storm_clinic.steps.external_validation import validate
    from storm_clinic.steps.extraction import extract
    from storm_clinic.steps.feature_store import (
        check_features,
        export_features,
        import_features,
        list_features,
    )
    from storm_clinic.steps.locking import lock
    from storm_clinic.steps.model_export import export_model
    from storm_clinic.steps.new_cohort import init_cohort
    from storm_clinic.steps.predictions_report import report_predictions
    from storm_clinic.steps.promotion import add_cohort, promote, retire
    from storm_clinic.steps.registry_audit import audit
    from storm_clinic.steps.score_table import score
    from storm_clinic.steps.scorer import Scorer
    from storm_clinic.steps.slide_check import check_slides
    from storm_clinic.steps.slide_embedding import embed_slides
    from storm_clinic.steps.storm_plan import StormChoice
    from storm_clinic.steps.study_report import report
    from storm_clinic.steps.study_run import run_study
    from storm_clinic.steps.training import train
    from storm_clinic.study import Study

__version__ = "0.1.0"

_HOME = {
    "Classes": "cohort.outcome",
    "Cohort": "cohort.table",
    "CompetingRisks": "cohort.outcome",
    "FeatureStore": "features.store",
    "Predictions": "predictions",
    "Scorer": "steps.scorer",
    "StormChoice": "steps.storm_plan",
    "StormClinicError": "errors",
    "Study": "study",
    "Survival": "cohort.outcome",
    "Workspace": "files",
    "add_cohort": "steps.promotion",
    "audit": "steps.registry_audit",
    "check_cohort": "steps.cohort_check",
    "check_features": "steps.feature_store",
    "check_slides": "steps.slide_check",
    "demo": "steps.demonstration",
    "diagnose_encoders": "steps.diagnosis",
    "doctor": "steps.diagnosis",
    "embed_slides": "steps.slide_embedding",
    "explain": "steps.explanation",
    "export_features": "steps.feature_store",
    "export_model": "steps.model_export",
    "extract": "steps.extraction",
    "import_features": "steps.feature_store",
    "init_cohort": "steps.new_cohort",
    "list_features": "steps.feature_store",
    "lock": "steps.locking",
    "promote": "steps.promotion",
    "report": "steps.study_report",
    "report_predictions": "steps.predictions_report",
    "retire": "steps.promotion",
    "run_study": "steps.study_run",
    "score": "steps.score_table",
    "train": "steps.training",
    "validate": "steps.external_validation",
}

__all__ = [
    "Classes",
    "Cohort",
    "CompetingRisks",
    "FeatureStore",
    "Predictions",
    "Scorer",
    "StormChoice",
    "StormClinicError",
    "Study",
    "Survival",
    "Workspace",
    "add_cohort",
    "audit",
    "check_cohort",
    "check_features",
    "check_slides",
    "demo",
    "diagnose_encoders",
    "doctor",
    "embed_slides",
    "explain",
    "export_features",
    "export_model",
    "extract",
    "import_features",
    "init_cohort",
    "list_features",
    "lock",
    "promote",
    "report",
    "report_predictions",
    "retire",
    "run_study",
    "score",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'storm_clinic' has no attribute {name!r}")
    return getattr(import_module(f"storm_clinic.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
