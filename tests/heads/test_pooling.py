"""Poolings on packed bags against the same written bag by bag."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from storm_clinic.heads.branch_attention import BranchAttention
from storm_clinic.heads.latent_transformer import LatentTransformer
from storm_clinic.heads.pooling import (
    GatedAttention,
    MaxPooling,
    MeanPooling,
    TopAttention,
)
from storm_clinic.heads.segments import Segments

SIZES = torch.tensor([3, 1, 0, 12, 30])
WIDTH = 8


@pytest.fixture
def hidden() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(int(SIZES.sum()), WIDTH, generator=generator, dtype=torch.float64).relu()


def bags(values: torch.Tensor) -> list[torch.Tensor]:
    return list(values.split(SIZES.tolist()))


def drawn(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return module.double()


def test_softmax_sums_and_maxima_are_those_of_each_bag_alone():
    scores = torch.randn(46, 2, generator=torch.Generator().manual_seed(3)) * 300
    segments = Segments(SIZES)
    for found, of_bag in (
        (segments.softmax(scores).split(SIZES.tolist()), lambda b: b.softmax(0)),
        (segments.sum(scores), lambda b: b.sum(0)),
        (segments.max(scores), lambda b: b.amax(0) if len(b) else torch.zeros(2)),
        (segments.mean(scores), lambda b: b.mean(0) if len(b) else torch.zeros(2)),
    ):
        for one, bag in zip(found, bags(scores), strict=True):
            torch.testing.assert_close(one, of_bag(bag), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_the_highest_rows_are_those_that_sorting_each_bag_gives(n):
    scores = torch.randn(46, generator=torch.Generator().manual_seed(4))
    rows, start = [], 0
    for bag in bags(scores):
        rows += sorted((torch.argsort(bag, descending=True)[:n] + start).tolist())
        start += len(bag)
    segments = Segments(SIZES)
    found = segments.highest(scores, n)
    assert found.tolist() == rows
    assert segments.taken(found).sizes.tolist() == SIZES.clamp(max=n).tolist()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_of_tiles_that_tie_for_a_maximum_the_first_has_the_whole_gradient(sign):
    values = torch.tensor([[1.0], [3.0], [3.0], [3.0], [2.0], [2.0]], requires_grad=True)
    (sign * Segments(torch.tensor([4, 0, 2])).max(values)).sum().backward()
    assert values.grad.ravel().tolist() == [0, sign, 0, 0, sign, 0]


def gated(module, bag: torch.Tensor) -> torch.Tensor:
    content, gate = module.content_and_gate(bag).chunk(2, dim=1)
    return module.score(torch.tanh(content) * torch.sigmoid(gate))


def test_mean_and_max_are_those_of_each_bag_and_nothing_of_none(hidden):
    segments = Segments(SIZES)
    for module, of_bag in (
        (MeanPooling(8), lambda b: b.mean(0)),
        (MaxPooling(8), lambda b: b.amax(0)),
    ):
        found = module(hidden, segments, None).vector
        for one, bag in zip(found, bags(hidden), strict=True):
            torch.testing.assert_close(one, of_bag(bag) if len(bag) else torch.zeros(8).double())


def test_attention_is_the_formula_of_ilse_bag_by_bag(hidden):
    module = drawn(GatedAttention(WIDTH, 4))
    pooled = module(hidden, Segments(SIZES), None)
    for one, bag in zip(pooled.vector, bags(hidden), strict=True):
        weights = gated(module.scores, bag).softmax(0)
        torch.testing.assert_close(one, (weights * bag).sum(0))


def test_top_attention_looks_at_the_highest_tiles_only(hidden):
    module = drawn(TopAttention(WIDTH, 4, n_top=5))
    pooled = module(hidden, Segments(SIZES), None)
    for one, weights, bag in zip(pooled.vector, bags(pooled.weights), bags(hidden), strict=True):
        scores = gated(module.scores, bag)[:, 0]
        kept = torch.argsort(scores, descending=True)[:5]
        expected = (scores[kept].softmax(0)[:, None] * bag[kept]).sum(0)
        torch.testing.assert_close(one, expected)
        assert (weights > 0).sum() == min(5, len(bag))
    pooled.vector.sum().backward()
    assert module.scores.score.weight.grad.abs().sum() > 0


def test_branches_are_attentions_of_their_own(hidden):
    module = drawn(BranchAttention(WIDTH, 4, n_branches=3))
    pooled = module(hidden, Segments(SIZES), None)
    for one, bag in zip(pooled.vector, bags(hidden), strict=True):
        weights = gated(module.scores, bag).softmax(0)
        expected = torch.cat([(weights[:, [b]] * bag).sum(0) for b in range(3)])
        torch.testing.assert_close(one, expected)


def test_instance_loss_is_cross_entropy_of_each_bags_ends(hidden):
    module = drawn(BranchAttention(WIDTH, 4, n_branches=3))
    segments = Segments(SIZES)
    pooled = module(hidden, segments, None)
    branch = torch.tensor([2, 0, 1, -1, 1])  # the fourth speaks for none, the third has no tile
    expected = 0.0
    for bag, weights, own in zip(bags(hidden), bags(pooled.weights), branch.tolist(), strict=True):
        n = min(8, len(bag) // 2)
        if own < 0 or n == 0:
            continue
        order = torch.argsort(weights[:, own], descending=True).tolist()
        p = torch.sigmoid(module.instance(bag)[:, own]).tolist()
        terms = [-math.log(p[i]) for i in order[:n]] + [-math.log(1 - p[i]) for i in order[-n:]]
        expected += float(np.mean(terms))
    found = module.instance_loss(hidden, segments, pooled, branch)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def places() -> torch.Tensor:
    return torch.randn(46, 2, generator=torch.Generator().manual_seed(5)).double() * 3000


def test_the_transformer_reads_each_bag_as_if_it_were_alone(hidden):
    module = drawn(LatentTransformer(WIDTH, 3))
    together = module(hidden, Segments(SIZES), places())
    for at, (bag, where) in enumerate(zip(bags(hidden), bags(places()), strict=True)):
        alone = module(bag, Segments(torch.tensor([len(bag)])), where)
        torch.testing.assert_close(together.vector[at], alone.vector[0])
        assert alone.weights.sum().item() == pytest.approx(1.0 if len(bag) else 0.0)


def test_the_transformer_knows_where_tiles_lie_and_only_if_told(hidden):
    module = drawn(LatentTransformer(WIDTH, 3))
    segments = Segments(SIZES)
    moved = places().flip(0)
    here, there = (module(hidden, segments, where).vector for where in (places(), moved))
    assert (here - there).abs().max() > 1e-3
    unknown = module(hidden, segments, None).vector
    assert (here - unknown).abs().max() > 1e-3


def test_an_empty_bag_gives_finite_gradients(hidden):
    for module in (
        MaxPooling(WIDTH),
        drawn(GatedAttention(WIDTH, 4)),
        drawn(TopAttention(WIDTH, 4, 2)),
        drawn(BranchAttention(WIDTH, 4, 2)),
        drawn(LatentTransformer(WIDTH, 2)),
    ):
        tiles = hidden.clone().requires_grad_()
        module(tiles, Segments(SIZES), None).vector.square().sum().backward()
        assert torch.isfinite(tiles.grad).all()
        none = torch.empty(0, WIDTH).double()
        alone = module(none, Segments(torch.tensor([0, 0])), None).vector
        assert torch.isfinite(alone).all()


def test_shares_of_a_transformer_are_summed_exactly_where_products_are_rounded():
    module = drawn(LatentTransformer(WIDTH, 3)).float()
    hidden = torch.randn(20_000, WIDTH, generator=torch.Generator().manual_seed(5))
    segments = Segments(torch.tensor([20_000]))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        _, shares = module.read(hidden, segments, None)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(3), rtol=0, atol=1e-4)
