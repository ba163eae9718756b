"""H0-mini's own row of the catalogue with two narrow blocks and small tiles, and random weights."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from storm_clinic.encoders import catalogue
from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.hub import build_model

SIDE, NAME = 28, "tiny-vit"


def tiny_vit() -> EncoderCard:
    """Class token and mean of patches, 24 numbers each."""
    card = catalogue.find_card("h0-mini")
    # The gated feed-forward needs an even hidden width: 128.
    small = {"img_size": SIDE, "depth": 2, "embed_dim": 24, "num_heads": 2, "mlp_ratio": 128 / 24}
    return replace(
        card,
        name=NAME,
        arguments={**card.arguments, **small},
        tile_px=SIDE,
        input_px=SIDE,
        width=48,
    )


def write_tiny_vit(path: Path, *, seed: int = 0) -> Path:
    """Random weights of it, as they would be published."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: value.shape for name, value in build_model(tiny_vit()).state_dict().items()}
    state = {name: torch.randn(shape, generator=generator) / 5 for name, shape in shapes.items()}
    save_file(state, path)
    return path


def install_tiny_vit(patch: pytest.MonkeyPatch) -> None:
    """Let the catalogue find it by name, as it finds what an installed package adds."""
    point = EntryPoint(NAME, "tiny_vit:tiny_vit", catalogue.ENTRY_POINTS)
    points = EntryPoints([point])
    patch.setattr(catalogue, "entry_points", lambda group: points.select(group=group))
