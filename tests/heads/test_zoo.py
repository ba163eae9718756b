"""Which heads there are, and how a study's mistake in naming them reads."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.errors import InputError, StudyError
from storm_clinic.heads import zoo
from storm_clinic.heads.classical import COX
from storm_clinic.heads.zoo import check, find, heads, restore, settings_of
from storm_clinic.study import ModelSpec

SURVIVAL = Survival.from_arrays([1.0, 2.0, 3.0], [1, 0, 1])


def spec(**fields) -> ModelSpec:
    return ModelSpec(**{"name": "abmil", "head": "attention-cox", "inputs": ("image",), **fields})


class ForeignHead:
    """The least that another package's head may be."""

    name = "foreign"
    outcomes = COX.outcomes
    entry_times = COX.entry_times
    takes, needs = COX.takes, COX.needs
    options, stages = COX.options, COX.stages
    path, restore = COX.path, COX.restore


class HalfHead:
    """Forgot most of it."""

    name = "foreign"


@pytest.fixture
def installed(monkeypatch):
    """Pretends that packages with these entry points are installed."""

    def install(name: str, attribute: str) -> None:
        point = EntryPoint(name, f"{__name__}:{attribute}", zoo.ENTRY_POINTS)
        monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.attr])
        monkeypatch.setattr(zoo, "entry_points", lambda group: [point])

    return install


def test_every_head_is_found_under_its_name():
    assert {name: head.name for name, head in heads().items()} == {name: name for name in heads()}
    assert {"mean-cox", "attention-cox", "attention-classes", "cox", "coxnet"} <= heads().keys()


def test_reading_the_table_loads_neither_torch_nor_scikit_survival():
    code = (
        "import sys, storm_clinic.heads.fit; from storm_clinic.heads.zoo import heads; heads();"
        "sys.exit(int('torch' in sys.modules or 'sksurv' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_legal_model_is_accepted():
    assert check(spec(tune={"dropout": (0.0, 0.5)}), SURVIVAL).name == "attention-cox"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"head": "atention-cox"},
            "model 'abmil': unknown head 'atention-cox'; did you mean 'attention-cox'?",
        ),
        (
            {"inputs": ("clinical",)},
            "model 'abmil': the head 'attention-cox' cannot use the inputs clinical. "
            "It takes tiles (image, storm, virtual_expression) and clinical and tables "
            "(imputed_expression, measurements), and needs tiles (image, storm, "
            "virtual_expression).",
        ),
        (
            {"head": "cox", "inputs": ("image", "clinical")},
            "the head 'cox' cannot use the inputs image and clinical. It takes clinical and "
            "tables (imputed_expression, measurements).",
        ),
        (
            {"head": "pca-cox", "inputs": ("rna",)},
            "the head 'pca-cox' cannot use the inputs rna. It takes tiles (image, storm, "
            "virtual_expression) and clinical and tables (imputed_expression, measurements), and "
            "needs tiles",
        ),
        (
            {"options": {"fusion": "middle"}},
            "model 'abmil', fusion: must be one of late, early, cross, is 'middle'",
        ),
        (
            {"options": {"drop_out": 0.5}},
            "model 'abmil', drop_out: unknown option of the head 'attention-cox'; "
            "did you mean 'dropout'?",
        ),
        (
            {"tune": {"dropout": (0.0, 1.5)}},
            "model 'abmil', dropout: must lie in [0, 0.9], is 1.5",
        ),
        ({"options": {"hidden": 2.5}}, "model 'abmil', hidden: must be of type int, is 2.5"),
        ({"options": {"hidden": True}}, "model 'abmil', hidden: must be of type int, is True"),
        (
            {"head": "attention-classes"},
            "the head 'attention-classes' is for classes, the endpoint is survival. "
            "Heads for it are weibull, survival-forest, survival-boosting, cox, pca-cox, coxnet, "
            "<pooling>-cox, <pooling>-hazard, <pooling>-weibull, <pooling>-deephit.",
        ),
        (
            {"head": "logistic", "options": {"ridge": 0.1}},
            "model 'abmil'",
        ),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(fields, message):
    with pytest.raises(StudyError) as caught:
        check(spec(**fields), SURVIVAL)
    assert message in str(caught.value)


