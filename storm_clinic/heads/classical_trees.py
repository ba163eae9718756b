"""Heads whose model is trees: random forests and gradient boosting, for survival and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Classes, Outcome, Survival
from storm_clinic.errors import InputError
from storm_clinic.heads.contract import Option, Recipe
from storm_clinic.heads.design import components_option
from storm_clinic.heads.design_head import Criterion, DesignHead
from storm_clinic.heads.estimator_archive import pack, unpack
from storm_clinic.heads.objectives import ClassObjective, CoxObjective
from storm_clinic.heads.survival_steps import StepsObjective
from storm_clinic.heads.tile_pooling import POOLING
from storm_clinic.study import Kind

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]

_AT_ONCE = 10  # trees grown before the next are asked for


@dataclass(frozen=True, eq=False)
class SurvivalForest:
    """scikit-survival's random survival forest; outputs are survival at each training time."""

    forest: Any
    notes: tuple[str, ...] = ()

    def outputs(self, matrix: Floats) -> Floats:
        """Mean survival curve of the trees, shape (n_patients, n_times)."""
        single, n_times = _as_trees_compare(matrix), len(self.forest.unique_times_)
        total = np.zeros((len(matrix), n_times))
        for grown in self.forest.estimators_:
            leaves = grown.tree_.value[grown.tree_.apply(single)]
            # Leaves hold cumulative hazard and survival. Where all training times are the same
            # scikit-survival leaves out the survival, which is one minus the only hazard.
            total += leaves[:, :, 1] if n_times > 1 else 1 - leaves[:, :, 0]
        return np.asarray(total / len(self.forest.estimators_))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        return {"trees": pack(self.forest)}, {}

    @classmethod
    def from_state(cls, arrays: Arrays, _settings: Mapping[str, Any]) -> SurvivalForest:
        """The same, from what was stored."""
        return cls(unpack(arrays["trees"], where="survival forest"))


@dataclass(frozen=True, eq=False)
class ClassForest:
    """scikit-learn's random forest; outputs are log-odds of each level against the first.

    Shares of the trees' votes may be 0 or 1. They are joined by one tree more, to which all
    classes are alike, so that log-odds are finite and no class is impossible.
    """

    forest: Any
    notes: tuple[str, ...] = ()

    def outputs(self, matrix: Floats) -> Floats:
        """Log-odds, shape (n_patients, n_levels - 1)."""
        shares = self.forest.predict_proba(matrix)
        log_p = np.log(shares * len(self.forest.estimators_) + 1 / shares.shape[1])
        return np.asarray(log_p[:, 1:] - log_p[:, :1])

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        return {"trees": pack(self.forest)}, {}

    @classmethod
    def from_state(cls, arrays: Arrays, _settings: Mapping[str, Any]) -> ClassForest:
        """The same, from what was stored."""
        return cls(unpack(arrays["trees"], where="forest"))


@dataclass(frozen=True, eq=False)
class AdditiveTrees:
    """A start and a sum of small regression trees, one a stage for each output that was boosted.

    Attributes
    ----------
    trees : list of list of DecisionTreeRegressor, shape (n_stages, n_boosted)
        One boosted output is the output itself; of more than two classes each level has one, and
        outputs are the differences to the first.
    learning_rate : float
        Share of each tree that is added.
    start : float64 array, shape (n_outputs,)
        Outputs without any tree.
    """

    trees: list[list[Any]]
    learning_rate: float
    start: Floats
    notes: tuple[str, ...] = ()

    def outputs(self, matrix: Floats) -> Floats:
        """Log-hazard or log-odds, shape (n_patients, n_outputs)."""
        single = _as_trees_compare(matrix)
        width = self.trees[0][0].tree_.n_features
        if single.shape[1] != width:  # scikit-learn's inner trees would read beyond a row
            raise InputError(f"{single.shape[1]} columns, but the trees were grown on {width}")
        raw = np.zeros((len(matrix), len(self.trees[0])))
        for stage in self.trees:
            for at, tree in enumerate(stage):
                raw[:, at] += self.learning_rate * tree.tree_.predict(single)[:, 0]
        against_first = raw if raw.shape[1] == 1 else raw[:, 1:] - raw[:, :1]
        return np.asarray(self.start + against_first)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays: dict[str, NDArray[Any]] = {"trees": pack(self.trees), "start": self.start}
        return arrays, {"learning_rate": self.learning_rate}

    @classmethod
    def from_state(cls, arrays: Arrays, settings: Mapping[str, Any]) -> AdditiveTrees:
        """The same, from what was stored."""
        trees = unpack(arrays["trees"], where="boosted trees")
        return cls(trees, float(settings["learning_rate"]), arrays["start"])


def _as_trees_compare(matrix: Floats) -> NDArray[np.float32]:
    return np.ascontiguousarray(matrix, dtype=np.float32)


def _grow_survival_forest(
    matrix: Floats, _n_blocks: int, outcome: Outcome, recipe: Recipe
) -> Iterator[SurvivalForest]:
    from sksurv.ensemble import RandomSurvivalForest

    assert isinstance(outcome, Survival)
    forest = RandomSurvivalForest(**_forest_settings(recipe))
    yield SurvivalForest(forest.fit(matrix, outcome.to_structured()))


def _grow_class_forest(
    matrix: Floats, _n_blocks: int, outcome: Outcome, recipe: Recipe
) -> Iterator[ClassForest]:
    from sklearn.ensemble import RandomForestClassifier

    assert isinstance(outcome, Classes)
    forest = RandomForestClassifier(**_forest_settings(recipe))
    yield ClassForest(forest.fit(matrix, outcome.label))


