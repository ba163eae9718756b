"""A trainable encoder on H0-mini's architecture, two narrow blocks of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.optim import param_groups_layer_decay
from tiny_vit import SIDE, tiny_vit, write_tiny_vit

from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.errors import EncoderError
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.image_encoder import TrainableEncoder, layer_scales, load_trainable
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.optimisation import Optimisation, Optimiser, parameter_groups

ViT = tuple[EncoderCard, Path]


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> ViT:
    return tiny_vit(), write_tiny_vit(tmp_path_factory.mktemp("vit") / "vit.safetensors")


def tiles(n: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)


def trainable(vit: ViT) -> TrainableEncoder:
    card, weights = vit
    return load_trainable(card, weights=weights)


def test_it_gives_the_class_token_of_the_frozen_encoder(vit):
    card, weights = vit
    frozen = load_encoder(card, weights=weights, device="cpu").encode(tiles())
    found = trainable(vit)(tiles())
    assert found.shape == (4, 24)
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), frozen[:, :24])


def test_many_tiles_are_embedded_in_parts_with_the_same_gradients(vit):
    card, weights = vit
    at_once, in_parts = (load_trainable(card, weights=weights, tiles_at_once=n) for n in (9, 2))
    for encoder in (at_once, in_parts):
        encoder(tiles(9)).square().sum().backward()
    for (name, one), other in zip(at_once.named_parameters(), in_parts.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)


def test_each_layer_learns_more_slowly_than_the_one_after_it(vit):
    network = trainable(vit).network
    scales = layer_scales(network, decay=0.7, prefix="image.")
    assert set(scales) == {f"image.{name}" for name, _ in network.named_parameters()}
    expected = {
        "norm.weight": 1.0,
        "blocks.1.mlp.fc1.weight": 0.7,
        "blocks.0.attn.qkv.bias": 0.7**2,
        "pos_embed": 0.7**3,
        "cls_token": 0.7**3,
        "reg_token": 0.7**3,
        "patch_embed.proj.weight": 0.7**3,
    }
    for name, scale in expected.items():
        assert scales[f"image.{name}"] == pytest.approx(scale), name


@pytest.mark.parametrize("decay", [0.7, 1.0])
def test_groups_of_parameters_are_those_that_timm_would_make(vit, decay):
    network = trainable(vit).network
    theirs = param_groups_layer_decay(
        network,
        weight_decay=0.05,
        layer_decay=decay,
        no_weight_decay_list=("pos_embed", "cls_token", "reg_token"),
    )
    expected = {
        # The last block is timm's last layer where there is no classifier; here STORM follows.
        id(weight): (group["lr_scale"] * decay, group["weight_decay"])
        for group in theirs
        for weight in group["params"]
    }
    # timm lets the final norm go with the last block; BEiT, as here, with what follows.
    expected |= {id(weight): (1.0, 0.0) for weight in network.norm.parameters()}
    named = dict(network.named_parameters())
    groups = parameter_groups(named, weight_decay=0.05, scales=layer_scales(network, decay=decay))
    found = {
        id(weight): (pytest.approx(group["scale"]), group["weight_decay"])
        for group in groups
        for weight in group["params"]
    }
    assert len(found) == len(named)
    assert expected == found


def test_storm_s_loss_reaches_the_patch_embedding_but_no_pixel_of_a_masked_tile_counts(vit):
    encoder = trainable(vit)
    config = StormConfig(width=16, n_layers=1, n_heads=2, image_width=24, n_genes=6, pitch_um=100.0)
    torch.manual_seed(0)
    model, seen = StormModel(config), tiles(18)
    places = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).flip(1) * 100
    masked = torch.zeros(2, 9, dtype=torch.bool)
    masked[0, 4] = masked[1, 2] = True

    def foretold(pixels: torch.Tensor) -> torch.Tensor:
        contexts = Contexts(
            valid=torch.ones(2, 9, dtype=torch.bool),
            xy_um=places.expand(2, 9, 2),
            image=encoder(pixels).unflatten(0, (2, 9)),
            image_masked=masked,
        )
        return model.virtual_expression(model(contexts).spot)

    first = foretold(seen)
    first.square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name
    hidden = seen.clone()
    hidden[masked.flatten()] = 255 - hidden[masked.flatten()]
    torch.testing.assert_close(foretold(hidden), first, rtol=0, atol=0)
    seen[0] = 255 - seen[0]
    assert (foretold(seen) - first).abs().max() > 1e-4


def test_tiles_that_are_no_bytes_are_refused(vit):
    with pytest.raises(EncoderError, match="tiny-vit-cls: tiles must be uint8"):
        trainable(vit)(tiles().float() / 255)
    with pytest.raises(EncoderError, match="tiles must be uint8"):
        trainable(vit)(tiles().permute(0, 3, 1, 2))


def test_the_first_update_moves_each_layer_by_its_share_of_the_rate(vit):
    """AdamW's first step is the rate itself wherever the gradient is not 0."""
    encoder = trainable(vit)
    before = {name: weight.detach().clone() for name, weight in encoder.named_parameters()}
    plan = Optimisation(learning_rate=1e-3, n_steps=1, weight_decay=0.0, clip=1e9)
    optimiser = Optimiser(encoder, plan, scales=layer_scales(encoder.network, prefix="network."))
    optimiser.backward(encoder(tiles()).square().sum())
    moved = {
        name: (weight.detach() - before[name]).abs().median().item()
        for name, weight in encoder.named_parameters()
    }
    for name, scale in (("norm", 1.0), ("blocks.1.mlp.fc2", 0.7), ("blocks.0.mlp.fc2", 0.49)):
        assert moved[f"network.{name}.weight"] == pytest.approx(1e-3 * scale, rel=0.02), name
    assert moved["network.patch_embed.proj.weight"] == pytest.approx(1e-3 * 0.343, rel=0.02)


def test_a_network_without_blocks_is_refused(tiny_encoder):
    card, weights = tiny_encoder
    with pytest.raises(EncoderError, match="has no blocks in order"):
        load_trainable(card, weights=weights)


def test_a_network_that_looks_at_other_tiles_of_its_batch_is_refused():
    """It has blocks in order, and comes with its weights: the first that somebody would try."""
    with pytest.raises(EncoderError, match=r"efficientnet-lite0: .*normalises over batches"):
        load_trainable("efficientnet-lite0")
