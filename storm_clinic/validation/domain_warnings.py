"""Which slides STORM saw look unlike what its checkpoint was trained on, as values of a report."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from storm_clinic.validation.finite import Count, Finite

Part = Annotated[float, Field(ge=0, le=1)]


class PatientOutside(Finite):
    """One patient with a slide unlike the checkpoint's training data."""

    patient_key: str
    n_slides: Count = Field(description="That were used of this patient.")
    n_outside: Count = Field(description="Unlike the training data.")
    share_outside: Part | None = Field(
        description="Tiles beyond the checkpoint's threshold, the largest share of a slide."
    )
    distance: float | None = Field(
        description="Median distance of tiles, of the slide furthest away; 1 in training."
    )


class DomainWarnings(Finite):
    """Slides of one cohort that a STORM checkpoint saw, held against its training data."""

    cohort: str
    checkpoint: str
    checkpoint_digest: str | None = Field(description="SHA-256 of its weights.")
    n_slides: Count = Field(description="That were used.")
    n_outside: Count = Field(description="Unlike the training data.")
    n_unknown: Count = Field(
        default=0, description="Of which it is not known: the checkpoint does not say."
    )
    n_patients: Count = Field(description="With such a slide.")
    outside: tuple[PatientOutside, ...] = Field(default=(), description="By key.")
    note: str = Field(default="", description="Why nothing is known, or a caution.")

    @property
    def n_patients_outside(self) -> int:
        """Patients with a slide unlike the training data."""
        return len(self.outside)

    @property
    def n_judged(self) -> int:
        """Slides of which it is known."""
        return self.n_slides - self.n_unknown
