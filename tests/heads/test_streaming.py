"""Bags that are too large to be held: the same numbers as from the whole bag, a chunk at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.heads import network_head, patient_batches, tile_tensors
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Recipe, Sample
from storm_clinic.heads.network import Architecture, StepDraws, TileNetwork
from storm_clinic.heads.network_inputs import Encoded, NetworkInputs
from storm_clinic.heads.objectives import ClassObjective, CoxObjective
from storm_clinic.heads.patient_batches import PatientBatches
from storm_clinic.heads.training import Schedule, Step, accumulate_gradient, outputs_of
from storm_clinic.heads.zoo import find

SIZES = (5, 203, 3, 60)
CHUNK = 32
STREAMING = ("mean", "attention", "evidence")


@pytest.fixture
def data() -> PatientData:
    rng = np.random.default_rng(0)
    bags = Bags.from_arrays([rng.normal(2, 3, size=(n, 6)).astype(np.float16) for n in SIZES])
    return PatientData(tuple("abcd"), bags)


@pytest.fixture
def encoded(data) -> Encoded:
    return NetworkInputs.fit(data, ("image",), 4).encode(data)


@pytest.fixture
def objective() -> CoxObjective:
    return CoxObjective(Survival.from_arrays([4.0, 2.0, 3.0, 1.0], [1, 1, 0, 1]))


def network_with(pooling: str, fusion: str = "late") -> TileNetwork:
    plan = Architecture(
        pooling=pooling,
        fusion=fusion,
        tiles={"image": 6},
        tables={},
        n_clinical=0,
        shared=(False,),
        n_branches=2,
        n_hidden=8,
        n_attention=4,
        n_top=3,
        n_latents=2,
    )
    network = TileNetwork(plan, seed=1).double()
    with torch.no_grad():  # sharp attention: scores that differ by more than rounding hides
        for parameter in network.parameters():
            parameter.mul_(3).add_(0.1)
    return network


def batches_of(encoded, *, streamed: bool, **options) -> PatientBatches:
    return PatientBatches(
        encoded,
        dtype=np.float64,
        tile_budget=CHUNK,
        streamed_tiles=CHUNK if streamed else None,
        **options,
    )


def gradient_of(network, batches, objective, schedule=None, seed=0) -> tuple[float, torch.Tensor]:
    network.zero_grad()
    schedule = schedule or Schedule(learning_rate=0.01, weight_decay=0.0)
    dropout = {"image": torch.linspace(0.5, 1.5, 4, dtype=network.bias.dtype)[:, None]}
    step = Step(StepDraws(dropout, {}), seed)
    loss = accumulate_gradient(network, batches, step, objective, schedule, kept_tiles=0)
    found = [p.grad.ravel() for p in network.parameters() if p.grad is not None]
    return loss, torch.cat(found)


@pytest.mark.parametrize("fusion", ["late", "early"])
@pytest.mark.parametrize("pooling", STREAMING)
def test_gradient_through_a_stream_is_that_of_the_whole_bag(encoded, objective, pooling, fusion):
    network = network_with(pooling, fusion)
    assert network.can_stream
    streams = batches_of(encoded, streamed=True)
    kinds = ["image" in batch.streams for batch in streams]
    assert kinds == [size > CHUNK for size in SIZES]
    loss, gradient = gradient_of(network, streams, objective)
    whole, expected = gradient_of(network, batches_of(encoded, streamed=False), objective)
    assert loss == pytest.approx(whole, rel=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-13)


def test_a_stream_never_holds_more_than_a_chunk(encoded, objective, monkeypatch):
    made, form = [], tile_tensors.TileForm.tensor

    def watched(self, values, *, reused=False):
        tensor = form(self, values, reused=reused)
        made.append((len(values), tensor.data_ptr(), reused))
        return tensor

    monkeypatch.setattr(tile_tensors.TileForm, "tensor", watched)
    batches = batches_of(encoded, streamed=True, resident_bytes=0)
    gradient_of(network_with("attention"), batches, objective)
    assert max(size for size, _, _ in made) == CHUNK
    assert all(reused for _, _, reused in made)
    # Whoever has seen 203 tiles by chunks of 32 has used one piece of memory for all of them.
    assert len({place for size, place, _ in made if size == CHUNK}) == 1


def test_bfloat16_products_are_taken_in_both_passes_over_a_stream(encoded, objective):
    network = network_with("attention").float()
    schedule = Schedule(learning_rate=0.01, weight_decay=0.0, bfloat16=True)
    found = {}
    for streamed in (CHUNK, None):
        batches = PatientBatches(encoded, tile_budget=CHUNK, bfloat16=True, streamed_tiles=streamed)
        found[streamed] = gradient_of(network, batches, objective, schedule)
    torch.testing.assert_close(found[CHUNK][1], found[None][1], rtol=0.05, atol=2e-3)
    exact = gradient_of(network, PatientBatches(encoded, tile_budget=CHUNK), objective)[1]
    assert not torch.allclose(found[CHUNK][1], exact, rtol=1e-6)


@pytest.mark.parametrize("pooling", ["max", "top", "clam", "transformer"])
def test_poolings_that_look_at_a_bag_as_a_whole_are_given_it_whole(pooling):
    assert not network_with(pooling).can_stream
    assert not network_with("attention", fusion="cross").can_stream


def test_tiles_drawn_from_a_stream_are_those_drawn_from_the_whole_bag(encoded, objective):
    schedule = Schedule(learning_rate=0.01, weight_decay=0.0, most_tiles=9)
    network = network_with("attention")
    few = gradient_of(network, batches_of(encoded, streamed=True), objective, schedule)
    whole = gradient_of(network, batches_of(encoded, streamed=False), objective, schedule)
    assert few[0] == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(few[1], whole[1], rtol=1e-9, atol=1e-13)


def test_noise_on_a_stream_is_the_same_in_every_look_and_another_under_another_seed(encoded):
    (stream,) = [
        batch.streams["image"]
        for batch in batches_of(encoded, streamed=True)
        if batch.rows.start == 1
    ]

    def read(seed: int) -> torch.Tensor:
        noisy = stream.with_noise(0.5, torch.Generator().manual_seed(seed))
        looks = [torch.cat([chunk.clone() for chunk in noisy.chunks()]) for _ in range(2)]
        assert torch.equal(*looks)
        return looks[0]

    plain = torch.cat([chunk.clone() for chunk in stream.chunks()])
    assert (read(0) - plain).std().item() == pytest.approx(0.5, rel=0.1)
    assert not torch.equal(read(0), read(1))


def test_a_model_predicts_from_streams_what_it_predicts_from_whole_bags(data, monkeypatch):
    outcome = Survival.from_arrays([4.0, 2.0, 3.0, 1.0], [1, 1, 0, 1])
    head = find("attention-cox")
    settings = {name: option.default for name, option in head.options.items()}
    recipe = Recipe(("image",), settings, (), 0)
    stage = next(iter(head.path(Sample(data, outcome), recipe)))
    model = stage.finish()
    whole = model.predict(data).risk
    monkeypatch.setattr(patient_batches, "STREAMED_TILES", CHUNK)
    looked = []
    monkeypatch.setattr(
        network_head,
        "_read_once",
        lambda encoded, network: (
            looked.append(
                PatientBatches(
                    encoded,
                    resident_bytes=0,
                    tile_budget=CHUNK,
                    streamed_tiles=network_head._streamed_tiles(network),
                )
            )
            or looked[-1]
        ),
    )
    np.testing.assert_allclose(model.predict(data).risk, whole, rtol=1e-5)
    assert "image" in list(looked[0])[1].streams


def test_a_separable_loss_reads_every_tile_once_and_a_coupled_one_twice(encoded, monkeypatch):
    n_read, form = 0, tile_tensors.TileForm.tensor

    def counted(self, values, *, reused=False):
        nonlocal n_read
        n_read += len(values)
        return form(self, values, reused=reused)

    monkeypatch.setattr(tile_tensors.TileForm, "tensor", counted)
    separable = ClassObjective(Classes(np.array([0, 1, 0, 1]), ("no", "yes")))
    coupled = CoxObjective(Survival.from_arrays([4.0, 2.0, 3.0, 1.0], [1, 1, 0, 1]))
    for objective, looks in ((separable, 1), (coupled, 2)):
        n_read = 0
        batches = batches_of(encoded, streamed=False, resident_bytes=0)
        gradient_of(network_with("attention"), batches, objective)
        assert n_read == looks * sum(SIZES)


def test_batches_that_pass_share_memory_and_batches_that_are_kept_do_not(encoded):
    batches = batches_of(encoded, streamed=False, resident_bytes=0)
    passing = {batch.tiles["image"].values.data_ptr() for batch in batches.passing()}
    assert len(passing) < len(batches.rows)
    kept = list(batches)
    network = network_with("attention")
    expected = np.concatenate([network(batch)[0].detach().numpy() for batch in kept])
    np.testing.assert_array_equal(outputs_of(network, batches), expected)


def test_long_bags_are_summed_as_short_ones_are(monkeypatch):
    from storm_clinic.heads import segments

    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(500, generator=rng, dtype=torch.float64, requires_grad=True)
    values = torch.randn(500, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    whose = segments.Segments(torch.tensor([300, 0, 199, 1]))
    found = []
    for long in (1, 10**9):
        monkeypatch.setattr(segments, "_LONG_BAG", long)
        summed = whose.weighted_sum(weights, values)
        found.append((summed, *torch.autograd.grad(summed.sin().sum(), (weights, values))))
    for product, scattered in zip(*found, strict=True):
        torch.testing.assert_close(product, scattered, rtol=1e-12, atol=1e-13)
