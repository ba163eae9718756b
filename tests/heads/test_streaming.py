"""Bags that are too large to be held: the same numbers as from the whole bag, a chunk at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.heads import network_head, patient_batches, tile_tensors
from storm_clinic.heads.architecture import Architecture
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Recipe, Sample, attended_input
from storm_clinic.heads.network import StepDraws, TileNetwork
from storm_clinic.heads.network_inputs import Encoded, NetworkInputs, TileScale
from storm_clinic.heads.objectives import ClassObjective, CoxObjective
from storm_clinic.heads.patient_batches import PatientBatch, PatientBatches
from storm_clinic.heads.segments import Segments
from storm_clinic.heads.tile_tensors import TileTensors
from storm_clinic.heads.torchmil_pooling import PUBLISHED
from storm_clinic.heads.training import (
    Schedule,
    Step,
    accumulate_gradient,
    attention_of,
    outputs_of,
)
from storm_clinic.heads.zoo import find

SIZES = (5, 203, 3, 60)
CHUNK = 32
STREAMING = ("mean", "max", "attention", "top", "clam", "evidence", "transformer", "storm")
WEIGHTED = tuple(name for name in STREAMING if name not in ("mean", "max"))
FUSIONS = ("late", "early", "cross")
INPUTS = ("image", "virtual_expression", "rna", "clinical")
PLAIN = Schedule(learning_rate=0.01, weight_decay=0.0, instance_weight=0.5)


def bags_of(sizes, width: int) -> Bags:
    rng = np.random.default_rng(width)
    bags = [rng.normal(2, 3, size=(n, width)).astype(np.float16) for n in sizes]
    return Bags.from_arrays(
        bags, [rng.normal(0, 4000, size=(n, 2)).astype(np.float32) for n in sizes]
    )


@pytest.fixture
def data() -> PatientData:
    return PatientData(tuple("abcd"), bags_of(SIZES, 6))


@pytest.fixture
def joined() -> Encoded:
    """Two inputs of tiles, a table and covariates; some patients lack some of it."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(4, 3)), columns=["g1", "g2", "g3"])
    table.iloc[3] = np.nan
    data = PatientData(
        tuple("abcd"),
        bags_of(SIZES, 6),
        pd.DataFrame({"age": rng.normal(60, 5, size=4)}),
        virtual_expression=bags_of((0, 90, 4, 10), 3),
        tables={"rna": table},
    )
    return NetworkInputs.fit(data, INPUTS, 4).encode(data)


@pytest.fixture
def encoded(data) -> Encoded:
    return NetworkInputs.fit(data, ("image",), 4).encode(data)


@pytest.fixture
def objective() -> CoxObjective:
    return CoxObjective(Survival.from_arrays([4.0, 2.0, 3.0, 1.0], [1, 1, 0, 1]))


def network_with(
    pooling: str, fusion: str = "late", encoded: Encoded | None = None, *, gentle: bool = False
) -> TileNetwork:
    """A network of the image alone or of all that is encoded, with sharp weights if not gentle."""
    tiles = {"image": 6} if encoded is None else {n: b.width for n, (b, _) in encoded.tiles.items()}
    tables = {} if encoded is None else {n: t.shape[1] for n, t in encoded.tables.items()}
    plan = Architecture(
        pooling=pooling,
        fusion=fusion,
        tiles=tiles,
        tables=tables,
        n_clinical=0 if encoded is None else encoded.clinical.shape[1],
        shared=(False,),
        n_branches=2,
        n_hidden=8,
        n_attention=4,
        n_top=3,
        n_latents=2,
    )
    network = TileNetwork(plan, seed=1).double()
    if gentle:
        return network
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


