"""The study file: one YAML that names one clinical question. Syntax only.

Nothing here knows which heads, metrics or cohorts exist; the rooms that own them check that. What
is read becomes frozen models; `Study.resolved` is what travels with every run and locked model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from storm_clinic.errors import StudyError
from storm_clinic.files import digest_value
from storm_clinic.licences import IntendedUse
from storm_clinic.strict_yaml import Name, StrictModel, did_you_mean, parse, read_yaml

Scalar = bool | int | float | str
Kind = Literal["tiles", "clinical", "table"]
IMPUTED = "imputed_expression"  # its mean over a slide
VIRTUAL = "virtual_expression"  # the same, of every tile
TILES = ("image", "storm", VIRTUAL)  # inputs that are a bag of tiles a patient
FROM_STORM = frozenset({"storm", IMPUTED, VIRTUAL})  # inputs that STORM made of slides
PATIENCE = 15  # stages without a better held-out likelihood; see Evaluation.patience


def kind_of(input_name: str) -> Kind:
    """What kind of data an input is.

    ``image``, ``storm`` and ``virtual_expression`` are tiles, ``clinical`` are covariates, all else
    is a table of numbers, one row a patient: imputed expression, or measurements that cohorts
    declare.
    """
    if input_name in TILES:
        return "tiles"
    return "clinical" if input_name == "clinical" else "table"


class Endpoint(StrictModel):
    """What is predicted, and when it is looked at."""

    name: str = Field(description="An endpoint that every cohort's cohort.yaml declares.")
    horizons_months: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(), description="Months at which risks are predicted and judged (survival only)."
    )
    tau_months: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Events at or after this month are not used to rank patients."
    )

    @field_validator("horizons_months")
    @classmethod
    def _ascending(cls, horizons: tuple[float, ...]) -> tuple[float, ...]:
        if list(horizons) != sorted(set(horizons)):
            raise ValueError("horizons must ascend and differ")
        return horizons


class FeatureSource(StrictModel):
    """Which feature files the study reads."""

    encoder: str = Field(description="Name of the feature store, e.g. efficientnet-lite0.")
    storm: str | None = Field(
        default=None, description="STORM checkpoint whose files are read as well, if any."
    )


class Range(StrictModel):
    """Numbers between two bounds, both included, among which a search looks."""

    lowest: int | float = Field(alias="from", description="Lowest.")
    highest: int | float = Field(alias="to", description="Highest.")
    log: bool = Field(default=False, description="Whether factors count, not differences.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.lowest >= self.highest:
            raise ValueError("'from' must lie below 'to'")
        if self.log and self.lowest <= 0:
            raise ValueError("with 'log', 'from' must be above 0")
        return self


class Search(StrictModel):
    """How settings are looked for where trying every combination would be too many."""

    trials: Annotated[int, Field(ge=1)] = Field(description="Combinations tried in a fold.")
    sampler: Literal["tpe", "random"] = Field(
        default="tpe",
        description="tpe learns from earlier trials (tree of Parzen estimators), random does not.",
    )


def _kind_of_values(value: Any) -> str:
    return "range" if isinstance(value, Mapping | Range) else "list"


Values = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Scalar, ...], Tag("list")],
    Discriminator(_kind_of_values),
]


class ModelSpec(StrictModel):
    """One model of the comparison."""

    name: Name = Field(description="The model's name in tables.")
    head: str = Field(description="A head of heads/zoo.py, or an entry point.")
    inputs: tuple[Name, ...] = Field(
        min_length=1,
        description="What the model sees: image, storm, virtual_expression, imputed_expression, "
        "clinical, or the name of measurements that the cohorts declare, such as rna.",
    )
    options: dict[str, Scalar] = Field(
        default_factory=dict, description="Settings of the head that differ from its defaults."
    )
    tune: dict[str, Values] = Field(
        default_factory=dict,
        description="Settings tried in the inner folds: name to a list of values or a range.",
    )
    search: Search | None = Field(
        default=None, description="Try some combinations; every one of the lists by default."
    )

    @field_validator("inputs")
    @classmethod
    def _once(cls, inputs: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(inputs)) != len(inputs):
            raise ValueError("an input is named twice")
        return inputs

    @model_validator(mode="after")
    def _disjoint(self) -> ModelSpec:
        both = sorted(set(self.options) & set(self.tune))
        if both:
            raise ValueError(f"{', '.join(both)}: set in options and in tune; keep one")
        empty = sorted(name for name, values in self.tune.items() if values == ())
        if empty:
            raise ValueError(f"{', '.join(empty)}: nothing to try")
        return self

    @model_validator(mode="after")
    def _searchable(self) -> ModelSpec:
        ranges = sorted(name for name, values in self.tune.items() if isinstance(values, Range))
        if ranges and self.search is None:
            raise ValueError(
                f"tune.{ranges[0]} is a range; say how many values are tried, "
                "e.g. search: {trials: 20}"
            )
        if self.search is not None and not self.tune:
            raise ValueError("search: nothing to search; name settings in tune")
        return self


class Evaluation(StrictModel):
    """Cross-validation on the development cohorts."""

    folds: Annotated[int, Field(ge=2)] = Field(default=5, description="Outer folds.")
    repeats: Annotated[int, Field(ge=1)] = Field(
        default=3, description="Repeats of the outer folds."
    )
    inner_folds: Annotated[int, Field(ge=2)] = Field(
        default=3, description="Folds inside each outer training part; settings are chosen there."
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        default=PATIENCE,
        description="Stages without a better held-out likelihood after which inner folds stop.",
    )
    group: Literal["site", "patient"] = Field(
        default="site", description="What is never split between folds."
    )
    seed: int = Field(description="Seed of folds, initial weights and resampling.")
    bootstraps: Annotated[int, Field(ge=200)] = Field(
        default=1000, description="Resamples of patients behind the intervals."
    )


class RiskGroups(StrictModel):
    """Groups for Kaplan-Meier curves, cut at quantiles of development risks."""

    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.33, 0.67), description="Cut points, fixed on development data."
    )

    @field_validator("quantiles")
    @classmethod
    def _ascending(cls, quantiles: tuple[float, ...]) -> tuple[float, ...]:
        if not quantiles or list(quantiles) != sorted(set(quantiles)):
            raise ValueError("quantiles must ascend and differ, and there must be one")
        return quantiles


class Thresholds(StrictModel):
    """Range of risk thresholds over which net benefit is judged."""

    lowest: Annotated[float, Field(gt=0, lt=1)] = Field(alias="from", description="Lowest.")
    highest: Annotated[float, Field(gt=0, lt=1)] = Field(alias="to", description="Highest.")

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.lowest >= self.highest:
            raise ValueError("'from' must lie below 'to'")
        return self


class Claim(StrictModel):
    """One statement that a validation cohort must support before the model may be promoted."""

    metric: str = Field(description="A metric's name, e.g. c_index; see docs/statistics.md.")
    over: Name | None = Field(default=None, description="The comparator, for a gain.")
    lower_bound_at_least: float | None = Field(
        default=None, description="The interval's lower bound must reach this."
    )
    upper_bound_at_most: float | None = Field(
        default=None, description="The interval's upper bound must not pass this."
    )
    interval_within: tuple[float, float] | None = Field(
        default=None, description="The whole interval must lie in here."
    )

    @model_validator(mode="after")
    def _one_bound(self) -> Claim:
        bounds = (self.lower_bound_at_least, self.upper_bound_at_most, self.interval_within)
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError(
                "name exactly one of lower_bound_at_least, upper_bound_at_most, interval_within"
            )
        if self.metric.endswith("_gain") != (self.over is not None):
            raise ValueError("a metric that ends in _gain names its comparator in 'over', no other")
        return self


class Study(StrictModel):
    """One clinical question, and everything that is decided before the data are looked at."""

    format: Literal[1] = Field(description="Version of this file's format.")
    study: Name = Field(description="The study's and the registered model's name.")
    question: str = Field(min_length=10, description="The clinical question, in a sentence.")
    endpoint: Endpoint = Field(description="What is predicted.")
    features: FeatureSource = Field(description="Which feature files are read.")
    development: tuple[str, ...] = Field(min_length=1, description="Cohorts to train on.")
    validation: tuple[str, ...] = Field(default=(), description="Cohorts never trained on.")
    clinical: tuple[str, ...] = Field(default=(), description="Covariates of the clinical input.")
    require: tuple[Name, ...] | None = Field(
        default=None,
        description="Inputs without which a patient does not enter; other missing ones are masked. "
        "Default: the tiles (image, storm, virtual_expression) that a model sees.",
    )
    candidate: Name = Field(description="The model that is registered.")
    models: tuple[ModelSpec, ...] = Field(min_length=1, description="Models compared.")
    evaluation: Evaluation = Field(description="How development data are resampled.")
    risk_groups: RiskGroups = Field(default=RiskGroups(), description="Kaplan-Meier groups.")
    thresholds: Thresholds | None = Field(default=None, description="Range for net benefit.")
    subgroups: tuple[str, ...] = Field(default=(), description="Columns to report metrics by.")
    claims: tuple[Claim, ...] = Field(default=(), description="What validation must show.")
    intended_use: IntendedUse = Field(
        default="research",
        description="What the model is for: research, internal (an institution's own work), "
        "commercial, or clinical_investigation (on patients under a protocol). Licences of "
        "encoders and data are held against it.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"models: the name {twice[0]!r} is used twice")
        if self.candidate not in names:
            hint = did_you_mean(self.candidate, names)
            raise ValueError(f"candidate: {self.candidate!r} is not among the models{hint}")
        for claim in self.claims:
            if claim.over is not None and claim.over not in names:
                hint = did_you_mean(claim.over, names)
                raise ValueError(f"claims: {claim.over!r} is not among the models{hint}")
        both = sorted(set(self.development) & set(self.validation))
        if both:
            raise ValueError(f"{both[0]!r} is both a development and a validation cohort")
        if not self.clinical and "clinical" in self.inputs:
            raise ValueError("a model has the input 'clinical', but no covariates are named there")
        for name in sorted(FROM_STORM.intersection(self.inputs)):
            if self.features.storm is None:
                raise ValueError(f"a model has the input {name!r}, but features.storm is not named")
        for name in self.require or ():
            if name not in self.inputs:
                hint = did_you_mean(name, list(self.inputs))
                raise ValueError(f"require: no model has the input {name!r}{hint}")
        return self

    @classmethod
    def read(cls, path: str | Path) -> Study:
        """Read a study file.

        Raises
        ------
        StudyError
            Naming file, line and field, what is wrong, and the nearest key that exists.
        """
        return cls.from_document(read_yaml(Path(path), StudyError), where=str(path))

    @classmethod
    def from_document(cls, document: Mapping[str, Any], *, where: str = "study") -> Study:
        """Build a study from what a YAML or JSON reader gave."""
        return parse(cls, document, where=where, error=StudyError)

    def resolved(self) -> dict[str, Any]:
        """All of the study with every default filled in, ready for JSON.

        ``intended_use`` came after the first studies were locked and is left out where it is
        ``research``, as it was for them: what was locked before keeps its digest.
        """
        document = self.model_dump(mode="json", by_alias=True)
        if self.intended_use == "research":
            del document["intended_use"]
        return document

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved study: the same question has the same digest."""
        return digest_value(self.resolved())

    def model(self, name: str) -> ModelSpec:
        """The model of that name."""
        return next(model for model in self.models if model.name == name)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Everything that some model sees, in order of appearance."""
        return tuple(dict.fromkeys(name for model in self.models for name in model.inputs))

    @property
    def measurements(self) -> tuple[str, ...]:
        """Inputs that the cohorts must declare as measurements."""
        return tuple(n for n in self.inputs if kind_of(n) == "table" and n != IMPUTED)

    @property
    def required(self) -> tuple[str, ...]:
        """Inputs that every patient of the study has."""
        if self.require is not None:
            return self.require
        return tuple(name for name in self.inputs if kind_of(name) == "tiles")

    @property
    def comparator(self) -> ModelSpec | None:
        """The first model that sees clinical covariates alone, if there is one."""
        return next((model for model in self.models if model.inputs == ("clinical",)), None)
