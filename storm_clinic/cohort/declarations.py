"""What one column or one endpoint of a cohort.yaml may declare."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from storm_clinic.cohort.values import canonical
from storm_clinic.strict_yaml import StrictModel, did_you_mean


def _as_text(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        raise ValueError(f"{str(value).lower()} is not text: put it in quotes as the table has it")
    return canonical(str(value)) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_as_text)]
TimeUnit = Literal["days", "months", "years"]


class _FromTable(StrictModel):
    missing: tuple[Text, ...] = Field(
        default=(), description="Markers of a missing value here, beside the cohort's."
    )


class ContinuousColumn(_FromTable):
    """A number with a unit."""

    kind: Literal["continuous"]
    source: str = Field(alias="from", description="Column of the clinical table.")
    unit: str = Field(min_length=1, description="Unit, e.g. years; 1 for a pure number.")


class LevelColumn(_FromTable):
    """One of a few declared values; ordinal: levels from low to high."""

    kind: Literal["ordinal", "nominal"]
    source: str = Field(alias="from", description="Column of the clinical table.")
    levels: tuple[Text, ...] = Field(min_length=2, description="The first is the reference.")
    codes: dict[Text, Text] = Field(
        default_factory=dict, description="Cell to level, where the table spells them otherwise."
    )

    @model_validator(mode="after")
    def _consistent(self) -> LevelColumn:
        _check_distinct(self.levels, "levels")
        _check_codes(self.codes, self.levels)
        return self

    @property
    def meaning(self) -> dict[str, int]:
        """Position in ``levels`` of each declared cell."""
        return _positions(self.levels, self.codes)


class BinnedColumn(StrictModel):
    """A continuous column cut into bands, for subgroups: below the first cut, from it up, ..."""

    kind: Literal["binned"]
    source: str = Field(alias="from", description="A continuous column declared here.")
    cuts: tuple[float, ...] = Field(min_length=1, description="Ascending; a band holds its lower.")

    @field_validator("cuts")
    @classmethod
    def _ascending(cls, cuts: tuple[float, ...]) -> tuple[float, ...]:
        if list(cuts) != sorted(set(cuts)):
            raise ValueError("cuts must ascend and differ")
        return cuts

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the bands, ascending."""
        edges = [f"{cut:g}" for cut in self.cuts]
        inner = [f"{low} to <{high}" for low, high in pairwise(edges)]
        return (f"<{edges[0]}", *inner, f">={edges[-1]}")


class SurvivalEndpoint(_FromTable):
    """Time to one event, right-censored."""

    kind: Literal["survival"]
    time: str = Field(description="Column with the time to the event or the end of follow-up.")
    unit: TimeUnit = Field(description="Unit of the times.")
    event: str = Field(description="Column that says how follow-up ended.")
    codes: dict[Text, Literal["censored", "event"]] = Field(description="Cell to meaning.")
    entry: str | None = Field(
        default=None, description="Column with the time of entry (left truncation), same unit."
    )

    @model_validator(mode="after")
    def _consistent(self) -> SurvivalEndpoint:
        _check_distinct(tuple(self.codes), "codes")
        if "event" not in self.codes.values():
            raise ValueError("codes: none means 'event'")
        return self

    @property
    def meaning(self) -> dict[str, int]:
        """0 (censored) or 1 (event) for each declared cell."""
        return {cell: int(word == "event") for cell, word in self.codes.items()}


class CompetingEndpoint(_FromTable):
    """Time to the first of several events."""

    kind: Literal["competing"]
    time: str = Field(description="Column with the time to the first event or last follow-up.")
    unit: TimeUnit = Field(description="Unit of the times.")
    event: str = Field(description="Column that says how follow-up ended.")
    causes: tuple[str, ...] = Field(min_length=2, description="Causes; the first is of interest.")
    codes: dict[Text, str] = Field(description="Cell to 'censored' or a cause.")
    entry: str | None = Field(
        default=None, description="Column with the time of entry (left truncation), same unit."
    )

    @model_validator(mode="after")
    def _consistent(self) -> CompetingEndpoint:
        _check_distinct(self.causes, "causes")
        if "censored" in self.causes:
            raise ValueError("causes: 'censored' is not a cause")
        _check_codes(self.codes, ("censored", *self.causes))
        unused = [cause for cause in self.causes if cause not in self.codes.values()]
        if unused:
            raise ValueError(f"codes: none means {unused[0]!r}")
        return self

    @property
    def meaning(self) -> dict[str, int]:
        """0 (censored) or the cause's number from 1 for each declared cell."""
        names = ("censored", *self.causes)
        return {cell: names.index(word) for cell, word in self.codes.items()}


class ClassesEndpoint(_FromTable):
    """One class a patient."""

    kind: Literal["classes"]
    source: str = Field(alias="from", description="Column of the clinical table.")
    levels: tuple[Text, ...] = Field(min_length=2, description="Classes; of two the second counts.")
    codes: dict[Text, Text] = Field(
        default_factory=dict, description="Cell to class, where the table spells them otherwise."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClassesEndpoint:
        _check_distinct(self.levels, "levels")
        _check_codes(self.codes, self.levels)
        return self

    @property
    def meaning(self) -> dict[str, int]:
        """Position in ``levels`` of each declared cell."""
        return _positions(self.levels, self.codes)


ColumnDeclaration = Annotated[
    ContinuousColumn | LevelColumn | BinnedColumn, Field(discriminator="kind")
]
EndpointDeclaration = Annotated[
    SurvivalEndpoint | CompetingEndpoint | ClassesEndpoint, Field(discriminator="kind")
]


def _check_distinct(values: tuple[str, ...], what: str) -> None:
    seen = [canonical(value) for value in values]
    twice = [value for value, spelt in zip(values, seen, strict=True) if seen.count(spelt) > 1]
    if twice:
        raise ValueError(f"{what}: {' and '.join(map(repr, twice[:2]))} are the same value")


def _check_codes(codes: Mapping[str, str], names: tuple[str, ...]) -> None:
    _check_distinct(tuple(codes), "codes")
    for cell, name in codes.items():
        if name not in names:
            raise ValueError(f"codes: {cell!r} means {name!r}{did_you_mean(name, list(names))}")


def _positions(levels: tuple[str, ...], codes: Mapping[str, str]) -> dict[str, int]:
    # A cell that spells a level itself needs no code; a code for it has the last word.
    spelt = {canonical(level): level for level in levels}
    spelt |= {canonical(cell): level for cell, level in codes.items()}
    return {cell: levels.index(level) for cell, level in spelt.items()}
