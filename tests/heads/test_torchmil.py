"""Poolings of torchmil behind our adapter: the package's own vectors, stored and repeatable."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from storm_clinic.errors import StudyError
from storm_clinic.heads.contract import Recipe
from storm_clinic.heads.segments import Segments
from storm_clinic.heads.torchmil_pooling import TorchmilPooling
from storm_clinic.heads.zoo import find, restore

NAMES = ["transmil", "dsmil", "dtfd"]


def fitted(name, sample):
    head = find(f"{name}-cox")
    settings = {option: value.default for option, value in head.options.items()}
    recipe = Recipe(("image",), settings, (12.0,), 3)
    return list(islice(head.path(sample, recipe), 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_repeats_is_stored_and_gives_the_same_risks(simulated, name):
    sample = simulated(0, n_patients=12)
    stages = fitted(name, sample)
    assert stages[-1].loss < stages[0].loss
    model = stages[-1].finish()
    risk = model.predict(sample.data).risk
    assert (fitted(name, sample)[-1].finish().predict(sample.data).risk == risk).all()
    arrays, settings = model.state()
    restored = restore(f"{name}-cox", load(save(arrays)), json.loads(json.dumps(settings)))
    assert (restored.predict(sample.data).risk == risk).all()
    assert model.attention(sample.data) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_bags_is_each_bag_through_the_package(name):
    torch.manual_seed(0)
    pooling = TorchmilPooling(name, 8, 8)
    sizes = torch.tensor([5, 0, 9])
    hidden = torch.randn(14, 8)
    vectors = pooling(hidden, Segments(sizes), None).vector
    assert vectors.shape == (3, pooling.n_pooled)
    assert (vectors[1] == 0).all()
    last = pooling.model.get_submodule(
        {"transmil": "classifier", "dsmil": "bag_classifier", "dtfd": "u_classifier"}[name]
    )
    # The package's own score of a bag is its last layer on the vector that we take.
    np.random.seed(0)
    mask = [] if name == "transmil" else [torch.ones(1, 5)]
    own = pooling.model(hidden[:5][None], *mask)
    torch.testing.assert_close(last(vectors[0]).ravel(), own.ravel())


def test_numpys_random_numbers_are_left_alone():
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    TorchmilPooling("dtfd", 8, 8)(torch.randn(20, 8), Segments(torch.tensor([20])), None)
    assert np.random.rand() == expected


def test_without_the_package_the_study_is_told_how_to_get_it(simulated, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmil", None)
    with pytest.raises(StudyError, match=r"needs the package torchmil.*storm-clinic\[torchmil\]"):
        fitted("dsmil", simulated(0, n_patients=12))
