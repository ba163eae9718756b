"""STORM's clinical head: two modalities on packed bags against one patient at a time."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from torch.nn.functional import gelu

from storm_clinic.cohort.outcome import Classes, CompetingRisks
from storm_clinic.errors import ContractMismatch
from storm_clinic.heads.architecture import Architecture
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Recipe, Sample
from storm_clinic.heads.latent_exchange import LatentExchange, Latents
from storm_clinic.heads.network import StepDraws, TileNetwork
from storm_clinic.heads.network_head import NETWORK_HEADS
from storm_clinic.heads.network_inputs import NetworkInputs
from storm_clinic.heads.patient_batches import PatientBatches
from storm_clinic.heads.segments import Segments
from storm_clinic.heads.training import outputs_of
from storm_clinic.heads.zoo import find, restore

INPUTS = ("image", "virtual_expression", "clinical")
GENES = ("ERBB2", "GNAS", "MKI67")


def with_expression(sample: Sample, *, lacking: int = 3) -> Sample:
    """The same patients with imputed genes of their tiles; the first few have none."""
    rng = np.random.default_rng(5)
    means = sample.data.bags.pooled_mean().sum(axis=1)
    bags, places = [], []
    for at, mean in enumerate(means):
        n_tiles = 0 if at < lacking else int(rng.integers(2, 9))
        values = rng.normal(size=(n_tiles, len(GENES))) + np.array([mean, 0, 0])
        bags.append(values.astype(np.float16))
        places.append(1000 * rng.normal(size=(n_tiles, 2)).astype(np.float32))
    packed = replace(Bags.from_arrays(bags, places), columns=GENES)
    return Sample(replace(sample.data, virtual_expression=packed), sample.outcome)


@pytest.fixture
def sample(simulated) -> Sample:
    return with_expression(simulated(0))


def network_of(data: PatientData, fusion: str = "early") -> tuple[TileNetwork, NetworkInputs]:
    """A network with weights far from their start, in float64."""
    inputs = NetworkInputs.fit(data, INPUTS, 4)
    architecture = Architecture(
        pooling="storm",
        fusion=fusion,
        tiles=inputs.widths,
        tables={},
        n_clinical=inputs.encode(data).clinical.shape[1],
        shared=(False,),
        n_branches=1,
        n_hidden=8,
        n_attention=4,
        n_latents=3,
    )
    network = TileNetwork(architecture, 0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network, inputs


def batches_of(inputs, data, tile_budget: int = 8192) -> PatientBatches:
    return PatientBatches(inputs.encode(data), dtype=np.float64, tile_budget=tile_budget)


# The head written for one patient, without segments, masks or batches.


def attend(query, key, value, n_heads: int):
    """Plain attention of (n, h) on (m, h): the result, and shares (n, m) averaged over heads."""
    width = query.shape[1] // n_heads
    parts, shares = [], []
    for head in range(n_heads):
        at = slice(head * width, (head + 1) * width)
        weights = (query[:, at] @ key[:, at].T / math.sqrt(width)).softmax(dim=1)
        parts.append(weights @ value[:, at])
        shares.append(weights)
    return torch.cat(parts, dim=1), torch.stack(shares).mean(dim=0)


def read_plainly(pooling, tiles):
    latents = pooling.latents
    for layer in pooling.layers:
        key, value = layer.key_value(layer.norm_tiles(tiles)).chunk(2, dim=1)
        found, shares = attend(layer.query(layer.norm_latents(latents)), key, value, layer.n_heads)
        latents = latents + layer.read(found)
        query, key, value = layer.exchange(layer.norm_exchange(latents)).chunk(3, dim=1)
        latents = latents + layer.exchanged(attend(query, key, value, layer.n_heads)[0])
        latents = latents + layer.forward_out(gelu(layer.forward_in(layer.norm_forward(latents))))
    return pooling.norm(latents), shares


def pooled_plainly(network, tiles: dict[str, torch.Tensor]):
    """Vector and tile shares of each modality that this patient has."""
    read = {n: read_plainly(network.pooling[n], network.tile[n](t)) for n, t in tiles.items()}
    found = {}
    for name, (latents, shares) in read.items():
        crossing = network.exchange.crossings[name]
        others = [other for n, (other, _) in read.items() if n != name]
        if others:
            key, value = crossing.key_value(crossing.norm_others(others[0])).chunk(2, dim=1)
            seen, _ = attend(crossing.query(crossing.norm_own(latents)), key, value, 4)
            latents = latents + crossing.looked(seen)
        inner = gelu(crossing.forward_in(crossing.norm_forward(latents)))
        latents = crossing.norm(latents + crossing.forward_out(inner))
        content, gate = network.exchange.scores[name].content_and_gate(latents).chunk(2, dim=1)
        scores = network.exchange.scores[name].score(torch.tanh(content) * torch.sigmoid(gate))
        weights = scores.softmax(dim=0)
        found[name] = (weights * latents).sum(dim=0), (weights * shares).sum(dim=0)
    return found


def test_packed_bags_give_what_one_patient_at_a_time_gives(sample):
    # Without places, whose sines the plain version leaves to the test of the transformer.
    bags = {n: replace(b, places=()) for n, b in sample.data.all_tiles.items()}
    data = replace(sample.data, bags=bags["image"], virtual_expression=bags["virtual_expression"])
    network, inputs = network_of(data)
    [batch] = batches_of(inputs, data)
    pooled = network.pool(batch, batch.present)
    sizes = {name: batch.tiles[name].segments.sizes.tolist() for name in pooled}
    values = {name: batch.tiles[name].values.split(sizes[name]) for name in pooled}
    shares = {name: pooled[name][1].weights[:, 0].split(sizes[name]) for name in pooled}
    for at in range(len(data)):
        tiles = {name: values[name][at] for name in pooled if sizes[name][at]}
        for name, (vector, share) in pooled_plainly(network, tiles).items():
            torch.testing.assert_close(pooled[name][1].vector[at], vector)
            torch.testing.assert_close(shares[name][at], share)
            assert share.sum().item() == pytest.approx(1)


def test_patients_risks_do_not_depend_on_batches_or_company(sample):
    network, inputs = network_of(sample.data)
    whole = outputs_of(network, batches_of(inputs, sample.data))
    apart = outputs_of(network, batches_of(inputs, sample.data, tile_budget=20))
    np.testing.assert_allclose(apart, whole, rtol=1e-12)
    alone = outputs_of(network, batches_of(inputs, sample.data.take(np.array([0, 9]))))
    np.testing.assert_allclose(alone, whole[[0, 9]], rtol=1e-12)


def test_the_order_of_tiles_of_either_modality_changes_nothing(sample):
    network, inputs = network_of(sample.data)
    rng = np.random.default_rng(0)
    shuffled = {}
    for name, bags in sample.data.all_tiles.items():
        orders = [rng.permutation(size) for size in bags.sizes]
        values = [bags.bag(i)[order] for i, order in enumerate(orders)]
        places = [bags.gather_places(slice(i, i + 1))[order] for i, order in enumerate(orders)]
        shuffled[name] = replace(Bags.from_arrays(values, places), columns=bags.columns)
    data = replace(
        sample.data, bags=shuffled["image"], virtual_expression=shuffled["virtual_expression"]
    )
    np.testing.assert_allclose(
        outputs_of(network, batches_of(inputs, data)),
        outputs_of(network, batches_of(inputs, sample.data)),
        rtol=1e-12,
    )


def test_each_modality_reaches_the_other_ones_vector(sample):
    network, inputs = network_of(sample.data)
    [batch] = batches_of(inputs, sample.data)
    values = batch.tiles["virtual_expression"].values.requires_grad_()
    image = network.pool(batch, batch.present)["image"][1].vector
    [gradient] = torch.autograd.grad(image.sum(), values)
    assert (gradient.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_nothing_of_a_hidden_modality_reaches_the_risk(sample, fusion):
    network, inputs = network_of(sample.data, fusion)
    [batch] = batches_of(inputs, sample.data)
    values = batch.tiles["virtual_expression"].values.requires_grad_()
    hidden = StepDraws({}, {"virtual_expression": torch.arange(len(sample.data)) >= 20})
    outputs, _ = network(batch, hidden)
    [gradient] = torch.autograd.grad(outputs.sum(), values)
    of_patient = batch.tiles["virtual_expression"].segments.of_tile
    assert (gradient[of_patient < 20] == 0).all()
    assert (gradient[of_patient >= 20] != 0).any()
    # A hidden modality is one that is not there.
    bags = sample.data.virtual_expression
    lacking = [bags.bag(i)[: 0 if i < 20 else None] for i in range(len(bags))]
    places = [bags.gather_places(slice(i, i + 1))[: len(b)] for i, b in enumerate(lacking)]
    gone = replace(Bags.from_arrays(lacking, places), columns=GENES)
    without = outputs_of(network, batches_of(inputs, replace(sample.data, virtual_expression=gone)))
    np.testing.assert_allclose(without, outputs.detach().numpy(), rtol=1e-12)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    exchange = LatentExchange(("a", "b"), 4, 2).double()
    sizes = {"a": torch.tensor([2, 3]), "b": torch.tensor([1, 0])}
    shares = {n: torch.rand(int(s.sum()), 2, dtype=torch.float64) for n, s in sizes.items()}
    seen = {name: size > 0 for name, size in sizes.items()}

    def vectors(a, b):
        given = {"a": a, "b": b}
        latents = {n: Latents(v, shares[n], Segments(sizes[n])) for n, v in given.items()}
        return tuple(found.vector for found in exchange(latents, seen).values())

    drawn = [torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True) for _ in "ab"]
    assert torch.autograd.gradcheck(vectors, drawn)


def fitted(head: str, sample: Sample, n_stages: int = 3):
    settings = {name: option.default for name, option in find(head).options.items()}
    months = () if isinstance(sample.outcome, Classes) else (12.0,)
    path = find(head).path(sample, Recipe(INPUTS, settings, months, 1))
    return list(islice(path, n_stages))[-1].finish()


@pytest.mark.parametrize("head", [h.name for h in NETWORK_HEADS if h.pooling == "storm"])
def test_every_objective_fits_both_modalities_and_comes_back_bit_equal(head, simulated):
    kinds = {Classes: "classes", CompetingRisks: "competing"}
    outcome = kinds.get(find(head).outcomes[-1], "survival")
    sample = with_expression(simulated(0, outcome=outcome))
    model = fitted(head, sample)
    output = model.predict(sample.data)
    assert np.isfinite(output.risk).all()
    assert np.unique(output.risk).size > 30
    assert "virtual_expression: 3 patients have no tile; masked" in output.notes
    arrays, settings = model.state()
    again = restore(head, load(save(arrays)), json.loads(json.dumps(settings, sort_keys=True)))
    assert (again.predict(sample.data).risk == output.risk).all()
    assert (fitted(head, sample).predict(sample.data).risk == output.risk).all()


def test_attention_is_that_of_the_image_whatever_the_order_of_inputs(sample):
    settings = {name: option.default for name, option in find("storm-cox").options.items()}
    recipe = Recipe(INPUTS[1::-1], settings, (12.0,), 1)
    [stage] = islice(find("storm-cox").path(sample, recipe), 1)
    weights = stage.finish().attention(sample.data)
    assert [len(part) for part in weights] == sample.data.bags.sizes.tolist()
    np.testing.assert_allclose([part.sum() for part in weights], 1, rtol=1e-5)


@pytest.mark.parametrize("head", ["storm-cox", "coxnet"])
def test_other_genes_than_those_of_training_are_refused_by_name(sample, head):
    inputs = ("image", "virtual_expression")
    settings = {name: option.default for name, option in find(head).options.items()}
    [stage] = islice(find(head).path(sample, Recipe(inputs, settings, (12.0,), 1)), 1)
    arrays, stored = stage.finish().state()
    model = restore(head, arrays, json.loads(json.dumps(stored)))
    bags = replace(sample.data.virtual_expression, columns=("ERBB2", "MKI67", "GNAS"))
    with pytest.raises(ContractMismatch, match="has MKI67 where the model was trained on GNAS"):
        model.predict(replace(sample.data, virtual_expression=bags))


def test_two_cohorts_with_other_genes_are_not_joined(sample):
    bags = sample.data.virtual_expression
    with pytest.raises(ContractMismatch, match="the columns of tiles differ"):
        Bags.concat([bags, replace(bags, columns=GENES[::-1])])
    assert Bags.concat([bags, bags]).take([41]).columns == GENES
