"""The study file: one YAML that names one clinical question. Syntax only.

Nothing here knows which heads, metrics or cohorts exist; the rooms that own them check that. What
is read becomes frozen models; `Study.resolved` is what travels with every run and locked model.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from storm_clinic.errors import InputError, StudyError
from storm_clinic.files import digest_value

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Scalar = bool | int | float | str
Kind = Literal["tiles", "clinical", "table"]
TILES = ("image", "storm")  # inputs that are a bag of tiles a patient
IMPUTED = "imputed_expression"
PATIENCE = 15  # stages without a better held-out likelihood; see Evaluation.patience


def kind_of(input_name: str) -> Kind:
    """What kind of data an input is.

    ``image`` and ``storm`` are tiles, ``clinical`` are covariates, everything else is a table of
    numbers, one row a patient: imputed expression, or measurements that cohorts declare.
    """
    if input_name in TILES:
        return "tiles"
    return "clinical" if input_name == "clinical" else "table"


class StrictModel(BaseModel):
    """Frozen, and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


_VALUE_TAGS = ("range", "list")
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
        description="What the model sees: image, storm, imputed_expression, clinical, or the name "
        "of measurements that the cohorts declare, such as rna.",
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
        "Default: the tiles (image, storm) that a model sees.",
    )
    candidate: Name = Field(description="The model that is registered.")
    models: tuple[ModelSpec, ...] = Field(min_length=1, description="Models compared.")
    evaluation: Evaluation = Field(description="How development data are resampled.")
    risk_groups: RiskGroups = Field(default=RiskGroups(), description="Kaplan-Meier groups.")
    thresholds: Thresholds | None = Field(default=None, description="Range for net benefit.")
    subgroups: tuple[str, ...] = Field(default=(), description="Columns to report metrics by.")
    claims: tuple[Claim, ...] = Field(default=(), description="What validation must show.")

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
        for name in set(self.inputs) & {"storm", IMPUTED}:
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
        """All of the study with every default filled in, ready for JSON."""
        return self.model_dump(mode="json", by_alias=True)

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


def read_yaml(path: Path, error: type[InputError]) -> CommentedMap:
    """Read one YAML 1.2 mapping; duplicate keys, aliases and all that is no mapping are refused."""
    # "rt" keeps line numbers for messages and builds no Python objects from tags.
    yaml = YAML(typ="rt", pure=True)
    try:
        text = path.read_text(encoding="utf-8")
        # A few aliases of aliases unfold to more than any memory holds.
        alias = next((event for event in yaml.parse(text) if isinstance(event, AliasEvent)), None)
        document = None if alias else yaml.load(text)
    except FileNotFoundError:
        raise error("there is no such file", where=path) from None
    except UnicodeDecodeError as problem:
        raise error(f"not UTF-8 text: {problem}", where=path, fix="Save it as UTF-8.") from problem
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", where=path) from problem
    except YAMLError as problem:
        raise error(_yaml_problem(problem), where=path) from problem
    except RecursionError as problem:
        raise error("nested too deeply", where=path) from problem
    if alias:
        raise error(
            f"line {alias.start_mark.line + 1}: aliases (*) are not read",
            where=path,
            fix="Write the value out.",
        )
    if not isinstance(document, CommentedMap):
        raise error("must hold keys and values at its top", where=path)
    _refuse_equal_keys(document, path, error)
    return document


def _refuse_equal_keys(node: Any, path: Path, error: type[InputError]) -> None:
    """1 and "1" are two keys for YAML and one for us: keys are text from here on."""
    items = node.values() if isinstance(node, CommentedMap) else node
    if isinstance(node, CommentedMap) and len({str(key) for key in node}) < len(node):
        raise error(
            "two keys differ only in their quotes", where=f"{path}, line {node.lc.line + 1}"
        )
    if isinstance(node, CommentedMap | CommentedSeq):
        for item in items:
            _refuse_equal_keys(item, path, error)


M = TypeVar("M", bound=StrictModel)


def parse(model: type[M], document: Mapping[str, Any], *, where: str, error: type[InputError]) -> M:
    """Validate a mapping, turning pydantic's findings into one readable error."""
    try:
        return model.model_validate(plain(document))
    except ValidationError as problem:
        lines = [_finding(item, document, model) for item in problem.errors()]
        text = lines[0] if len(lines) == 1 else "\n  - ".join(["several problems", *lines])
        raise error(text, where=where) from problem


def plain(value: Any) -> Any:
    """The same document in built-in types, without ruamel's line bookkeeping."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _finding(item: Any, document: Mapping[str, Any], model: type[BaseModel]) -> str:
    location = _without_tags(document, item["loc"])
    if item["type"].startswith("union_tag"):
        location += (item["ctx"]["discriminator"].strip("'"),)
    field = ".".join(str(part) for part in location) or "the file"
    line = _line(document, location)
    at = f"line {line}, {field}" if line else field
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, item["loc"][:-1])
        return f"{at}: unknown key{did_you_mean(str(location[-1]), known)}"
    if item["type"] in ("missing", "union_tag_not_found"):
        return f"{at}: this key is missing"
    if item["type"] == "union_tag_invalid":
        known = [tag.strip("'") for tag in item["ctx"]["expected_tags"].split(", ")]
        return f"{at}: unknown {location[-1]} {item['ctx']['tag']!r}" + did_you_mean(
            item["ctx"]["tag"], known
        )
    message = item["msg"].removeprefix("Value error, ")
    return f"{at}: {message}" if location else message


def _without_tags(document: Any, location: tuple[Any, ...]) -> tuple[Any, ...]:
    """The location less what pydantic inserts where one of several types was chosen."""
    kept: list[Any] = []
    node = document
    for part in location:
        if isinstance(node, Mapping) and part not in node and node.get("kind") == part:
            continue
        if part in _VALUE_TAGS and len(kept) == 4 and kept[2] == "tune":
            continue
        kept.append(part)
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None
    return tuple(kept)


def _line(document: Any, location: tuple[Any, ...]) -> int | None:
    line = None
    node = document
    for part in location:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1
        else:
            break
        node = node[part]
    return line


def _known_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Keys allowed at a location, found by walking the models' annotations."""
    schema = model.model_json_schema(by_alias=True)
    node: Any = schema
    for part in location:
        node = _deref(schema, node)
        if part == "range" and "from" in node.get("properties", {}):
            continue  # no key, but the type that was chosen
        if "discriminator" in node:
            node = {"$ref": node["discriminator"]["mapping"].get(part, "")}
        elif isinstance(part, int):
            node = node.get("items", {})
        else:
            values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
            node = node.get("properties", {}).get(part) or values[0]
    return list(_deref(schema, node).get("properties", {}))


def _deref(schema: dict[str, Any], node: Any) -> dict[str, Any]:
    if not isinstance(node, dict):
        return {}
    tagged = () if "discriminator" in node else node.get("oneOf", ())
    for option in (*node.get("anyOf", ()), *tagged):
        if "$ref" in option:
            node = option
    reference = node.get("$ref")
    if reference:
        node = schema["$defs"].get(reference.rsplit("/", 1)[-1], {})
    return dict(node)


def did_you_mean(word: str, known: list[str]) -> str:
    """The end of a message about an unknown word: its nearest known one, or all that are known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(sorted(known))}" if known else ""


def _yaml_problem(problem: YAMLError) -> str:
    mark = getattr(problem, "problem_mark", None)
    at = f"line {mark.line + 1}: " if mark else ""
    reason = getattr(problem, "problem", None) or str(problem)
    return f"{at}{' '.join(str(reason).split())}"
