"""What a head is: the data it is given, the settings it declares, the model it returns.

A head walks a *path* of candidate models from simple to complex: epochs of a network, penalties of
an elastic net, or a single stage. Inner folds choose how far to walk; nothing else about a head
needs to be known to tune, fit, store and restore it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Outcome
from storm_clinic.errors import InputError, StudyError
from storm_clinic.heads.bags import Bags
from storm_clinic.study import TILES, VIRTUAL, Kind, Scalar, kind_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PatientData:
    """What models may see of some patients, in one order.

    Attributes
    ----------
    keys : tuple of str
        One a patient.
    bags : Bags, optional
        Tile embeddings, one bag a patient: the input ``image``. An empty bag means that the
        patient has no slide.
    clinical : DataFrame, optional
        One row a patient: the input ``clinical``. Continuous columns are float64 with NaN,
        ordinal ones ordered categoricals, nominal ones unordered.
    storm : Bags, optional
        STORM's contextual embedding of each tile: the input ``storm``.
    virtual_expression : Bags, optional
        STORM's imputed expression of each tile, a named column a gene: the input of that name.
    tables : dict of str to DataFrame
        One row a patient, float64 columns, by the input's name: ``imputed_expression`` and
        measurements such as ``rna``. A row of NaN means that nothing was measured.

    Raises
    ------
    InputError
        If the parts differ in length.
    """

    keys: tuple[str, ...]
    bags: Bags | None = None
    clinical: pd.DataFrame | None = None
    storm: Bags | None = None
    virtual_expression: Bags | None = None
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts: dict[str, Bags | pd.DataFrame | None] = {
            **{f"{name} bags": bags for name, bags in self.all_tiles.items()},
            **{f"{name} rows": table for name, table in self.tables.items()},
            "clinical rows": self.clinical,
        }
        for what, part in parts.items():
            if part is not None and len(part) != len(self.keys):
                raise InputError(f"{len(self.keys)} patients, but {len(part)} {what}")

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, index: Ints) -> PatientData:
        """The patients at these positions, in that order; tiles are not copied."""
        return PatientData(
            keys=tuple(self.keys[i] for i in index),
            bags=None if self.bags is None else self.bags.take(index),
            clinical=None if self.clinical is None else self.clinical.iloc[index],
            storm=None if self.storm is None else self.storm.take(index),
            virtual_expression=(
                None if self.virtual_expression is None else self.virtual_expression.take(index)
            ),
            tables={name: table.iloc[index] for name, table in self.tables.items()},
        )

    @property
    def all_tiles(self) -> dict[str, Bags]:
        """The bags of every input of tiles that these patients come with, by the input's name."""
        bags = {"image": self.bags, "storm": self.storm, VIRTUAL: self.virtual_expression}
        return {name: part for name, part in bags.items() if part is not None}

    def tiles(self, input_name: str) -> Bags:
        """The bags of ``image``, ``storm`` or ``virtual_expression``.

        Raises
        ------
        InputError
            If these patients come without.
        """
        bags = self.all_tiles.get(input_name)
        if bags is None:
            raise InputError(
                f"the model sees the input {input_name!r}, and these patients have no bags"
            )
        return bags

    def with_tiles(self, input_name: str, bags: Bags) -> PatientData:
        """The same patients with other tiles of one input; all else stays."""
        own = {"image": "bags", "storm": "storm", VIRTUAL: "virtual_expression"}[input_name]
        changed: dict[str, Any] = {own: bags}
        return replace(self, **changed)

    def table(self, input_name: str) -> pd.DataFrame:
        """The table of that name: measurements or imputed expression.

        Raises
        ------
        InputError
            If these patients come without.
        """
        if input_name not in self.tables:
            raise InputError(
                f"the model sees the input {input_name!r}, and these patients have no such table"
            )
        return self.tables[input_name]

    def present(self, input_name: str) -> NDArray[np.bool_]:
        """Who has this input: a tile, or a measured value; covariates count as present."""
        kind = kind_of(input_name)
        if kind == "tiles":
            return np.asarray(self.tiles(input_name).sizes > 0)
        if kind == "table":
            return self.table(input_name).notna().any(axis=1).to_numpy()
        return np.ones(len(self), dtype=np.bool_)


def attended_input(inputs: Iterable[str]) -> str:
    """Whose tiles `FittedModel.attention` weighs: the image's, else the first input of tiles."""
    seen = set(inputs)
    return next(name for name in TILES if name in seen)


