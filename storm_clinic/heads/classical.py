"""Linear heads: clinical Cox, Cox on principal components, Coxnet, logistic regression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Classes, Outcome, Survival
from storm_clinic.errors import TrainingError
from storm_clinic.heads.contract import (
    ModelOutput,
    Option,
    PatientData,
    Recipe,
    Sample,
    Stage,
)
from storm_clinic.heads.design import Design, add_prefix, drop_prefix
from storm_clinic.heads.linear import fit_cox, fit_logistic
from storm_clinic.heads.objectives import held_out_log_likelihood, objective_for
from storm_clinic.heads.readout import Readout, restore_readout
from storm_clinic.study import Kind

Floats = NDArray[np.float64]
Fit = tuple[Floats, Floats]  # coefficients (n_columns, n_outputs), intercepts (n_outputs,)
Walk = Callable[[Floats, int, Outcome, Recipe], Iterator[Fit]]

RIDGE = Option(
    0.01,
    "Weight of half the squared coefficients beside the log-likelihood per event; 0.01 shrinks a "
    "well-supported coefficient by about 1% and keeps a separating one finite.",
    lowest=0.0,
)
_LOGISTIC_RIDGES = np.geomspace(10.0, 1e-4, 16)
_COXNET_PENALTIES = 80
# Penalty of a clinical column relative to an embedding's: age and stage are known to matter, and
# are kept while the embedding must earn its place; not zero, so that rare indicators stay finite.
_CLINICAL_PENALTY = 0.1


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Linear predictor of a mean embedding and clinical covariates."""

    head: str
    inputs: tuple[str, ...]
    design: Design
    coefficients: Floats
    intercepts: Floats
    readout: Readout

    @property
    def notes(self) -> tuple[str, ...]:
        """What the clinical preprocessing dropped in training, and why."""
        return () if self.design.covariates is None else self.design.covariates.notes

    def predict(self, data: PatientData) -> ModelOutput:
        """Risks and probabilities of these patients."""
        return self.readout.read(*self._outputs(data))

    def incidence(self, data: PatientData, months: Sequence[float]) -> Floats:
        """Probability of the event by any time, (1, n_patients, n_times)."""
        return self.readout.incidence(self._outputs(data)[0], months)

    def _outputs(self, data: PatientData) -> tuple[Floats, tuple[str, ...]]:
        matrix, notes = self.design.encode(data)
        # Summed patient by patient: a matrix product rounds by how many patients come together.
        return (matrix[:, :, None] * self.coefficients[None]).sum(axis=1) + self.intercepts, notes

    def attention(self, data: PatientData) -> None:
        """None: a mean embedding looks at all tiles alike."""

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings from which the head restores the same model."""
        design_arrays, design = self.design.state()
        readout_arrays, readout = self.readout.state()
        arrays = {
            "coefficients": self.coefficients,
            "intercepts": self.intercepts,
            **add_prefix("design", design_arrays),
            **add_prefix("readout", readout_arrays),
        }
        settings = {"inputs": list(self.inputs), "design": design, "readout": readout}
        return arrays, settings


@dataclass(frozen=True)
class LinearHead:
    """A way to fit a linear predictor; see `storm_clinic.heads.contract.Head`."""

    name: str
    outcomes: tuple[type[Outcome], ...]
    takes: frozenset[Kind]
    needs: frozenset[Kind]
    walk: Walk
    options: Mapping[str, Option] = field(default_factory=dict)
    stages: str | None = None
    entry_times: bool = True

    def path(self, train: Sample, recipe: Recipe, watch: Sample | None = None) -> Iterator[Stage]:
        """Walk from the strongest penalty to the weakest; a single stage without penalties."""
        design = Design.fit(train.data, recipe.inputs)
        matrix, _ = design.encode(train.data)
        watched = None if watch is None else design.encode(watch.data)[0]
        objective = objective_for(train.outcome)
        for coefficients, intercepts in self.walk(matrix, design.n_image, train.outcome, recipe):
            outputs = matrix @ coefficients + intercepts
            held_out = 0.0
            if watch is not None and watched is not None:
                held_out = held_out_log_likelihood(
                    watch.outcome, watched @ coefficients + intercepts
                )
            model = partial(LinearModel, self.name, recipe.inputs, design, coefficients, intercepts)
            readout = partial(objective.readout, outputs, recipe.horizons_months)
            yield Stage(objective.loss(outputs)[0], held_out, partial(_finish, model, readout))

    def restore(self, arrays: Mapping[str, NDArray[Any]], settings: Any) -> LinearModel:
        """The model whose state this was."""
        return LinearModel(
            head=self.name,
            inputs=tuple(settings["inputs"]),
            design=Design.from_state(drop_prefix("design", arrays), settings["design"]),
            coefficients=arrays["coefficients"],
            intercepts=arrays["intercepts"],
            readout=restore_readout(drop_prefix("readout", arrays), settings["readout"]),
        )


def _finish(model: Callable[[Readout], LinearModel], readout: Callable[[], Readout]) -> LinearModel:
    return model(readout())


def _walk_cox(matrix: Floats, n_image: int, outcome: Outcome, recipe: Recipe) -> Iterator[Fit]:
    """Cox regression; the embedding, where there is one, enters by its principal components."""
    assert isinstance(outcome, Survival)
    axes = np.eye(matrix.shape[1])
    if n_image:
        components = _principal_axes(matrix[:, :n_image], recipe.whole("components"))
        axes = np.delete(axes, np.s_[:n_image], axis=1)
        axes = np.hstack([np.pad(components, ((0, axes.shape[1]), (0, 0))), axes])
    slopes = fit_cox(matrix @ axes, outcome, ridge=recipe.number("ridge"))
    yield (axes @ slopes)[:, None], np.zeros(1)


def _principal_axes(pooled: Floats, n_components: int) -> Floats:
    """Leading axes of centred columns, (n_columns, n_components), scaled to unit variance."""
    n_components = min(n_components, *np.subtract(pooled.shape, (1, 0)))
    _, spread, axes = np.linalg.svd(pooled, full_matrices=False)
    varies = spread[:n_components] > 1e-9 * spread[0]
    scale = spread[:n_components][varies] / np.sqrt(len(pooled))
    return np.asarray(axes[:n_components][varies].T / scale)


def _walk_coxnet(matrix: Floats, n_image: int, outcome: Outcome, recipe: Recipe) -> Iterator[Fit]:
    """Elastic-net Cox regression from the penalty that leaves nothing down to a weak one."""
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    assert isinstance(outcome, Survival)
    factors = np.full(matrix.shape[1], 1.0 if n_image == 0 else _CLINICAL_PENALTY)
    factors[:n_image] = 1.0
    net = CoxnetSurvivalAnalysis(
        n_alphas=_COXNET_PENALTIES,
        # A lightly penalised clinical column sets the start higher; the end stays where it was.
        alpha_min_ratio=recipe.number("weakest_penalty") * factors.min(),
        l1_ratio=recipe.number("l1_ratio"),
        penalty_factor=factors,
    )
    try:
        net.fit(matrix, outcome.to_structured())
    except ArithmeticError as error:
        raise TrainingError(
            f"the elastic net did not converge: {error}",
            fix="Set weakest_penalty higher, or l1_ratio lower.",
        ) from error
    for coefficients in np.asarray(net.coef_, dtype=np.float64).T:
        yield coefficients[:, None].copy(), np.zeros(1)


def _walk_logistic(
    matrix: Floats,
    _n_image: int,
    outcome: Outcome,
    _recipe: Recipe,
) -> Iterator[Fit]:
    """Logistic regression, from the strongest ridge to the weakest; all columns alike."""
    assert isinstance(outcome, Classes)
    for ridge in _LOGISTIC_RIDGES:
        yield fit_logistic(matrix, outcome, ridge=float(ridge))


_CLINICAL: frozenset[Kind] = frozenset({"clinical"})
_TILES: frozenset[Kind] = frozenset({"tiles"})
_ALL: frozenset[Kind] = frozenset({"tiles", "clinical", "table"})

COX = LinearHead(
    "cox", (Survival,), takes=_CLINICAL, needs=_CLINICAL, walk=_walk_cox, options={"ridge": RIDGE}
)
PCA_COX = LinearHead(
    "pca-cox",
    (Survival,),
    takes=_ALL,
    needs=_TILES,
    walk=_walk_cox,
    options={
        "components": Option(16, "Principal components of the mean embedding.", 1, 512),
        "ridge": RIDGE,
    },
)
COXNET = LinearHead(
    "coxnet",
    (Survival,),
    takes=_ALL,
    needs=frozenset(),
    walk=_walk_coxnet,
    options={
        "l1_ratio": Option(0.5, "Share of the penalty that is absolute, not squared.", 0.01, 1.0),
        "weakest_penalty": Option(
            0.02, "Where the path ends, relative to the penalty that leaves nothing.", 1e-4, 0.9
        ),
    },
    stages="penalties",
    entry_times=False,
)
LOGISTIC = LinearHead(
    "logistic", (Classes,), takes=_ALL, needs=frozenset(), walk=_walk_logistic, stages="penalties"
)
