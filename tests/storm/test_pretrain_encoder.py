"""An image encoder that is trained with the network, on sections with a planted signal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pretrain_in_processes
import pytest
import torch
from planted_sections import network, planted_shards
from tiny_vit import SIDE, tiny_vit, write_tiny_vit

from storm_clinic.errors import TrainingError
from storm_clinic.storm.decoders import LossWeights
from storm_clinic.storm.image_encoder import TrainableEncoder, load_trainable
from storm_clinic.storm.masking import Draws, MaskingMix
from storm_clinic.storm.optimisation import Optimisation
from storm_clinic.storm.pretrain import Pretraining, PretrainPlan, pretrain
from storm_clinic.storm.processes import Processes
from storm_clinic.storm.shards import ShardSet
from storm_clinic.storm.spot_batches import SpotBatch, SpotReader

ALONE = Processes(0, 1, torch.device("cpu"))
WIDTH = 24
CONFIG = network(image_width=WIDTH)
PLAN = PretrainPlan(
    optimisation=Optimisation(learning_rate=0.01, n_steps=4, warm_up=1, ema=0.5),
    batch=12,
    log_every=2,
    keep_every=2,
)


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    return write_tiny_vit(tmp_path_factory.mktemp("vit") / "vit.safetensors")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    folder = tmp_path_factory.mktemp("planted")
    return planted_shards(folder, tile_px=SIDE, image_width=WIDTH)


def fresh(vit: Path, **options: float) -> TrainableEncoder:
    return load_trainable(tiny_vit(), weights=vit, **options)


def weights_of(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def one_batch(shards: ShardSet, seed: int = 0) -> tuple[SpotReader, SpotBatch, Draws]:
    reader = SpotReader(shards)
    batch = reader.batch(0, torch.arange(12).numpy())
    draws = Draws.draw(12, shards.n_slots, torch.Generator().manual_seed(seed))
    return reader, batch, draws


def test_tiles_that_no_context_shows_need_not_be_embedded(shards, vit):
    """Loss and every gradient are those of embedding all tiles of the batch."""
    torch.manual_seed(0)
    module = Pretraining(CONFIG, MaskingMix(), LossWeights(), fresh(vit))
    reader, batch, draws = one_batch(shards)
    shown = module.shown(batch, draws)
    assert 0 < len(shown) < len(batch.rows)
    found = {}
    for name, spots in (("all", torch.arange(len(batch.rows))), ("shown", shown)):
        module.zero_grad()
        loss = module(reader.with_tiles(0, batch, spots), draws).total
        loss.backward()
        found[name] = [loss, *(weight.grad.clone() for weight in module.encoder.parameters())]
    assert any(grad.abs().max() > 1e-4 for grad in found["all"][1:])
    for one, other in zip(found["all"], found["shown"], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_pixels_of_a_spot_that_is_masked_everywhere_reach_no_loss(shards, vit):
    """Its target is the embedding in the shards, which they have no part in."""
    torch.manual_seed(0)
    module = Pretraining(CONFIG, MaskingMix(), LossWeights(), fresh(vit)).eval()
    reader, batch, draws = one_batch(shards)
    everything = torch.arange(len(batch.rows))
    whole = reader.with_tiles(0, batch, everything)
    is_shown = torch.isin(everything, module.shown(batch, draws))
    dark = whole.tiles.clone()
    dark[~is_shown] = 0
    with torch.no_grad():
        expected = module(whole, draws)
        found = module(replace(whole, tiles=dark), draws)
        dark[is_shown] = 0
        changed = module(replace(whole, tiles=dark), draws)
    torch.testing.assert_close(found.total, expected.total)
    assert not torch.allclose(changed.total, expected.total)


def test_where_no_image_is_shown_the_encoder_has_a_gradient_of_0(shards, vit):
    blind = MaskingMix(both=0.0, image_alone=0.0, expression_alone=1.0)
    module = Pretraining(CONFIG, blind, LossWeights(), fresh(vit))
    reader, batch, draws = one_batch(shards)
    shown = module.shown(batch, draws)
    module(reader.with_tiles(0, batch, shown), draws).total.backward()
    assert all(bool((weight.grad == 0).all()) for weight in module.encoder.parameters())


def test_early_layers_learn_more_slowly_by_the_decay(shards, vit):
    encoder, before = fresh(vit, layer_decay=1e-4), fresh(vit)
    # 1e-4 a layer: the patches are three layers below the last norm.
    pretrain(CONFIG, shards, PLAN, ALONE, encoder=encoder)
    moved = {
        name: float((one - other).detach().abs().max())
        for (name, one), other in zip(
            encoder.network.named_parameters(), before.network.parameters(), strict=True
        )
    }
    assert moved["norm.weight"] > 1e-3
    assert 1e-7 < moved["blocks.1.attn.proj.weight"] < 1e-4
    assert moved["patch_embed.proj.weight"] < 1e-9


def test_a_training_with_an_encoder_goes_on_bit_for_bit(shards, vit, tmp_path):
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 3:
            raise Killed

    expected, found = fresh(vit), fresh(vit)
    made = pretrain(CONFIG, shards, PLAN, ALONE, encoder=expected)
    assert made.encoder is expected
    state = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        pretrain(CONFIG, shards, PLAN, ALONE, encoder=fresh(vit), state=state, on_step=kill)
    again = pretrain(CONFIG, shards, PLAN, ALONE, encoder=found, state=state)
    assert again.history == made.history
    for name, weight in weights_of(expected).items():
        assert torch.equal(found.state_dict()[name], weight), name
    # It is the state of this encoder, trained at these rates.
    other = fresh(write_tiny_vit(tmp_path / "other.safetensors", seed=1))
    for changed in ({"encoder": other}, {"encoder": fresh(vit, layer_decay=0.9)}, {}):
        with pytest.raises(TrainingError, match="other data or settings"):
            pretrain(CONFIG, shards, PLAN, ALONE, state=state, **changed)


def test_two_processes_train_the_encoder_that_one_does(shards, vit, tmp_path):
    pretrain_in_processes.compare_two_with_one(shards.folder, tmp_path, vit)


def test_it_learns_what_the_embeddings_in_the_shards_do_not_say(tmp_path, vit):
    """Expression can be foretold from pixels alone: embeddings in these shards are constant."""
    shards = planted_shards(tmp_path, tile_px=SIDE, image_width=WIDTH, blind=True)
    plan = replace(
        PLAN,
        optimisation=Optimisation(learning_rate=0.005, n_steps=60, warm_up=5),
        masking=MaskingMix(both=0.0, image_alone=1.0, expression_alone=0.0, whole_image=1.0),
        log_every=10,
    )
    frozen = pretrain(CONFIG, shards, plan, ALONE)
    trained = pretrain(CONFIG, shards, plan, ALONE, encoder=fresh(vit))
    assert trained.history[-1]["virtual"] < 0.6 * frozen.history[-1]["virtual"]


def test_shards_without_tiles_or_a_network_of_axes_are_refused(shards, vit, tmp_path):
    bare = planted_shards(tmp_path, image_width=WIDTH)
    with pytest.raises(TrainingError, match=r"shards of tiles of 0 px .* do not fit an encoder of"):
        pretrain(CONFIG, bare, PLAN, ALONE, encoder=fresh(vit))
    axes = torch.eye(4, WIDTH)
    with pytest.raises(TrainingError, match="an encoder that is trained has none"):
        pretrain(replace(CONFIG, image_axes=4), shards, PLAN, ALONE, axes=axes, encoder=fresh(vit))
