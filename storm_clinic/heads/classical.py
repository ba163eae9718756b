"""Linear heads: Cox, Coxnet, Weibull, Cox models of competing causes, logistic regression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Outcome, Survival
from storm_clinic.errors import TrainingError
from storm_clinic.heads.causes import CausesObjective
from storm_clinic.heads.contract import Option, Recipe
from storm_clinic.heads.design import components_option
from storm_clinic.heads.design_head import Criterion, DesignHead
from storm_clinic.heads.linear import LinearPredictor, fit_cox, fit_logistic, fit_weibull
from storm_clinic.heads.objectives import CLASS_WEIGHT, TIES, ClassObjective, CoxObjective
from storm_clinic.heads.survival import Ties
from storm_clinic.heads.tile_pooling import POOLING
from storm_clinic.heads.weibull import WeibullObjective
from storm_clinic.study import Kind

Floats = NDArray[np.float64]

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


def _ties(recipe: Recipe) -> Ties:
    return "breslow" if recipe.word("ties") == "breslow" else "efron"


def _walk_cox(
    matrix: Floats, _n_blocks: int, outcome: Outcome, recipe: Recipe
) -> Iterator[LinearPredictor]:
    assert isinstance(outcome, Survival)
    slopes = fit_cox(matrix, outcome, ridge=recipe.number("ridge"), ties=_ties(recipe))
    yield LinearPredictor(slopes[:, None], np.zeros(1))


def _judge_cox(outcome: Outcome, recipe: Recipe) -> Criterion:
    assert isinstance(outcome, Survival)
    return CoxObjective(outcome, _ties(recipe))


def _walk_coxnet(
    matrix: Floats, n_blocks: int, outcome: Outcome, recipe: Recipe
) -> Iterator[LinearPredictor]:
    """Elastic-net Cox regression from the penalty that leaves nothing down to a weak one."""
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    assert isinstance(outcome, Survival)
    factors = np.full(matrix.shape[1], 1.0 if n_blocks == 0 else _CLINICAL_PENALTY)
    factors[:n_blocks] = 1.0
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
        yield LinearPredictor(coefficients[:, None].copy(), np.zeros(1))


def _judge_coxnet(outcome: Outcome, _recipe: Recipe) -> Criterion:
    assert isinstance(outcome, Survival)
    # scikit-survival's elastic net counts ties as Breslow does, and so must its baseline.
    return CoxObjective(outcome, "breslow")


def _walk_weibull(
    matrix: Floats, _n_blocks: int, outcome: Outcome, recipe: Recipe
) -> Iterator[LinearPredictor]:
    assert isinstance(outcome, Survival)
    yield LinearPredictor(*fit_weibull(matrix, outcome, ridge=recipe.number("ridge")))


def _judge_weibull(outcome: Outcome, _recipe: Recipe) -> Criterion:
    assert isinstance(outcome, Survival)
    return WeibullObjective(outcome)


def _walk_causes(
    matrix: Floats, _n_blocks: int, outcome: Outcome, recipe: Recipe
) -> Iterator[LinearPredictor]:
    """A Cox regression for each cause, with the others counted as censoring."""
    assert isinstance(outcome, CompetingRisks)
    slopes = np.zeros((matrix.shape[1], len(outcome.causes)))
    notes = []
    for at, cause in enumerate(outcome.causes):
        specific = outcome.cause_specific(at + 1)
        if specific.n_events:
            slopes[:, at] = fit_cox(
                matrix, specific, ridge=recipe.number("ridge"), ties=_ties(recipe)
            )
        else:
            notes.append(f"{cause}: nobody in training had it; its hazard counts as 0")
    yield LinearPredictor(slopes, np.zeros(len(outcome.causes)), tuple(notes))


def _judge_causes(outcome: Outcome, recipe: Recipe) -> Criterion:
    assert isinstance(outcome, CompetingRisks)
    return CausesObjective(outcome, _ties(recipe))


def _walk_logistic(
    matrix: Floats, _n_blocks: int, outcome: Outcome, recipe: Recipe
) -> Iterator[LinearPredictor]:
    """Logistic regression, from the strongest ridge to the weakest; all columns alike."""
    assert isinstance(outcome, Classes)
    balanced = recipe.word("class_weight") == "balanced"
    for ridge in _LOGISTIC_RIDGES:
        fit = fit_logistic(matrix, outcome, ridge=float(ridge), balanced=balanced)
        yield LinearPredictor(*fit)


def _judge_logistic(outcome: Outcome, recipe: Recipe) -> Criterion:
    assert isinstance(outcome, Classes)
    return ClassObjective(outcome, balanced=recipe.word("class_weight") == "balanced")


_TILES: frozenset[Kind] = frozenset({"tiles"})
_TABLES: frozenset[Kind] = frozenset({"clinical", "table"})
_ALL: frozenset[Kind] = frozenset({"tiles", "clinical", "table"})
_COX_OPTIONS: Mapping[str, Option] = {
    "components": components_option(16),
    "ridge": RIDGE,
    "ties": TIES,
}

COX = DesignHead(
    "cox",
    (Survival,),
    takes=_TABLES,
    needs=frozenset(),
    walk=_walk_cox,
    judge=_judge_cox,
    restore_predictor=LinearPredictor.from_state,
    options=_COX_OPTIONS,
)
PCA_COX = DesignHead(
    "pca-cox",
    (Survival,),
    takes=_ALL,
    needs=_TILES,
    walk=_walk_cox,
    judge=_judge_cox,
    restore_predictor=LinearPredictor.from_state,
    options={"pooling": POOLING, **_COX_OPTIONS},
)
COXNET = DesignHead(
    "coxnet",
    (Survival,),
    takes=_ALL,
    needs=frozenset(),
    walk=_walk_coxnet,
    judge=_judge_coxnet,
    restore_predictor=LinearPredictor.from_state,
    options={
        "pooling": POOLING,
        "components": components_option(0),
        "l1_ratio": Option(0.5, "Share of the penalty that is absolute, not squared.", 0.01, 1.0),
        "weakest_penalty": Option(
            0.02, "Where the path ends, relative to the penalty that leaves nothing.", 1e-4, 0.9
        ),
    },
    stages="penalties",
    entry_times=False,
)
WEIBULL = DesignHead(
    "weibull",
    (Survival,),
    takes=_ALL,
    needs=frozenset(),
    walk=_walk_weibull,
    judge=_judge_weibull,
    restore_predictor=LinearPredictor.from_state,
    options={"pooling": POOLING, "components": components_option(16), "ridge": RIDGE},
)
CAUSES_COX = DesignHead(
    "causes-cox",
    (CompetingRisks,),
    takes=_ALL,
    needs=frozenset(),
    walk=_walk_causes,
    judge=_judge_causes,
    restore_predictor=LinearPredictor.from_state,
    options={"pooling": POOLING, **_COX_OPTIONS},
)
LOGISTIC = DesignHead(
    "logistic",
    (Classes,),
    takes=_ALL,
    needs=frozenset(),
    walk=_walk_logistic,
    judge=_judge_logistic,
    restore_predictor=LinearPredictor.from_state,
    options={
        "pooling": POOLING,
        "components": components_option(0),
        "class_weight": CLASS_WEIGHT,
    },
    stages="penalties",
)
