"""Networks on packed bags: poolings, exact gradients, steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import InputError, TrainingError
from storm_clinic.heads.architecture import Architecture
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Recipe
from storm_clinic.heads.network import StepDraws, TileNetwork
from storm_clinic.heads.network_head import POOLINGS
from storm_clinic.heads.network_inputs import Encoded, NetworkInputs
from storm_clinic.heads.objectives import OBJECTIVES, CoxObjective
from storm_clinic.heads.patient_batches import PatientBatches
from storm_clinic.heads.training import (
    Schedule,
    Step,
    _draw,
    accumulate_gradient,
    outputs_of,
    train,
)

DTYPE = np.float64
PLAIN = Schedule(learning_rate=1e-2, weight_decay=0.0)


def encoded_of(sample, inputs=("image", "clinical")) -> Encoded:
    return NetworkInputs.fit(sample.data, inputs, 4).encode(sample.data)


def network_for(
    encoded, *, pooling="attention", fusion="late", outputs=1, branches=2, seed=0
) -> TileNetwork:
    widths = {name: bags.width for name, (bags, _) in encoded.tiles.items()}
    architecture = Architecture(
        pooling=pooling,
        fusion=fusion,
        tiles=widths,
        tables={name: table.shape[1] for name, table in encoded.tables.items()},
        n_clinical=encoded.clinical.shape[1],
        shared=(False,) * outputs,
        n_branches=branches,
        n_hidden=8,
        n_attention=4,
        n_top=3,
        n_latents=2,
    )
    network = TileNetwork(architecture, seed).double()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():  # readouts and absences start at or near 0, where they hide mistakes
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def batches_of(encoded, tile_budget: int, resident_bytes: int = 1 << 30) -> PatientBatches:
    return PatientBatches(
        encoded, dtype=DTYPE, tile_budget=tile_budget, resident_bytes=resident_bytes
    )


def step_of(network, n: int) -> Step:
    """Dropout and hidden inputs of one step."""
    generator = torch.Generator().manual_seed(3)
    dropout = {
        name: (torch.rand(n, size, generator=generator) > 0.25).double() / 0.75
        for name, size in network.vector_sizes.items()
    }
    kept = {name: torch.rand(n, generator=generator) > 0.2 for name in network.vector_sizes}
    return Step(StepDraws(dropout, kept), 0)


def gradients(network: TileNetwork) -> torch.Tensor:
    # An instance classifier whose loss has no weight is never touched.
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in network.parameters()]
    return torch.cat([gradient.ravel() for gradient in found])


def one_shot_loss(network, encoded, outcome, step) -> torch.Tensor:
    """Efron's loss of the whole cohort written in torch, differentiated by torch alone."""
    (batch,) = batches_of(encoded, 10**9)
    risk = network(batch, step.draws)[0][:, 0]
    time = torch.from_numpy(outcome.time_months)
    event = torch.from_numpy(outcome.event)
    total = risk.new_zeros(())
    for at in torch.unique(time[event]):
        died = (time == at) & event
        share = torch.arange(int(died.sum()), dtype=torch.float64) / died.sum()
        whole, part = risk[time >= at].exp().sum(), risk[died].exp().sum()
        total = total + torch.log(whole - share * part).sum() - risk[died].sum()
    return total / event.sum()


@pytest.mark.parametrize("pooling", list(POOLINGS))
@pytest.mark.parametrize(
    ("fusion", "tile_budget", "kept_tiles", "resident_bytes"),
    [
        ("late", 20, 10**9, 1 << 30),
        ("late", 20, 0, 1 << 30),
        ("early", 20, 0, 1 << 30),
        ("cross", 20, 0, 1 << 30),
        ("cross", 1, 0, 0),
    ],
)
def test_gradient_over_micro_batches_is_that_of_the_whole_cohort(
    simulated, pooling, fusion, tile_budget, kept_tiles, resident_bytes
):
    sample = simulated(0)
    encoded = encoded_of(sample, ("image", "rna", "clinical"))
    whole = network_for(encoded, pooling=pooling, fusion=fusion)
    step = step_of(whole, len(encoded))
    expected = one_shot_loss(whole, encoded, sample.outcome, step)
    expected.backward()
    parts = network_for(encoded, pooling=pooling, fusion=fusion)
    loss = accumulate_gradient(
        parts,
        batches_of(encoded, tile_budget, resident_bytes),
        step,
        CoxObjective(sample.outcome),
        PLAIN,
        kept_tiles=kept_tiles,
    )
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=1e-6, atol=1e-12)