def gradient_of(
    network, batches, objective, schedule=PLAIN, seed=0
) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and the gradient of each parameter that has one."""
    network.zero_grad()
    dropout = {"image": torch.linspace(0.5, 1.5, 4, dtype=network.bias.dtype)[:, None]}
    step = Step(StepDraws(dropout, {}), seed)
    loss = accumulate_gradient(network, batches, step, objective, schedule, kept_tiles=0)
    return loss, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def assert_streams_are_as_whole(network, encoded, objective, schedule=PLAIN) -> None:
    loss, gradient = gradient_of(network, batches_of(encoded, streamed=True), objective, schedule)
    whole = batches_of(encoded, streamed=False)
    expected_loss, expected = gradient_of(network, whole, objective, schedule)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("fusion", ["late", "early"])
@pytest.mark.parametrize("pooling", STREAMING)
def test_gradient_through_a_stream_is_that_of_the_whole_bag(encoded, objective, pooling, fusion):
    network = network_with(pooling, fusion)
    assert network.can_stream
    kinds = ["image" in batch.streams for batch in batches_of(encoded, streamed=True)]
    assert kinds == [size > CHUNK for size in SIZES]
    assert_streams_are_as_whole(network, encoded, objective)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pooling", STREAMING)
def test_streams_of_several_inputs_lie_beside_whole_bags_tables_and_covariates(
    joined, objective, pooling, fusion
):
    network = network_with(pooling, fusion, joined)
    streamed = [set(batch.streams) for batch in batches_of(joined, streamed=True)]
    assert streamed == [set(), {"image", "virtual_expression"}, set(), {"image"}]
    assert (fusion == "cross") == bool(network.queries)
    assert_streams_are_as_whole(network, joined, objective)


@pytest.mark.parametrize("pooling", STREAMING)
def test_a_separable_loss_has_the_same_gradient_through_streams(encoded, pooling):
    objective = ClassObjective(Classes(np.array([0, 1, 0, 1]), ("no", "yes")))
    assert_streams_are_as_whole(network_with(pooling), encoded, objective)


@pytest.mark.parametrize("pooling", STREAMING)
def test_a_stream_never_holds_more_than_a_chunk(joined, objective, monkeypatch, pooling):
    """But for the tiles that a pooling chose, of which there are a few, whatever the bag."""
    made, form = [], tile_tensors.TileForm.tensor

    def watched(self, values, *, reused=False):
        tensor = form(self, values, reused=reused)
        made.append((id(self), len(values), tensor.data_ptr(), reused))
        return tensor

    monkeypatch.setattr(tile_tensors.TileForm, "tensor", watched)
    network = network_with(pooling, "cross", joined)
    at_once = []
    for name in ("image", "virtual_expression"):
        network.tile[name].register_forward_pre_hook(lambda _, given: at_once.append(len(given[0])))
    gradient_of(network, batches_of(joined, streamed=True, resident_bytes=0), objective)
    assert max(size for _, size, _, _ in made) == max(at_once) == CHUNK
    chosen = {"max": network.architecture.n_hidden, "top": 3, "clam": 16}.get(pooling, 0)
    assert all(size <= chosen for _, size, _, reused in made if not reused)
    # Whoever has seen 203 tiles by chunks of 32 has used one piece of memory for all of them.
    whole_chunks = {(form, place) for form, size, place, reused in made if size == CHUNK and reused}
    assert len(whole_chunks) == 2


@pytest.mark.parametrize(
    ("pooling", "looks", "choices"),
    [
        ("mean", 3, 0),  # for the loss, for the outputs, and once more for the gradient
        ("attention", 3, 0),
        ("evidence", 3, 0),
        ("clam", 3, 1),  # ends of the bag, which the outputs do not need
        ("max", 2, 2),  # the gradient is that of the chosen tiles alone
        ("top", 2, 2),
        ("transformer", 6, 0),  # as attention, in each of two layers
        ("storm", 6, 0),
    ],
)
def test_how_often_a_stream_is_read_for_the_gradient_of_a_coupled_loss(
    encoded, objective, monkeypatch, pooling, looks, choices
):
    n_read, n_choices, form = 0, 0, tile_tensors.TileForm.tensor

    def counted(self, values, *, reused=False):
        nonlocal n_read, n_choices
        n_read += len(values) if reused else 0
        n_choices += not reused
        return form(self, values, reused=reused)

    monkeypatch.setattr(tile_tensors.TileForm, "tensor", counted)
    batches = batches_of(encoded, streamed=True, resident_bytes=0)
    schedule = replace(PLAIN, instance_weight=0.5 if pooling == "clam" else 0.0)
    gradient_of(network_with(pooling), batches, objective, schedule)
    streamed = [size for size in SIZES if size > CHUNK]
    assert n_read == looks * sum(streamed) + 2 * (sum(SIZES) - sum(streamed))
    assert n_choices == choices * len(streamed)


# Sharp weights make bfloat16 itself arbitrary in transformers, and tiles tie in a maximum.
@pytest.mark.parametrize(
    ("pooling", "gentle"), [("attention", False), *((name, True) for name in STREAMING)]
)
def test_bfloat16_products_are_taken_in_both_passes_over_a_stream(
    encoded, objective, pooling, gentle
):
    network = network_with(pooling, gentle=gentle).float()
    schedule = replace(PLAIN, bfloat16=True)
    found = {}
    for streamed in (CHUNK, None):
        batches = PatientBatches(encoded, tile_budget=CHUNK, bfloat16=True, streamed_tiles=streamed)
        found[streamed] = gradient_of(network, batches, objective, schedule)[1]
    torch.testing.assert_close(found[CHUNK], found[None], rtol=0.05, atol=2e-3)
    exact = gradient_of(network, PatientBatches(encoded, tile_budget=CHUNK), objective)[1]
    assert found[CHUNK].keys() == exact.keys()
    rounded, whole, exact = (
        torch.cat([part.ravel() for part in of.values()]) for of in (*found.values(), exact)
    )
    assert (rounded - whole).norm() < 0.02 * whole.norm()
    assert not torch.allclose(rounded, exact, rtol=1e-6)


@pytest.mark.parametrize("pooling", PUBLISHED)
def test_poolings_of_torchmil_are_given_a_bag_whole(encoded, pooling):
    pytest.importorskip("torchmil")
    assert not network_with(pooling).can_stream
    assert network_head._streamed_tiles(network_with(pooling)) is None


@pytest.mark.parametrize("pooling", WEIGHTED)
@pytest.mark.parametrize("inputs", ["encoded", "joined"])
def test_tiles_of_streams_are_weighed_as_those_of_whole_bags(pooling, inputs, request):
    encoded = request.getfixturevalue(inputs)
    network = network_with(pooling, "early", encoded)
    found = attention_of(network, batches_of(encoded, streamed=True))
    expected = attention_of(network, batches_of(encoded, streamed=False))
    name = attended_input(encoded.tiles)
    assert [len(weights) for weights in found] == encoded.tiles[name][0].sizes.tolist()
    for own, whole in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, whole, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_poolings_that_weigh_no_tile_weigh_none_of_a_stream(encoded, pooling):
    assert attention_of(network_with(pooling), batches_of(encoded, streamed=True)) is None


@pytest.mark.parametrize("pooling", ["attention", "clam", "transformer", "storm"])
def test_weights_of_a_stream_are_kept_only_where_they_are_asked_for(encoded, pooling):
    batch = list(batches_of(encoded, streamed=True))[1]
    network = network_with(pooling)
    assert network.pool(batch, batch.present)["image"][1].weights is None
    weights = network.pool(batch, batch.present, weighted=True)["image"][1].weights
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(weights.shape[1]).double())


def held(batch: PatientBatch) -> PatientBatch:
    """The same patient with his streams read into packed bags, noise and all."""
    tiles = dict(batch.tiles)
    for name, stream in batch.streams.items():
        chunks = [(values.clone(), places) for values, places in stream.chunks()]
        values, places = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        tiles[name] = TileTensors(values, Segments(torch.tensor([len(values)])), places)
    return replace(batch, tiles=tiles, streams={})


@pytest.mark.parametrize("pooling", STREAMING)
def test_every_look_at_a_noisy_stream_sees_the_same_tiles(joined, pooling):
    schedule = replace(PLAIN, noise=0.5)
    network = network_with(pooling, "cross", joined)
    branch = torch.tensor([1])
    for batch in batches_of(joined, streamed=True):
        if not batch.streams:
            continue
        noisy = Step(StepDraws({}, {}), 7).thinned(batch, schedule)
        found = []
        for seen in (noisy, held(noisy)):
            outputs, instance = network(seen, branch=branch)
            parameters = dict(network.named_parameters())
            gradient = torch.autograd.grad(
                outputs.sum() + instance, list(parameters.values()), allow_unused=True
            )
            found.append((outputs, instance, dict(zip(parameters, gradient, strict=True))))
        torch.testing.assert_close(found[0][:2], found[1][:2], rtol=1e-11, atol=1e-13)
        for name, gradient in found[0][2].items():
            assert (gradient is None) == (found[1][2][name] is None), name
            if gradient is not None:
                torch.testing.assert_close(gradient, found[1][2][name], rtol=1e-9, atol=1e-12)
        plain, _ = network(batch)
        assert not torch.allclose(found[0][0], plain)


@pytest.mark.parametrize("pooling", ["transformer", "storm"])
def test_a_stream_knows_where_its_tiles_lie(encoded, pooling):
    bags, scale = encoded.tiles["image"]
    turned = replace(bags, places=tuple(-where for where in bags.places))
    unknown = replace(bags, places=())
    network = network_with(pooling)
    here, there, nowhere = (
        outputs_of(
            network, batches_of(replace(encoded, tiles={"image": (b, scale)}), streamed=True)
        )
        for b in (bags, turned, unknown)
    )
    assert (np.abs(here - there)[1] > 1e-6).all()
    assert (np.abs(here - nowhere)[1] > 1e-6).all()


@pytest.mark.parametrize("branches_agree", [True, False])
def test_an_instance_loss_of_tiles_that_tie_is_that_of_the_whole_bag(encoded, branches_agree):
    network = network_with("clam")
    if branches_agree:  # all tiles weigh the same, so that both ends are the first eight
        with torch.no_grad():
            network.pooling["image"].scores.score.weight.zero_()
    (batch,) = [b for b in batches_of(encoded, streamed=True) if b.rows.start == 1]
    for branch in (0, 1, -1):
        losses = [network(b, branch=torch.tensor([branch]))[1] for b in (batch, held(batch))]
        torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
        assert (losses[0] > 0) == (branch >= 0)


def test_a_unit_that_is_silent_in_all_tiles_of_a_stream_learns_nothing(encoded, objective):
    network = network_with("max")
    with torch.no_grad():
        network.tile["image"].bias[2] = -1e3
    assert_streams_are_as_whole(network, encoded, objective)
    gradient = network.tile["image"].weight.grad
    assert (gradient[2] == 0).all()
    assert (gradient != 0).any()


def test_a_tile_that_is_there_twice_tells_a_maximum_what_it_told_once(objective):
    rng = np.random.default_rng(3)
    few = rng.normal(2, 3, size=(50, 6)).astype(np.float16)
    found = []
    for copies, streamed in ((1, False), (3, False), (3, True)):
        bags = Bags.from_arrays([np.tile(few, (copies, 1)), *(few[:n] for n in (3, 4, 5))])
        scale = TileScale(np.full(6, 1.5), np.full(6, 3.0))
        here = {"image": np.ones(4, dtype=np.bool_)}
        encoded = Encoded({"image": (bags, scale)}, {}, here, np.empty((4, 0)), ())
        batches = batches_of(encoded, streamed=streamed)
        assert any(batch.streams for batch in batches) == streamed
        found.append(gradient_of(network_with("max"), batches, objective))
    (_, once), *copied = found
    for _, gradient in copied:
        torch.testing.assert_close(gradient, once, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("pooling", ["attention", "transformer", "storm"])
def test_tiles_drawn_from_a_stream_are_those_drawn_from_the_whole_bag(encoded, objective, pooling):
    """With their places, which the transformers look at."""
    schedule = replace(PLAIN, most_tiles=9)
    assert_streams_are_as_whole(network_with(pooling), encoded, objective, schedule)


def test_noise_on_a_stream_is_the_same_in_every_look_and_another_under_another_seed(encoded):
    (stream,) = [
        batch.streams["image"]
        for batch in batches_of(encoded, streamed=True)
        if batch.rows.start == 1
    ]

    def read(seed: int) -> torch.Tensor:
        noisy = stream.with_noise(0.5, torch.Generator().manual_seed(seed))
        looks = [torch.cat([chunk.clone() for chunk, _ in noisy.chunks()]) for _ in range(2)]
        assert torch.equal(*looks)
        return looks[0]

    plain = torch.cat([chunk.clone() for chunk, _ in stream.chunks()])
    assert (read(0) - plain).std().item() == pytest.approx(0.5, rel=0.1)
    assert not torch.equal(read(0), read(1))


def test_a_model_predicts_and_weighs_tiles_of_streams_as_of_whole_bags(monkeypatch):
    data = PatientData(tuple("abcd"), bags_of((5, 9000, 3, 60), 6))  # one is larger than a chunk
    outcome = Survival.from_arrays([4.0, 2.0, 3.0, 1.0], [1, 1, 0, 1])
    head = find("attention-cox")
    settings = {name: option.default for name, option in head.options.items()}
    recipe = Recipe(("image",), settings, (), 0)
    model = next(iter(head.path(Sample(data, outcome), recipe))).finish()
    risk, weights = model.predict(data).risk, model.attention(data)
    n_looks, chunks = 0, tile_tensors.TileStream.chunks

    def counted(self):
        nonlocal n_looks
        n_looks += 1
        return chunks(self)

    monkeypatch.setattr(tile_tensors.TileStream, "chunks", counted)
    monkeypatch.setattr(patient_batches, "STREAMED_TILES", 8999)
    np.testing.assert_allclose(model.predict(data).risk, risk, rtol=1e-5)
    assert n_looks == 1
    for own, of_whole in zip(model.attention(data), weights, strict=True):
        np.testing.assert_allclose(own, of_whole, rtol=1e-4)
    assert n_looks == 2


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
