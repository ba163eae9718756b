"""A model as a folder: arrays, manifest, card. Nothing in it can run code."""

from storm_clinic.bundle.folder import Bundle, read_bundle, required_models, write_bundle
from storm_clinic.bundle.manifest import (
    ClinicalColumn,
    Manifest,
    MeasuredInput,
    ObservedRange,
    OutcomeDefinition,
    StormInput,
    TrainingCohort,
)
from storm_clinic.bundle.pyfunc import write_mlflow_model

__all__ = [
    "Bundle",
    "ClinicalColumn",
    "Manifest",
    "MeasuredInput",
    "ObservedRange",
    "OutcomeDefinition",
    "StormInput",
    "TrainingCohort",
    "read_bundle",
    "required_models",
    "write_bundle",
    "write_mlflow_model",
]