def test_an_unknown_option_is_answered_with_those_there_are():
    label = np.array([0, 1], dtype=np.int64)
    known = r"unknown option of the head 'logistic'; known are class_weight, components, pooling"
    with pytest.raises(StudyError, match=known):
        check(spec(head="logistic", options={"ridge": 0.1}), Classes(label, ("no", "yes")))


def test_competing_risks_are_told_which_heads_they_have():
    outcome = CompetingRisks(np.ones(2), np.array([1, 2]), ("disease", "other"))
    told = r"competing risks\. Heads for it are causes-cox, <pooling>-hazard, <pooling>-deephit"
    with pytest.raises(StudyError, match=told):
        check(spec(), outcome)
    assert check(spec(head="attention-hazard"), outcome).name == "attention-hazard"


def test_late_entry_is_refused_where_the_likelihood_cannot_use_it():
    entered = Survival.from_arrays([1.0, 2.0], [1, 1], [0.5, 0.5])
    check(spec(), entered)
    with pytest.raises(StudyError, match="'coxnet' cannot use entry times"):
        check(spec(head="coxnet"), entered)


def test_the_grid_is_every_combination_over_the_defaults():
    head = find("attention-cox")
    grid = settings_of(
        head, spec(options={"hidden": 8}, tune={"dropout": (0, 0.5), "learning_rate": (0.1, 0.01)})
    )
    assert [(s["dropout"], s["learning_rate"]) for s in grid] == [
        (0.0, 0.1),
        (0.0, 0.01),
        (0.5, 0.1),
        (0.5, 0.01),
    ]
    assert all(s["hidden"] == 8 and s["epochs"] == head.options["epochs"].default for s in grid)
    assert isinstance(grid[0]["dropout"], float)


@pytest.mark.parametrize("attribute", ["ForeignHead", "INSTANCE"])
def test_another_packages_head_is_a_head_like_ours(installed, simulated, attribute):
    installed("foreign", attribute)
    sample = simulated(0)
    head = check(spec(head="foreign", inputs=("clinical",)), sample.outcome)
    assert heads()["foreign"].name == head.name == "foreign"


INSTANCE = ForeignHead()


@pytest.mark.parametrize(
    ("name", "attribute", "message"),
    [
        ("foreign", "HalfHead", "lacks outcomes, entry_times, takes"),
        ("other", "ForeignHead", "calls itself 'foreign'"),
        ("foreign", "Missing", "cannot be loaded"),
        ("cox", "ForeignHead", "takes the name of our head 'cox'"),
    ],
)
def test_another_packages_broken_head_is_named_with_its_origin(installed, name, attribute, message):
    installed(name, attribute)
    with pytest.raises(StudyError, match=message) as caught:
        heads()
    assert f"{__name__}:{attribute}" in str(caught.value)


def test_another_packages_broken_head_does_not_stop_ours(installed):
    installed("foreign", "Missing")
    assert find("cox").name == "cox"


def test_restoring_an_unknown_head_or_half_a_model_is_refused():
    with pytest.raises(StudyError, match="unknown head 'coxs'; did you mean 'cox'"):
        restore("coxs", {}, {})
    with pytest.raises(InputError, match="head 'cox': stored model lacks 'inputs'"):
        restore("cox", {}, {})


def test_late_entry_is_answered_with_heads_whose_likelihood_has_it():
    late = Survival.from_arrays([3.0, 4.0, 5.0], [1, 0, 1], [0.0, 1.0, 2.0])
    with pytest.raises(StudyError) as caught:
        check(spec(head="attention-deephit"), late)
    assert "Heads that can are weibull, cox, pca-cox, <pooling>-cox" in str(caught.value)
    assert "coxnet" not in str(caught.value)
    assert "deephit," not in str(caught.value)
