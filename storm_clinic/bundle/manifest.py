"""What a bundle says about itself: the declared part of ``manifest.json``."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, field_validator

from storm_clinic.errors import CohortError
from storm_clinic.predictions import horizon_column
from storm_clinic.strict_yaml import StrictModel
from storm_clinic.study import Study

Sha256 = str
FEWEST_IN_A_RANGE = 20  # patients; the ends of a range are single patients


class ObservedRange(StrictModel):
    """Between which values a covariate lay in development, rounded outward.

    The step of rounding is a power of ten from a hundredth to a tenth of the whole range, so that
    no patient's value stands here unless values are as coarse as that themselves.
    """

    n_patients: int = Field(description="Patients with a value.")
    lowest: float = Field(description="Smallest value, rounded down.")
    highest: float = Field(description="Largest value, rounded up.")
    percentile_1: float = Field(description="Rounded down.")
    percentile_99: float = Field(description="Rounded up.")

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> ObservedRange | None:
        """Of a covariate's values; None where fewer than 20 patients have one.

        Parameters
        ----------
        values : float64 array, shape (n_patients,)
            NaN where a patient has none.
        """
        known = values[np.isfinite(values)]
        if len(known) < FEWEST_IN_A_RANGE:
            return None
        lowest, p1, p99, highest = np.quantile(known, [0, 0.01, 0.99, 1]).tolist()
        # Written as an integer exponent: 10.0**-1 times 3 is not 0.3.
        places = 0 if highest == lowest else 1 - math.floor(math.log10(highest - lowest))
        return cls(
            n_patients=len(known),
            lowest=_rounded(lowest, places, math.floor),
            highest=_rounded(highest, places, math.ceil),
            percentile_1=_rounded(p1, places, math.floor),
            percentile_99=_rounded(p99, places, math.ceil),
        )

    def is_outside(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether values lie below ``lowest`` or above ``highest``; False where NaN.

        Parameters
        ----------
        values : float64 array, shape (n_patients,)
            In the column's unit.
        """
        return np.asarray((values < self.lowest) | (values > self.highest), dtype=np.bool_)


def _rounded(value: float, places: int, to: Callable[[Decimal], int]) -> float:
    """A value rounded by ``to`` to so many decimal places; negative ones are tens, hundreds."""
    return float(Decimal(to(Decimal(repr(value)).scaleb(places))).scaleb(-places))


class ClinicalColumn(StrictModel):
    """One clinical covariate as the models expect it."""

    name: str = Field(description="Column name.")
    kind: Literal["continuous", "ordinal", "nominal"] = Field(description="How it is read.")
    unit: str | None = Field(default=None, description="Unit of a continuous column.")
    levels: tuple[str, ...] = Field(
        default=(), description="Legal values of an ordinal (low to high) or nominal column."
    )
    observed: ObservedRange | None = Field(
        default=None,
        description="Of a continuous column in development; None below 20 patients with a value.",
    )

    def typed(self, cells: pd.Series) -> pd.Series:
        """The cells as float64 with NaN, or as a categorical of the declared levels.

        Raises
        ------
        CohortError
            Naming the column, the first row (counted from 0) and the value that is not legal.
        """
        if self.kind == "continuous":
            values = pd.to_numeric(cells, errors="coerce").astype(np.float64)
            self._refuse(cells, cells.notna() & ~np.isfinite(values), "is no finite number")
            return values
        text = cells.astype(object).where(cells.notna(), None)
        known = ", ".join(self.levels)
        self._refuse(text, text.notna() & ~text.isin(self.levels), f"is none of {known}")
        kind = pd.CategoricalDtype(list(self.levels), ordered=self.kind == "ordinal")
        return text.astype(kind)

    def _refuse(self, cells: pd.Series, bad: pd.Series, why: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad.to_numpy())[0])
            raise CohortError(
                f"row {row}: {cells.iloc[row]!r} {why}", where=f"column {self.name!r}"
            )


class MeasuredInput(StrictModel):
    """A table of numbers that models see: measurements, or imputed expression."""

    name: str = Field(description="The input's name.")
    unit: str = Field(description="Unit of all columns.")
    columns: tuple[str, ...] = Field(description="Columns in training; others are not used.")

    def typed(self, table: pd.DataFrame) -> pd.DataFrame:
        """The columns ``<name>.<column>`` of a table as float64; NaN where one is absent.

        Raises
        ------
        CohortError
            Naming the column, the first row (counted from 0) and the value that is no number.
        """
        absent = pd.Series(np.nan, index=table.index)
        made = {}
        for column in self.columns:
            cells = table.get(f"{self.name}.{column}", absent)
            spec = ClinicalColumn(name=f"{self.name}.{column}", kind="continuous")
            made[column] = spec.typed(cells)
        return pd.DataFrame(made, index=table.index)


