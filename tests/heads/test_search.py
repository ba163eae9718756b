"""Searched settings lie within their bounds, repeat exactly, and all of them are on record."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from storm_clinic.errors import StudyError
from storm_clinic.heads.fit import cross_validate, fit_tuned
from storm_clinic.heads.search import Space, search, space_of
from storm_clinic.heads.zoo import find
from storm_clinic.study import ModelSpec, Range, Search


def searched(**changes) -> ModelSpec:
    fields = {
        "name": "searched",
        "head": "pca-cox",
        "inputs": ["image"],
        "tune": {"ridge": {"from": 0.001, "to": 1.0, "log": True}, "components": [2, 4]},
        "search": {"trials": 6},
    }
    return ModelSpec.model_validate(fields | changes)


def test_every_trial_is_within_its_bounds_and_on_record_and_the_best_is_taken(simulated):
    pytest.importorskip("optuna")
    sample = simulated(1)
    fit = fit_tuned(searched(), sample.data, sample.outcome, seed=1)
    record = json.loads(json.dumps(fit.as_dict()))
    tried = record["inner"]
    assert len(tried) == 6
    assert all(0.001 <= trial["settings"]["ridge"] <= 1.0 for trial in tried)
    assert {trial["settings"]["components"] for trial in tried} <= {2, 4}
    best = max(tried, key=lambda trial: trial["score"])
    assert record["settings"] == best["settings"]


def test_trials_do_not_depend_on_processes_but_on_the_seed(simulated):
    pytest.importorskip("optuna")
    sample = simulated(2)
    fold = np.arange(40)[None] % 2
    one, two, other = (
        cross_validate(searched(), sample.data, sample.outcome, fold, seed=seed, n_jobs=n_jobs)
        for seed, n_jobs in ((1, 1), (1, 2), (2, 1))
    )
    assert [r.as_dict() for r in one.records] == [r.as_dict() for r in two.records]
    assert one.records[0].as_dict()["inner"] != other.records[0].as_dict()["inner"]


class _Score:
    def __init__(self, settings):
        self.score = -((settings["x"] - 0.3) ** 2)
        self.settings = settings


def test_a_search_that_learns_comes_nearer_than_chance_draws():
    pytest.importorskip("optuna")
    space = Space({}, {"x": Range.model_validate({"from": -10.0, "to": 10.0})})
    found = {}
    for sampler in ("tpe", "random"):
        how = Search(trials=40, sampler=sampler)
        best = [max(t.score for t in search(space, how, _Score, seed=s)) for s in range(8)]
        found[sampler] = float(np.median(best))
    assert found["tpe"] > found["random"]


def test_what_is_proposed_again_is_not_tried_again():
    pytest.importorskip("optuna")
    tried = []

    def try_out(settings):
        tried.append(settings["x"])
        return _Score(settings)

    results = search(Space({}, {"x": (1, 2)}), Search(trials=9), try_out, seed=1)
    assert len(results) == 9
    assert len(tried) == len(set(tried)) <= 2


def test_whole_numbers_stay_whole():
    pytest.importorskip("optuna")
    spec = searched(tune={"components": {"from": 2, "to": 30}})
    results = search(space_of(find("pca-cox"), spec), Search(trials=5), _Whole, seed=1)
    assert all(isinstance(result.value, int) and 2 <= result.value <= 30 for result in results)


class _Whole:
    score = 0.0

    def __init__(self, settings):
        self.value = settings["components"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": {"rigde": {"from": 0, "to": 1}}}, "did you mean 'ridge'"),
        ({"tune": {"ridge": {"from": -1, "to": 1}}}, "ridge: must lie in"),
        ({"tune": {"components": {"from": 1.5, "to": 4}}}, "components: must be of type int"),
    ],
)
def test_an_illegal_bound_is_named(changes, message):
    with pytest.raises(StudyError, match=message):
        space_of(find("pca-cox"), searched(**changes))


def test_without_optuna_a_search_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(StudyError, match=r"pip install 'storm-clinic\[search\]'"):
        space_of(find("pca-cox"), searched())
