"""What a bundle says about itself: ``manifest.json`` as frozen, typed models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from storm_clinic.study import StrictModel, Study

Sha256 = str


class ClinicalColumn(StrictModel):
    """One clinical covariate as the models expect it."""

    name: str = Field(description="Column name.")
    kind: Literal["continuous", "ordinal", "nominal"] = Field(description="How it is read.")
    unit: str | None = Field(default=None, description="Unit of a continuous column.")
    levels: tuple[str, ...] | None = Field(
        default=None, description="Legal values of an ordinal or nominal column, in order."
    )


class OutcomeDefinition(StrictModel):
    """What is predicted."""

    name: str = Field(description="The endpoint's name.")
    kind: Literal["survival", "competing_risks", "classes"] = Field(description="Type of outcome.")
    definition: str = Field(default="", description="In words, from the cohort's manifest.")
    horizons_months: tuple[float, ...] = Field(default=(), description="Months of the risks.")
    levels: tuple[str, ...] = Field(default=(), description="Classes, or names of the causes.")


class TrainingCohort(StrictModel):
    """One development cohort: counts and digests, no patients."""

    n_patients: int = Field(description="Patients trained on.")
    n_events: int = Field(description="Events among them.")
    digests: dict[str, Sha256] = Field(description="SHA-256 of its inputs by name, never by id.")
    origin: dict[str, str] = Field(default_factory=dict, description="Source and licence.")


class Manifest(StrictModel):
    """All that a bundle declares, but for what `write_bundle` adds (models, files, digest)."""

    study: dict[str, Any] = Field(description="The resolved study.")
    features: dict[str, Any] | None = Field(
        description="The feature contract, where a model reads features."
    )
    clinical: tuple[ClinicalColumn, ...] = Field(description="The clinical input.")
    outcome: OutcomeDefinition = Field(description="What is predicted.")
    risk_thresholds: dict[str, tuple[float, ...]] = Field(
        description="Model name to the cut points of `risk` between risk groups, ascending."
    )
    training: dict[str, TrainingCohort] = Field(description="Development cohorts by name.")
    seeds: dict[str, int] = Field(description="Every seed by its purpose.")
    key_id: str | None = Field(description="Which institution secret keyed the patients.")
    code: dict[str, Any] = Field(description="`provenance.code_version()`.")
    packages: dict[str, str] = Field(description="Package versions that made the weights.")
    run_id: str | None = Field(description="The MLflow run of the training.")

    def read_study(self) -> Study:
        """The study as an object."""
        return Study.from_document(self.study, where="manifest.json: study")
