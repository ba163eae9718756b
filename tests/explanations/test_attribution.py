"""Integrated Gradients against closed forms, and their completeness on the heads themselves."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import InputError
from storm_clinic.explanations.attribution import attribute, integrated_gradients
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Recipe, Sample
from storm_clinic.heads.network_head import NetworkModel
from storm_clinic.heads.zoo import find

GENES = ("ERBB2", "GNAS", "MKI67")


def test_of_a_linear_function_it_is_weight_times_distance():
    rng = np.random.default_rng(0)
    weight, x, baseline = (torch.from_numpy(rng.normal(size=(3, 4))) for _ in range(3))
    [found] = integrated_gradients(
        lambda tiles: (tiles * weight).sum(dim=(1, 2)),
        (x[None],),
        (baseline[None],),
        n_steps=2,
        at_once=1,
    )
    # captum keeps its steps in float32.
    torch.testing.assert_close(found[0], weight * (x - baseline), rtol=1e-6, atol=1e-6)


def test_of_a_product_both_factors_share_alike():
    # f = u v from 0: each has the integral of a·u·v da = u v / 2.
    [u, v] = integrated_gradients(
        lambda u, v: (u * v)[:, 0],
        (torch.tensor([[3.0]]), torch.tensor([[5.0]])),
        (torch.zeros(1, 1), torch.zeros(1, 1)),
        n_steps=8,
        at_once=3,
    )
    assert (u.item(), v.item()) == pytest.approx((7.5, 7.5))


def simulated(outcome: str = "survival", n_patients: int = 40) -> Sample:
    rng = np.random.default_rng(1)
    severity = rng.normal(size=n_patients)
    image = [rng.normal(size=(rng.integers(3, 9), 5)) + np.eye(5)[0] * s for s in severity]
    genes = [rng.normal(size=(rng.integers(2, 7), 3)) + np.eye(3)[1] * s for s in severity]
    genes[0] = genes[0][:0]
    data = PatientData(
        tuple(f"p{i}" for i in range(n_patients)),
        Bags.from_arrays(image),
        virtual_expression=replace(Bags.from_arrays(genes), columns=GENES),
    )
    if outcome == "classes":
        return Sample(data, Classes(np.digitize(severity, [-0.5, 0.5]), ("a", "b", "c")))
    time = np.ceil(rng.exponential(24 * np.exp(-severity)))
    return Sample(data, Survival.from_arrays(time, np.ones(n_patients)))


def fitted(head: str, sample: Sample, n_stages: int = 10) -> NetworkModel:
    settings = {name: option.default for name, option in find(head).options.items()}
    settings |= {"epochs": n_stages, "learning_rate": 0.02, "hidden": 8}
    months = () if isinstance(sample.outcome, Classes) else (12.0,)
    recipe = Recipe(("image", "virtual_expression"), settings, months, 1)
    return list(islice(find(head).path(sample, recipe), n_stages))[-1].finish()


@pytest.fixture(scope="module")
def sample() -> Sample:
    return simulated()


@pytest.fixture(scope="module")
def storm(sample) -> NetworkModel:
    return fitted("storm-cox", sample)


def test_of_a_head_that_is_linear_in_its_tiles_every_number_has_its_closed_form(sample):
    model = fitted("mean-cox", sample)
    # Hidden units that are always far above zero are linear in the tile.
    weights = {
        name: array + 1e3 if name.endswith("bias") and name.startswith("tile.") else array
        for name, array in model.weights.items()
    }
    found = attribute(replace(model, weights=weights), sample.data.take(np.array([7])))
    for name, bags in sample.data.all_tiles.items():
        scale = model.inputs.tiles[name]
        slope = weights[f"readouts.{name}.weight"][0] @ weights[f"tile.{name}.weight"]
        standardised = (bags.bag(7) - scale.centre) / scale.scale
        expected = standardised * slope / len(standardised)
        np.testing.assert_allclose(found.values[name], expected, rtol=1e-5, atol=1e-9)
    assert found.n_steps == 16


@pytest.mark.parametrize(
    ("head", "outcome"),
    [("storm-cox", "survival"), ("storm-hazard", "survival"), ("storm-classes", "classes")],
)
def test_shares_sum_to_the_change_of_the_models_own_risk(head, outcome):
    sample = simulated(outcome)
    model = fitted(head, sample)
    risk = model.predict(sample.data).risk
    at = 1 + int(np.argmax(risk[1:]))  # the first has no expression
    patient = sample.data.take(np.array([at]))
    means = {
        name: replace(
            Bags.from_arrays([np.tile(model.inputs.tiles[name].centre, (len(bags.bag(0)), 1))]),
            columns=bags.columns,
        )
        for name, bags in patient.all_tiles.items()
    }
    at_mean = replace(patient, bags=means["image"], virtual_expression=means["virtual_expression"])
    found = attribute(model, patient)
    change = risk[at] - model.predict(at_mean).risk[0]
    assert abs(change) > 0.02
    total = sum(values.sum() for values in found.values.values())
    assert total == pytest.approx(change, rel=0.01, abs=2e-4)
    assert found.complete
    assert sum(found.by_input.values()) == pytest.approx(total)
    assert sum(found.by_tile["image"]) == pytest.approx(found.by_input["image"])
    genes = found.by_column("virtual_expression")
    assert genes.sum() == pytest.approx(found.by_input["virtual_expression"])
    assert found.columns == {"image": (), "virtual_expression": GENES}


def test_too_few_steps_are_not_called_complete_and_more_are_taken_until_they_are(storm, sample):
    patient = sample.data.take(np.array([5]))
    rough = attribute(storm, patient, most_steps=1)
    assert rough.n_steps == 1
    assert abs(rough.gap) > 0.01 * abs(rough.risk - rough.baseline_risk) + 1e-4
    assert not rough.complete
    assert attribute(storm, patient).complete


def test_a_patient_without_expression_has_shares_of_the_image_alone(storm, sample):
    found = attribute(storm, sample.data.take(np.array([0])))
    assert list(found.values) == ["image"]
    assert found.complete
    assert found.risk == pytest.approx(storm.predict(sample.data).risk[0], abs=1e-5)


def test_a_model_without_gradients_and_a_patient_without_tiles_are_refused(storm, sample):
    recipe = Recipe(
        ("image",), {n: o.default for n, o in find("pca-cox").options.items()}, (12.0,), 1
    )
    [stage] = islice(find("pca-cox").path(sample, recipe), 1)
    with pytest.raises(InputError, match="'pca-cox' has no gradients; networks have"):
        attribute(stage.finish(), sample.data.take(np.array([1])))
    empty = replace(sample.data.take(np.array([0])), bags=Bags.from_arrays([np.empty((0, 5))]))
    with pytest.raises(InputError, match="no tile, so that there is nothing to explain"):
        attribute(storm, empty)
    with pytest.raises(InputError, match="one patient is explained at a time, not 40"):
        attribute(storm, sample.data)
