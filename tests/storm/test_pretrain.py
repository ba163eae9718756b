"""Pretraining as a whole, on sections with a planted signal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pretrain_in_processes
import pytest
import torch
from planted_sections import network, planted_section, planted_shards

from storm_clinic.errors import TrainingError
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.masking import MaskingMix
from storm_clinic.storm.neighbourhood import neighbourhoods
from storm_clinic.storm.optimisation import Optimisation
from storm_clinic.storm.pretrain import Pretrained, PretrainPlan, pretrain
from storm_clinic.storm.processes import Processes
from storm_clinic.storm.shards import ShardSet
from storm_clinic.storm.spot_batches import measure_scales

ALONE = Processes(0, 1, torch.device("cpu"))
SHORT = PretrainPlan(
    optimisation=Optimisation(learning_rate=0.01, n_steps=9, warm_up=2, accumulate=2, ema=0.9),
    batch=16,
    log_every=4,
    keep_every=3,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    return planted_shards(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def trained(shards) -> Pretrained:
    plan = PretrainPlan(
        optimisation=Optimisation(learning_rate=0.01, n_steps=150, warm_up=10, ema=0.9),
        batch=32,
        log_every=10,
    )
    return pretrain(network(), shards, plan, ALONE)


class Killed(Exception):
    pass


def killed_after(n: int):
    def on_step(done: int, total: int) -> None:
        if done == n:
            raise Killed

    return on_step


def assert_same_weights(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


@pytest.mark.parametrize("killed_at", [2, 5, 9])
def test_a_training_that_was_killed_goes_on_bit_for_bit_as_if_it_had_not_been(
    shards, tmp_path, killed_at
):
    """Before a state was kept, between two states, and at the end; with dropout and mean."""
    config, state = network(dropout=0.2), tmp_path / "state.safetensors"
    expected = pretrain(config, shards, SHORT, ALONE)
    with pytest.raises(Killed):
        pretrain(config, shards, SHORT, ALONE, state=state, on_step=killed_after(killed_at))
    assert state.exists() == (killed_at >= 3)
    points = []
    found = pretrain(config, shards, SHORT, ALONE, state=state, on_point=points.append)
    assert_same_weights(found.model, expected.model)
    assert_same_weights(found.decoders, expected.decoders)
    assert found.history == expected.history
    assert [point["step"] for point in found.history] == [4, 8, 9]
    assert points == [point for point in found.history if point["step"] > 3 * (killed_at // 3)]
    other = pretrain(config, shards, replace(SHORT, seed=1), ALONE)
    assert not torch.equal(other.model.image_in.weight, expected.model.image_in.weight)


def test_a_state_of_other_settings_or_a_damaged_one_is_refused(shards, tmp_path):
    state = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        pretrain(network(), shards, SHORT, ALONE, state=state, on_step=killed_after(3))
    with pytest.raises(TrainingError, match="other data or settings"):
        pretrain(network(), shards, replace(SHORT, seed=1), ALONE, state=state)
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="is no state of a training"):
        pretrain(network(), shards, SHORT, ALONE, state=state)


def test_two_processes_of_torchrun_learn_what_one_does(shards, tmp_path):
    pretrain_in_processes.compare_two_with_one(shards.folder, tmp_path)


@pytest.mark.parametrize("part", ["image", "expression", "virtual"])
def test_every_loss_falls_well_below_where_it_began(trained, part):
    first, last = trained.history[0], trained.history[-1]
    assert last[part] < 0.7 * first[part]
    assert last["loss"] < 0.7 * first["loss"]


def from_image_alone(trained: Pretrained, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Foretold and measured expression of a section that nobody trained on."""
    embedded = planted_section(seed)
    paired = embedded.section
    around = neighbourhoods(paired.centres_um, pitch_um=200.0, side=3)
    contexts = Contexts.gather(
        around,
        torch.arange(paired.n_spots),
        xy_um=torch.from_numpy(paired.centres_um).float(),
        image=torch.from_numpy(embedded.image),
    )
    with torch.no_grad():
        foretold = trained.model.virtual_expression(trained.model(contexts).spot)
    counts = paired.counts.toarray()
    measured = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    return foretold.numpy(), measured


def test_after_pretraining_h_and_e_alone_foretells_a_new_section(trained):
    foretold, measured = from_image_alone(trained, seed=50)
    r = [np.corrcoef(foretold[:, k], measured[:, k])[0, 1] for k in (0, 1, 4, 5)]
    assert min(r) > 0.8


def test_without_contexts_of_image_alone_the_head_would_learn_nothing(shards):
    mix = MaskingMix(both=0.8, image_alone=0.0, expression_alone=0.2)
    made = pretrain(network(), shards, replace(SHORT, masking=mix), ALONE)
    assert all("virtual" not in point for point in made.history)
    # With the default mix it is in every point: H&E alone does occur.
    made = pretrain(network(), shards, SHORT, ALONE)
    assert all("virtual" in point for point in made.history)


def test_genes_are_counted_as_the_training_sections_have_them(trained, shards):
    scales = measure_scales(shards)
    assert torch.equal(trained.model.gene_scale.mean, scales.gene_mean)
    assert torch.equal(trained.model.gene_scale.spread, scales.gene_spread)


def test_nobody_else_s_chance_is_touched(shards):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    pretrain(network(), shards, replace(SHORT, batch=4), ALONE)
    assert torch.equal(torch.rand(3), expected)


def test_what_does_not_fit_is_refused(shards):
    with pytest.raises(TrainingError, match="8 numbers an image and 6 genes do not fit"):
        pretrain(network(n_genes=5), shards, SHORT, ALONE)
    three = Processes(0, 3, torch.device("cpu"))
    with pytest.raises(TrainingError, match="16 cannot be divided among 3"):
        pretrain(network(), shards, SHORT, three)
