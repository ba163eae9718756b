"""CONCH, whose network comes with its authors' package.

Lu et al., Nat. Med. 30 (2024) 863-874.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from storm_clinic.encoders.contract import State

_PREFIX = "network."


class VisionTower(torch.nn.Module):
    """CONCH's image side: the attention-pooled embedding before the projection to text."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        embedding: torch.Tensor = self.network.encode_image(
            pixels, proj_contrast=False, normalize=False
        )
        return embedding


def build() -> torch.nn.Module:
    """The network of the package without weights; ours are read without unpickling code.

    The package's own loader reads the file itself and lets tensors be absent, so only its network
    and its configuration are used.
    """
    from conch.open_clip_custom import coca_model

    folder = Path(coca_model.__file__).parent / "model_configs"
    config = json.loads((folder / "conch_ViT-B-16.json").read_text(encoding="utf-8"))
    config.pop("custom_text", None)
    return VisionTower(coca_model.CoCa(**config))


def from_published(state: State) -> State:
    """Name the tensors as `VisionTower` holds them."""
    return {_PREFIX + name.removeprefix("module."): tensor for name, tensor in state.items()}
