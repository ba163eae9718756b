"""Networks on packed bags: poolings, exact gradients, steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import InputError, TrainingError
from storm_clinic.heads.attention import Segments
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.network import TileNetwork
from storm_clinic.heads.objectives import objective_for
from storm_clinic.heads.tile_batches import TileBatches
from storm_clinic.heads.training import accumulate_gradient, outputs_of, train


def network_for(sample, *, pooling="attention", n_clinical=2, n_outputs=1, seed=0) -> TileNetwork:
    network = TileNetwork(
        pooling,
        width=sample.data.bags.width,
        n_clinical=n_clinical,
        n_outputs=n_outputs,
        n_hidden=8,
        n_attention=4,
        seed=seed,
    )
    return network.double()


def batches_of(sample, tile_budget: int, resident_bytes: int = 1 << 30) -> TileBatches:
    bags = sample.data.bags
    centre, scale = bags.tile_moments()
    return TileBatches(
        bags,
        centre,
        scale,
        dtype=np.float64,
        tile_budget=tile_budget,
        resident_bytes=resident_bytes,
    )


def extras(sample) -> tuple[torch.Tensor, torch.Tensor]:
    """A clinical block and a dropout mask."""
    generator = torch.Generator().manual_seed(3)
    n = len(sample.data)
    clinical = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    mask = (torch.rand(n, 8, generator=generator) > 0.25).double() / 0.75
    return clinical, mask


def gradients(network: TileNetwork) -> torch.Tensor:
    return torch.cat([parameter.grad.ravel() for parameter in network.parameters()])


def one_shot_loss(network, sample, clinical, mask) -> torch.Tensor:
    """Efron's loss of the whole cohort written in torch, differentiated by torch alone."""
    (batch,) = batches_of(sample, 10**9)
    risk = network(batch.tiles, batch.segments, clinical, mask)[:, 0]
    time = torch.from_numpy(sample.outcome.time_months)
    event = torch.from_numpy(sample.outcome.event)
    total = risk.new_zeros(())
    for at in torch.unique(time[event]):
        died = (time == at) & event
        share = torch.arange(int(died.sum()), dtype=torch.float64) / died.sum()
        whole, part = risk[time >= at].exp().sum(), risk[died].exp().sum()
        total = total + torch.log(whole - share * part).sum() - risk[died].sum()
    return total / event.sum()


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize(
    ("tile_budget", "kept_tiles", "resident_bytes"),
    [(10**9, 10**9, 1 << 30), (20, 10**9, 1 << 30), (20, 0, 1 << 30), (1, 0, 0)],
)
def test_gradient_over_micro_batches_is_that_of_the_whole_cohort(
    simulated, pooling, tile_budget, kept_tiles, resident_bytes
):
    sample = simulated(0)
    clinical, mask = extras(sample)
    whole = network_for(sample, pooling=pooling)
    expected = one_shot_loss(whole, sample, clinical, mask)
    expected.backward()
    parts = network_for(sample, pooling=pooling)
    loss = accumulate_gradient(
        parts,
        batches_of(sample, tile_budget, resident_bytes),
        clinical,
        mask,
        objective_for(sample.outcome),
        kept_tiles=kept_tiles,
    )
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("outcome", "n_levels"), [("survival", 2), ("classes", 2), ("classes", 3)])
def test_gradient_is_that_of_finite_differences(simulated, outcome, n_levels):
    sample = simulated(1, outcome=outcome, n_levels=n_levels)
    clinical, mask = extras(sample)
    network = network_for(sample, n_outputs=n_levels - 1)
    batches, objective = batches_of(sample, 30), objective_for(sample.outcome)
    accumulate_gradient(network, batches, clinical, mask, objective, kept_tiles=0)
    for name, parameter in network.named_parameters():
        exact, numeric = parameter.grad.ravel(), []
        for at in range(0, parameter.numel(), max(1, parameter.numel() // 5)):
            sides = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[at] += step
                loss, _ = objective.loss(
                    torch.cat(
                        [
                            network(b.tiles, b.segments, clinical[b.patients], mask[b.patients])
                            for b in batches
                        ]
                    )
                    .detach()
                    .numpy()
                )
                sides.append(loss)
                with torch.no_grad():
                    parameter.view(-1)[at] -= step
            numeric.append((at, (sides[0] - sides[1]) / 2e-6))
        for at, slope in numeric:
            assert exact[at].item() == pytest.approx(slope, abs=1e-7), name


def test_activations_of_a_large_cohort_are_never_held_together(simulated, monkeypatch):
    sample = simulated(2)
    alive, most = set(), 0

    class Watched(torch.autograd.Function):
        """Counts tiles whose activations wait for a backward pass."""

        @staticmethod
        def forward(ctx, hidden):
            nonlocal most
            ctx.n = len(hidden)
            alive.add(id(ctx))
            waiting[id(ctx)] = len(hidden)
            most = max(most, sum(waiting.values()))
            return hidden.clone()

        @staticmethod
        def backward(ctx, gradient):
            waiting.pop(id(ctx), None)
            return gradient

    waiting: dict[int, int] = {}
    network = network_for(sample)
    pool = network.pool
    monkeypatch.setattr(
        network,
        "pool",
        lambda tiles, segments: pool(
            Watched.apply(tiles.requires_grad_()) if torch.is_grad_enabled() else tiles, segments
        ),
    )
    clinical, mask = extras(sample)
    batches = batches_of(sample, 20)
    accumulate_gradient(
        network, batches, clinical, mask, objective_for(sample.outcome), kept_tiles=0
    )
    assert batches.n_tiles > 200
    assert most <= 20


def test_segment_softmax_is_the_softmax_of_each_bag_alone():
    sizes = torch.tensor([3, 1, 5])
    scores = torch.tensor([1.0, 2.0, 3.0, 7.0, 0.0, 500.0, -500.0, 1.0, 2.0])
    weights = Segments(sizes).softmax(scores)
    expected = torch.cat([part.softmax(0) for part in scores.split(sizes.tolist())])
    torch.testing.assert_close(weights, expected)


def test_a_bag_larger_than_the_budget_is_a_batch_of_its_own():
    rng = np.random.default_rng(0)
    bags = Bags.from_arrays([rng.normal(size=(n, 4)) for n in (5, 50_000, 3)])
    batches = TileBatches(bags, np.zeros(4), np.ones(4), tile_budget=100)
    assert [len(batch.tiles) for batch in batches] == [5, 50_000, 3]
    outcome = Survival.from_arrays([1.0, 2.0, 3.0], [1, 1, 0])
    network = TileNetwork(
        "attention", width=4, n_clinical=0, n_outputs=1, n_hidden=8, n_attention=4, seed=0
    )
    loss = accumulate_gradient(
        network, batches, torch.zeros(3, 0), None, objective_for(outcome), kept_tiles=0
    )
    assert np.isfinite(loss)


def test_tiles_that_are_read_anew_equal_tiles_that_are_held(simulated):
    sample = simulated(3)
    held, read = batches_of(sample, 25), batches_of(sample, 25, resident_bytes=0)
    for _ in range(2):
        for one, other in zip(held, read, strict=True):
            assert torch.equal(one.tiles, other.tiles)


def test_steps_repeat_under_a_seed_and_differ_under_another(simulated):
    sample = simulated(4)

    def losses(seed: int) -> list[float]:
        network = network_for(sample).float()
        bags = sample.data.bags
        batches = TileBatches(bags, *bags.tile_moments())
        steps = train(
            network,
            batches,
            extras(sample)[0].float(),
            objective_for(sample.outcome),
            learning_rate=1e-2,
            weight_decay=0.0,
            dropout=0.5,
            seed=seed,
        )
        return [loss for _, loss in zip(range(5), steps, strict=False)]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_training_leaves_torchs_own_random_numbers_and_threads_alone(simulated):
    sample = simulated(5)
    torch.manual_seed(0)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(0)
    network = network_for(sample)
    outputs_of(network, batches_of(sample, 50), extras(sample)[0])
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_network_that_ran_away_is_reported(simulated):
    sample = simulated(6)
    network = network_for(sample)
    with torch.no_grad():
        network.from_image.bias.fill_(float("inf"))
    with pytest.raises(TrainingError, match=r"no longer finite.*learning_rate"):
        accumulate_gradient(
            network,
            batches_of(sample, 50),
            extras(sample)[0],
            None,
            objective_for(sample.outcome),
        )


def test_weights_of_another_network_are_refused(simulated):
    network = network_for(simulated(7))
    arrays = network.arrays()
    del arrays["tile.bias"]
    with pytest.raises(InputError, match=r"(?s)do not fit the network.*tile\.bias"):
        network.load_arrays(arrays)