def _forest_settings(recipe: Recipe) -> dict[str, Any]:
    least = recipe.whole("smallest_leaf")
    return {
        "n_estimators": recipe.whole("trees"),
        "min_samples_leaf": least,
        "min_samples_split": 2 * least,
        "max_features": {"all": 1.0, "third": 1 / 3, "sqrt": "sqrt"}[recipe.word("columns")],
        "random_state": recipe.seed,
    }


def _boost_survival(
    matrix: Floats, _n_blocks: int, outcome: Outcome, recipe: Recipe
) -> Iterator[AdditiveTrees]:
    from sksurv.ensemble import GradientBoostingSurvivalAnalysis

    assert isinstance(outcome, Survival)
    model = GradientBoostingSurvivalAnalysis(**_boosting_settings(recipe))
    yield from _boost(model, matrix, outcome.to_structured(), np.zeros(1), recipe)


def _boost_classes(
    matrix: Floats, _n_blocks: int, outcome: Outcome, recipe: Recipe
) -> Iterator[AdditiveTrees]:
    from sklearn.ensemble import GradientBoostingClassifier

    assert isinstance(outcome, Classes)
    model = GradientBoostingClassifier(**_boosting_settings(recipe))
    start = ClassObjective(outcome).start()
    yield from _boost(model, matrix, outcome.label, start, recipe)


def _boosting_settings(recipe: Recipe) -> dict[str, Any]:
    return {
        "learning_rate": recipe.number("learning_rate"),
        "max_depth": recipe.whole("depth"),
        "min_samples_leaf": recipe.whole("smallest_leaf"),
        "subsample": recipe.number("subsample"),
        "random_state": recipe.seed,
        "warm_start": True,
    }


def _boost(
    model: Any, matrix: Floats, target: NDArray[Any], start: Floats, recipe: Recipe
) -> Iterator[AdditiveTrees]:
    """Stage after stage; trees are grown a few at a time, so that nobody waits for all of them."""
    trees: list[list[Any]] = []
    most = recipe.whole("trees")
    while len(trees) < most:
        n_before = len(trees)
        model.set_params(n_estimators=min(n_before + _AT_ONCE, most)).fit(matrix, target)
        for stage in model.estimators_[n_before:]:
            # Random numbers have done their part, and would only be stored.
            trees = [*trees, [tree.set_params(random_state=None) for tree in stage]]
            yield AdditiveTrees(trees, recipe.number("learning_rate"), start)


def _judge_steps(outcome: Outcome, _recipe: Recipe) -> Criterion:
    assert isinstance(outcome, Survival)
    return StepsObjective(outcome)


def _judge_cox(outcome: Outcome, _recipe: Recipe) -> Criterion:
    assert isinstance(outcome, Survival)
    # scikit-survival's gradient counts ties as Breslow does; another baseline would be too high.
    return CoxObjective(outcome, "breslow")


def _judge_classes(outcome: Outcome, _recipe: Recipe) -> Criterion:
    assert isinstance(outcome, Classes)
    return ClassObjective(outcome)


_ALL: frozenset[Kind] = frozenset({"tiles", "clinical", "table"})
_FOREST_OPTIONS: Mapping[str, Option] = {
    "pooling": POOLING,
    "components": components_option(16),
    "trees": Option(100, "Trees.", 1, 5000),
    "smallest_leaf": Option(5, "Fewest patients in a leaf.", 1, 10_000),
    "columns": Option("sqrt", "Columns tried at a split.", choices=("sqrt", "third", "all")),
}
_BOOSTING_OPTIONS: Mapping[str, Option] = {
    "pooling": POOLING,
    "components": components_option(16),
    "trees": Option(200, "Most trees; inner folds choose how many are used.", 1, 10_000),
    "learning_rate": Option(0.1, "Share of each tree that is added.", 1e-4, 1.0),
    "depth": Option(2, "Splits between the root and a leaf.", 1, 12),
    "smallest_leaf": Option(5, "Fewest patients in a leaf.", 1, 10_000),
    "subsample": Option(1.0, "Share of the patients that each tree sees.", 0.1, 1.0),
}

TREE_HEADS = (
    DesignHead(
        "survival-forest",
        (Survival,),
        takes=_ALL,
        needs=frozenset(),
        walk=_grow_survival_forest,
        judge=_judge_steps,
        restore_predictor=SurvivalForest.from_state,
        options=_FOREST_OPTIONS,
        entry_times=False,
    ),
    DesignHead(
        "survival-boosting",
        (Survival,),
        takes=_ALL,
        needs=frozenset(),
        walk=_boost_survival,
        judge=_judge_cox,
        restore_predictor=AdditiveTrees.from_state,
        options=_BOOSTING_OPTIONS,
        stages="trees",
        entry_times=False,
    ),
    DesignHead(
        "forest",
        (Classes,),
        takes=_ALL,
        needs=frozenset(),
        walk=_grow_class_forest,
        judge=_judge_classes,
        restore_predictor=ClassForest.from_state,
        options=_FOREST_OPTIONS,
    ),
    DesignHead(
        "boosted-trees",
        (Classes,),
        takes=_ALL,
        needs=frozenset(),
        walk=_boost_classes,
        judge=_judge_classes,
        restore_predictor=AdditiveTrees.from_state,
        options=_BOOSTING_OPTIONS,
        stages="trees",
    ),
)
