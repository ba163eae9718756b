"""Which imputed genes a model's risks come from, as values that a report shows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from storm_clinic.validation.finite import Count, Finite

Part = Annotated[float, Field(ge=0, le=1)]


class AttributedGene(Finite):
    """One imputed gene: how much it weighs, whether folds agree, and how well it is imputed."""

    gene: str
    importance: Part = Field(
        description="Mean over folds of its part of all genes' sizes of attribution."
    )
    direction: Literal["higher", "lower", "differs"] = Field(
        description="What more of the gene does to the risk in all folds, or that folds differ."
    )
    in_top: Part = Field(description="Share of folds in which it is among the top.")
    heldout_r: float | None = Field(
        description="Correlation of imputed with measured expression on held-out tissue."
    )
    heldout_r_lower: float | None = Field(description="Its lower bound.")
    heldout_r_upper: float | None = Field(description="Its upper bound.")


class InputShare(Finite):
    """How much of all attribution an input of tiles has."""

    name: str
    share: Part


class GeneAttributions(Finite):
    """Imputed genes behind a model's risks in one cohort, by models that never saw the patients."""

    cohort: str
    model: str
    n_patients: Count = Field(default=0, description="Whose risks were attributed.")
    n_incomplete: Count = Field(
        default=0, description="Left out: shares do not sum to the change of the risk."
    )
    n_folds: Count = 0
    n_genes: Count = Field(default=0, description="That the model sees.")
    n_top: Count = Field(default=0, description="How many count as the top.")
    genes: tuple[AttributedGene, ...] = Field(default=(), description="Most important first.")
    inputs: tuple[InputShare, ...] = ()
    rank_correlation: float | None = Field(
        default=None, description="Spearman's of all genes, mean over pairs of folds."
    )
    method: str = ""
    note: str = Field(default="", description="Why nothing is shown, or a caution.")