class StormInput(StrictModel):
    """How the STORM files were made that models learned from: what it takes to make more."""

    files: dict[str, Any] | None = Field(
        description="The contract of the files' folder, where it has one and all cohorts the same."
    )
    tiles: dict[str, Any] | None = Field(
        description="The feature contract of the tiles beneath, where their store is still there."
    )
    genes: tuple[str, ...] = Field(
        default=(), description="Genes that the files impute, in their order."
    )
    evident: tuple[str, ...] = Field(
        default=(), description="Those of them with evidence, in that order: what models see."
    )


class OutcomeDefinition(StrictModel):
    """What is predicted."""

    name: str = Field(description="The endpoint's name.")
    kind: Literal["survival", "competing_risks", "classes"] = Field(description="Type of outcome.")
    definition: str = Field(default="", description="In words, where the cohort gives them.")
    horizons_months: tuple[float, ...] = Field(default=(), description="Months of the risks.")
    levels: tuple[str, ...] = Field(default=(), description="Classes, or names of the causes.")

    @property
    def probability_columns(self) -> list[str]:
        """Columns of a prediction beside the risk."""
        if self.kind == "classes":
            return [f"p_{level}" for level in self.levels]
        return [horizon_column(months) for months in self.horizons_months]


class TrainingCohort(StrictModel):
    """One development cohort: counts and digests, no patients."""

    n_patients: int = Field(description="Patients trained on.")
    n_events: int = Field(description="Events among them (of classes: patients of the last).")
    digests: dict[str, Sha256] = Field(description="SHA-256 of its inputs by name, never by id.")
    origin: dict[str, str | bool | None] = Field(
        default_factory=dict, description="Source, licence, citation, whether it is simulated."
    )


class Manifest(StrictModel):
    """All that a bundle declares beside its models and the digests of its files."""

    study: dict[str, Any] = Field(description="The resolved study.")
    features: dict[str, Any] | None = Field(
        description="The feature contract, where a model reads features."
    )
    storm: dict[str, Any] | None = Field(
        default=None, description="The same of STORM files, where a model reads any."
    )
    storm_input: StormInput | None = Field(
        default=None, description="How STORM files were made, where a model reads any."
    )
    clinical: tuple[ClinicalColumn, ...] = Field(description="The clinical input.")
    measurements: tuple[MeasuredInput, ...] = Field(
        default=(), description="Tables of numbers that models see; any value may be missing."
    )
    outcome: OutcomeDefinition = Field(description="What is predicted.")
    risk_thresholds: dict[str, tuple[float, ...]] = Field(
        description="Model name to the cut points of its risk between risk groups, ascending."
    )
    training: dict[str, TrainingCohort] = Field(description="Development cohorts by name.")
    development_digest: Sha256 | None = Field(
        default=None, description="Of the training's development.json, which shows overlap."
    )
    without_reference: dict[str, str] = Field(
        default_factory=dict,
        description="What models see of slides without a record of how development looks there, "
        "and why.",
    )
    seeds: dict[str, int] = Field(description="Every seed by its purpose.")
    key_id: str | None = Field(description="Which institution secret keyed the patients.")
    code: dict[str, Any] = Field(description="The code version that trained.")
    packages: dict[str, str] = Field(description="Package versions that made the weights.")
    run_id: str | None = Field(description="The MLflow run of the training.")

    @field_validator("risk_thresholds")
    @classmethod
    def _ascending(cls, thresholds: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for model, cuts in thresholds.items():
            if list(cuts) != sorted(cuts):
                raise ValueError(f"cut points of {model} do not ascend")
        return thresholds

    def to_json(self) -> dict[str, Any]:
        """As ``manifest.json`` holds it.

        ``storm_input`` came later than the first bundles and is left out where there is none, so
        that bundles of models without STORM are the bytes that they always were.
        """
        document = self.model_dump(mode="json")
        if self.storm_input is None:
            del document["storm_input"]
        return document

    def read_study(self) -> Study:
        """The study as an object; its own checks run again."""
        return Study.from_document(self.study, where="manifest.json: study")

    def licences(self) -> list[tuple[str, str | None]]:
        """What the models were made of and under which licence; None where none is stated."""
        made_of = [
            (f"{kind} {contract.get('encoder')}", contract.get("licence"))
            for kind, contract in (("encoder", self.features), ("STORM checkpoint", self.storm))
            if contract is not None
        ]
        data: list[tuple[str, str | None]] = []
        for name, cohort in self.training.items():
            stated = cohort.origin.get("licence")
            data.append((f"data of {name}", stated if isinstance(stated, str) else None))
        return made_of + data

    def clinical_table(self, table: pd.DataFrame) -> pd.DataFrame | None:
        """The clinical columns typed as the models expect them; None where they use none.

        Raises
        ------
        CohortError
            If a column is missing, or a value is no number or no declared level.
        """
        if not self.clinical:
            return None
        missing = [column.name for column in self.clinical if column.name not in table]
        if missing:
            raise CohortError(
                f"no column {', '.join(missing)}",
                where="clinical table",
                fix="An unknown value may be left empty; the column itself must be there.",
            )
        typed = {column.name: column.typed(table[column.name]) for column in self.clinical}
        return pd.DataFrame(typed, index=table.index)