OUTCOMES = [
    ("cox", "survival", 2),
    ("hazard", "survival", 2),
    ("hazard", "competing", 2),
    ("weibull", "survival", 2),
    ("deephit", "survival", 2),
    ("deephit", "competing", 2),
    ("classes", "classes", 2),
    ("classes", "classes", 3),
]


@pytest.mark.parametrize("pooling", ["attention", "clam", "evidence"])
@pytest.mark.parametrize(("name", "outcome", "n_levels"), OUTCOMES)
def test_gradient_is_that_of_finite_differences(simulated, pooling, name, outcome, n_levels):
    sample = simulated(1, outcome=outcome, n_levels=n_levels)
    (kind,) = [kind for kind in OBJECTIVES if kind.name == name]
    settings = {option: value.default for option, value in kind.options.items()}
    objective = kind.build(sample.outcome, Recipe((), settings, (), 0))
    encoded = encoded_of(sample)
    network = network_for(
        encoded,
        pooling=pooling,
        outputs=objective.n_outputs,
        branches=objective.n_branches,
    )
    schedule = Schedule(learning_rate=1e-2, weight_decay=0.0, instance_weight=0.5)
    batches, step = batches_of(encoded, 30), step_of(network, len(encoded))

    def loss_now() -> float:
        network.zero_grad()
        return accumulate_gradient(network, batches, step, objective, schedule, kept_tiles=0)

    rng = np.random.default_rng(3)
    loss_now()
    exact = {n: p.grad.clone().ravel() for n, p in network.named_parameters() if p.grad is not None}
    for label, parameter in network.named_parameters():
        if label not in exact:  # a readout of an input that this network does not have
            continue
        # One random direction moves every coordinate at once.
        direction = torch.from_numpy(rng.normal(size=tuple(parameter.shape))).to(parameter)
        direction /= direction.norm()
        before, sides = parameter.detach().clone(), []
        for step_size in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.copy_(before + step_size * direction)
            sides.append(loss_now())
        with torch.no_grad():
            parameter.copy_(before)
        assert (exact[label] @ direction.ravel()).item() == pytest.approx(
            (sides[0] - sides[1]) / 2e-6, abs=2e-7
        ), label


def test_activations_of_a_large_cohort_are_never_held_together(simulated, monkeypatch):
    sample = simulated(2)
    most = 0

    class Watched(torch.autograd.Function):
        """Counts tiles whose activations wait for a backward pass."""

        @staticmethod
        def forward(ctx, hidden):
            nonlocal most
            waiting[id(ctx)] = len(hidden)
            most = max(most, sum(waiting.values()))
            return hidden.clone()

        @staticmethod
        def backward(ctx, gradient):
            waiting.pop(id(ctx), None)
            return gradient

    waiting: dict[int, int] = {}
    encoded = encoded_of(sample)
    network = network_for(encoded)
    linear = network.tile["image"].forward
    monkeypatch.setattr(
        network.tile["image"],
        "forward",
        lambda tiles: Watched.apply(linear(tiles)) if torch.is_grad_enabled() else linear(tiles),
    )
    batches = batches_of(encoded, 20)
    step = step_of(network, len(encoded))
    objective = CoxObjective(sample.outcome)
    accumulate_gradient(network, batches, step, objective, PLAIN, kept_tiles=0)
    assert batches.n_tiles > 200
    assert 0 < most <= 20


def test_a_bag_larger_than_the_budget_is_a_batch_of_its_own():
    rng = np.random.default_rng(0)
    bags = Bags.from_arrays([rng.normal(size=(n, 4)) for n in (5, 50_000, 3)])
    data = PatientData(("a", "b", "c"), bags)
    encoded = NetworkInputs.fit(data, ("image",), 4).encode(data)
    batches = PatientBatches(encoded, dtype=DTYPE, tile_budget=100)
    assert [len(batch.tiles["image"].values) for batch in batches] == [5, 50_000, 3]
    objective = CoxObjective(Survival.from_arrays([1.0, 2.0, 3.0], [1, 1, 0]))
    network = network_for(encoded)
    step = Step(StepDraws({}, {}), 0)
    loss = accumulate_gradient(network, batches, step, objective, PLAIN, kept_tiles=0)
    assert np.isfinite(loss)