@dataclass(frozen=True, eq=False)
class Sample:
    """Patients with their outcomes, in one order."""

    data: PatientData
    outcome: Outcome

    def __post_init__(self) -> None:
        if len(self.data) != len(self.outcome):
            raise InputError(f"{len(self.data)} patients, but {len(self.outcome)} outcomes")

    def take(self, index: Ints) -> Sample:
        """The patients at these positions, in that order."""
        return Sample(self.data.take(index), self.outcome.take(index))


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What a model says of some patients.

    Attributes
    ----------
    risk : float64 array, shape (n_patients,)
        Higher is worse: a log-hazard, or the log-odds of the last class.
    probabilities : dict of str to float64 array, shape (n_patients,)
        ``risk_at_<months>m`` (probability of the event by then) or ``p_<class>``.
    notes : tuple of str
        What was unusual about the data, such as a covariate missing that never was in training.
    """

    risk: Floats
    probabilities: dict[str, Floats]
    notes: tuple[str, ...] = ()


class FittedModel(Protocol):
    """A model that predicts, and that is nothing but arrays and JSON when stored."""

    @property
    def head(self) -> str:
        """The head that made it, and restores it."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was unusual about the training data, such as a covariate that never varies."""

    def predict(self, data: PatientData) -> ModelOutput:
        """Risks and probabilities of these patients."""

    def incidence(self, data: PatientData, months: Sequence[float]) -> Floats:
        """Probability of the event (of each cause) by any time within follow-up.

        Parameters
        ----------
        data : PatientData
            Whom it is asked of.
        months : sequence of float
            Positive, in any order.

        Returns
        -------
        float64 array, shape (n_causes, n_patients, n_times)
            One cause for a survival endpoint; survival is one minus the sum over causes.

        Raises
        ------
        StatisticsError
            If a time lies beyond the follow-up in training, or the outcome has no times.
        """

    def attention(self, data: PatientData) -> list[NDArray[np.float32]] | None:
        """Weight of each tile of `attended_input`, a patient's summing to one; None if none."""

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings from which the head restores the same model."""


@dataclass(frozen=True)
class Stage:
    """One candidate on a head's path.

    Attributes
    ----------
    loss : float
        Training objective here, for learning curves; NaN where the head has none.
    held_out : float
        Log-likelihood of the watched patients here, summed; 0 where nobody is watched.
    finish : callable
        Gives the model as it is at this stage; call it before walking on.
    """

    loss: float
    held_out: float
    finish: Callable[[], FittedModel]


@dataclass(frozen=True)
class Recipe:
    """How one model is to be fitted.

    Attributes
    ----------
    inputs : tuple of str
        What the model sees, e.g. ``("image", "clinical")``.
    settings : dict
        Every option of the head, with its value.
    horizons_months : tuple of float
        Months at which a survival model states risks.
    seed : int
        Of everything that is drawn.
    """

    inputs: tuple[str, ...]
    settings: Mapping[str, Scalar]
    horizons_months: tuple[float, ...]
    seed: int

    def number(self, name: str) -> float:
        """A numeric setting."""
        return float(self.settings[name])

    def word(self, name: str) -> str:
        """A setting that is a word."""
        return str(self.settings[name])

    def whole(self, name: str) -> int:
        """An integer setting."""
        return int(self.settings[name])


@dataclass(frozen=True)
class Option:
    """A setting of a head: its default, its legal range or values, what it does."""

    default: Scalar
    about: str
    lowest: float | None = None
    highest: float | None = None
    choices: tuple[str, ...] = ()

    def checked(self, value: Scalar, *, where: str) -> Scalar:
        """The value in the default's type, if it is legal.

        Raises
        ------
        StudyError
            Naming the option, the value and what it may be.
        """
        kind = type(self.default)
        same = isinstance(value, bool) == (kind is bool)
        if not same or not isinstance(value, (int, float) if kind is float else kind):
            raise StudyError(f"must be of type {kind.__name__}, is {value!r}", where=where)
        if isinstance(value, int | float) and not self._within(value):
            low = "-inf" if self.lowest is None else f"{self.lowest:g}"
            high = "inf" if self.highest is None else f"{self.highest:g}"
            raise StudyError(f"must lie in [{low}, {high}], is {value!r}", where=where)
        if self.choices and value not in self.choices:
            raise StudyError(f"must be one of {', '.join(self.choices)}, is {value!r}", where=where)
        return kind(value)

    def _within(self, value: float) -> bool:
        above = self.lowest is None or value >= self.lowest
        return above and (self.highest is None or value <= self.highest)


class Head(Protocol):
    """A kind of model. One class with these members is a head; an entry point makes it known."""

    @property
    def name(self) -> str:
        """As study files call it."""

    @property
    def outcomes(self) -> tuple[type[Outcome], ...]:
        """Outcome types it can be fitted to."""

    @property
    def entry_times(self) -> bool:
        """Whether its likelihood uses entry times (left truncation)."""

    @property
    def takes(self) -> frozenset[Kind]:
        """Kinds of inputs it can use; see `storm_clinic.study.kind_of`."""

    @property
    def needs(self) -> frozenset[Kind]:
        """Kinds of inputs of which it needs at least one each."""

    @property
    def options(self) -> Mapping[str, Option]:
        """Its settings; each may be set in ``options`` or tried in ``tune`` of a study."""

    @property
    def stages(self) -> str | None:
        """What its path counts, e.g. ``epochs``; None where the path has a single stage."""

    def path(self, train: Sample, recipe: Recipe, watch: Sample | None = None) -> Iterator[Stage]:
        """Walk from simple to complex on the training patients, judging the watched ones."""

    def restore(self, arrays: Mapping[str, NDArray[Any]], settings: Any) -> FittedModel:
        """The model whose `FittedModel.state` this was; its predictions are bit-equal."""
