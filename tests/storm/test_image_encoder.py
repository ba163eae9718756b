"""A trainable encoder on a vision transformer of two small blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.hub import build_model, load_encoder
from storm_clinic.errors import EncoderError
from storm_clinic.storm.image_encoder import TrainableEncoder, layer_scales, load_trainable
from storm_clinic.storm.optimisation import Optimisation, Optimiser

ViT = tuple[EncoderCard, Path]


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> ViT:
    """Its embedding is class token and mean, as H0-mini's."""
    small = {"img_size": 32, "patch_size": 16, "depth": 2, "embed_dim": 24, "num_heads": 2}
    card = EncoderCard(
        name="small-vit",
        loader="timm",
        architecture="vit_tiny_patch16_224",
        arguments={**small, "num_classes": 0, "global_pool": ""},
        tile_px=32,
        input_px=32,
        mpp=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pooling="cls+mean",
        prefix_tokens=1,
        width=48,
        licence="none",
        citation="none",
    )
    generator = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in build_model(card).state_dict().items()}
    state = {name: torch.randn(shape, generator=generator) / 5 for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(state, path)
    return card, path


def tiles(n: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)


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
        "patch_embed.proj.weight": 0.7**3,
    }
    for name, scale in expected.items():
        assert scales[f"image.{name}"] == pytest.approx(scale), name


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