def test_tiles_that_are_read_anew_equal_tiles_that_are_held(simulated):
    encoded = encoded_of(simulated(3))
    held, read = batches_of(encoded, 25), batches_of(encoded, 25, resident_bytes=0)
    for _ in range(2):
        for one, other in zip(held, read, strict=True):
            assert torch.equal(one.tiles["image"].values, other.tiles["image"].values)


def losses(sample, schedule, seed=0, n=5) -> list[float]:
    encoded = encoded_of(sample)
    network = network_for(encoded).float()
    objective = CoxObjective(sample.outcome)
    steps = train(network, PatientBatches(encoded), objective, schedule, seed=seed)
    return [loss for _, loss in zip(range(n), steps, strict=False)]


CHANCE = [
    {"dropout": 0.5},
    {"modality_dropout": 0.5},
    {"most_tiles": 3},
    {"noise": 0.5},
]


@pytest.mark.parametrize("chance", CHANCE, ids=lambda c: next(iter(c)))
def test_steps_repeat_under_a_seed_and_differ_under_another(simulated, chance):
    sample, schedule = simulated(4), Schedule(learning_rate=1e-2, weight_decay=0.0, **chance)
    assert losses(sample, schedule) == losses(sample, schedule)
    assert losses(sample, schedule) != losses(sample, schedule, seed=1)
    assert losses(sample, schedule) != losses(sample, PLAIN)


def test_bfloat16_steps_are_close_to_those_in_float32(simulated):
    sample = simulated(4)
    rounded = losses(sample, Schedule(learning_rate=1e-2, weight_decay=0.0, bfloat16=True), n=10)
    exact = losses(sample, PLAIN, n=10)
    assert rounded != exact
    np.testing.assert_allclose(rounded, exact, rtol=0.02)


def test_a_thinned_bag_keeps_so_many_of_its_own_tiles(simulated):
    (batch,) = batches_of(encoded_of(simulated(4)), 10**9)
    tiles = batch.tiles["image"]
    few = tiles.thinned(4, 0.0, torch.Generator().manual_seed(0))
    assert few.segments.sizes.tolist() == tiles.segments.sizes.clamp(max=4).tolist()
    whole = tiles.values.split(tiles.segments.sizes.tolist())
    for own, kept in zip(whole, few.values.split(few.segments.sizes.tolist()), strict=True):
        rows = {tuple(row.tolist()) for row in own}
        assert len({tuple(row.tolist()) for row in kept} & rows) == len(kept)


def test_no_patient_is_shown_without_any_input(simulated):
    encoded = encoded_of(simulated(4), ("image", "rna"))
    network = network_for(encoded)
    schedule = Schedule(learning_rate=1e-2, weight_decay=0.0, modality_dropout=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        kept = _draw(network, PatientBatches(encoded), schedule, generator).draws.kept
        shown = [torch.from_numpy(encoded.present[name]) & who for name, who in kept.items()]
        assert torch.stack(shown).any(dim=0).all()
        assert not torch.stack(shown).all()


def test_training_leaves_torchs_own_random_numbers_and_threads_alone(simulated):
    sample = simulated(5)
    torch.manual_seed(0)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(0)
    encoded = encoded_of(sample)
    outputs_of(network_for(encoded), batches_of(encoded, 50))
    losses(sample, Schedule(learning_rate=1e-2, weight_decay=0.0, dropout=0.5, most_tiles=2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_network_that_ran_away_is_reported(simulated):
    sample = simulated(6)
    encoded = encoded_of(sample)
    network = network_for(encoded)
    with torch.no_grad():
        network.bias.fill_(float("inf"))
    step, objective = step_of(network, len(encoded)), CoxObjective(sample.outcome)
    with pytest.raises(TrainingError, match=r"no longer finite.*learning_rate"):
        accumulate_gradient(network, batches_of(encoded, 50), step, objective, PLAIN)


def test_weights_of_another_network_are_refused(simulated):
    network = network_for(encoded_of(simulated(7)))
    arrays = network.arrays()
    del arrays["tile.image.bias"]
    with pytest.raises(InputError, match=r"(?s)do not fit the network.*tile\.image\.bias"):
        network.load_arrays(arrays)
