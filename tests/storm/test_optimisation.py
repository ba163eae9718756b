"""Optimisation without any network of ours: laws of schedule, groups, accumulation, resume."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from storm_clinic.errors import TrainingError
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.optimisation import Optimisation, Optimiser, parameter_groups

PLAN = Optimisation(learning_rate=0.1, n_steps=8, warm_up=2, ema=0.9)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 2))


def batches(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn((8, 4), generator=generator) for _ in range(n)]


def loss_of(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return (module(batch) - batch[:, :2]).square().mean()


def fit(module: nn.Module, plan: Optimisation, data: list[torch.Tensor]) -> Optimiser:
    optimiser = Optimiser(module, plan)
    for batch in data:
        optimiser.backward(loss_of(module, batch))
    return optimiser


def assert_same_weights(found: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    for (name, one), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name, **(tolerance or {"rtol": 0, "atol": 0}))


def test_the_rate_rises_in_equal_parts_then_falls_by_a_cosine_to_its_final_share():
    plan = Optimisation(learning_rate=1.0, n_steps=103, warm_up=3, final_share=0.1)
    assert [plan.rate_at(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert plan.rate_at(53) == pytest.approx(0.55)  # half-way from 1 to 0.1
    assert plan.rate_at(28) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert plan.rate_at(103) == plan.rate_at(10_000) == pytest.approx(0.1)


def test_only_matrices_decay_and_every_parameter_of_storm_is_in_one_group():
    config = StormConfig(width=8, n_layers=1, n_heads=2, image_width=4, n_genes=5, pitch_um=1.0)
    named = dict(StormModel(config).named_parameters())
    groups = parameter_groups(named, weight_decay=0.3, scales={"image_in.weight": 0.5})
    of = {id(weight): group for group in groups for weight in group["params"]}
    assert len(of) == sum(len(group["params"]) for group in groups) == len(named)
    free = {name for name, weight in named.items() if of[id(weight)]["weight_decay"] == 0}
    assert {"image_norm.weight", "mask_token.image", "modality.expression", "norm.bias"} <= free
    assert all(named[name].dim() == 1 for name in free)
    assert all(named[name].dim() == 2 for name in named.keys() - free)
    assert of[id(named["image_in.weight"])]["scale"] == 0.5


def test_two_halves_accumulated_are_one_batch():
    whole, halves = network(), network()
    data = batches(4)
    fit(whole, Optimisation(learning_rate=0.01, n_steps=4), data)
    plan = Optimisation(learning_rate=0.01, n_steps=4, accumulate=2)
    optimiser = fit(halves, plan, [half for batch in data for half in batch.chunk(2)])
    assert optimiser.steps == 4
    assert_same_weights(halves, whole, rtol=1e-5, atol=1e-6)


def test_a_fit_that_was_taken_up_again_is_the_uninterrupted_one_bit_for_bit():
    data = batches(7)
    whole = network()
    mean = fit(whole, PLAN, data).averaged()
    first = network()
    before = fit(first, PLAN, data[:3])
    kept = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    again = copy.deepcopy(first)
    optimiser = Optimiser(again, PLAN)
    optimiser.load_state_dict(kept)
    for batch in data[3:]:
        optimiser.backward(loss_of(again, batch))
    assert_same_weights(again, whole)
    assert optimiser.steps == 7
    for name, tensor in optimiser.averaged().items():
        assert torch.equal(tensor, mean[name])


def test_the_mean_of_weights_lags_behind_them_and_is_them_where_none_is_kept():
    module, data = network(), batches(1)
    start = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    mean = fit(module, PLAN, data).averaged()
    name = "0.weight"
    weight = dict(module.named_parameters())[name].detach()
    torch.testing.assert_close(mean[name], start[name] + 9 / 11 * (weight - start[name]))
    plain = Optimiser(module, Optimisation(learning_rate=0.1, n_steps=1)).averaged()
    assert torch.equal(plain[name], weight)


def test_a_gradient_is_clipped_so_that_its_size_beyond_the_norm_does_not_matter():
    small, large = network(), network()
    plan = Optimisation(learning_rate=0.1, n_steps=2, clip=1e-3)
    # Adam alone forgives a gradient that is always too large, but not one that was so once.
    for module, first in ((small, 10), (large, 10_000)):
        optimiser = Optimiser(module, plan)
        for batch, factor in zip(batches(2), (first, 10), strict=True):
            optimiser.backward(factor * loss_of(module, batch))
    assert_same_weights(small, large, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_is_refused_in_words():
    module = network()
    with pytest.raises(TrainingError, match="not finite at update 0"):
        Optimiser(module, PLAN).backward(loss_of(module, batches(1)[0]) * torch.inf)
    with pytest.raises(TrainingError, match="warm_up must lie below n_steps"):
        Optimisation(learning_rate=0.1, n_steps=3, warm_up=3)
    with pytest.raises(TrainingError, match="no parameter is called 'nowhere'"):
        Optimiser(module, PLAN, scales={"nowhere": 0.5})
    halfway = Optimiser(module, Optimisation(learning_rate=0.1, n_steps=2, accumulate=2))
    halfway.backward(loss_of(module, batches(1)[0]))
    with pytest.raises(TrainingError, match="middle of an update"):
        halfway.state_dict()
    with pytest.raises(TrainingError, match=r"not those of this network, such as .*mean"):
        Optimiser(module, PLAN).load_state_dict({"steps": torch.tensor(0)})
