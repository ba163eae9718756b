"""CTransPath's network, built on timm: a Swin-T whose patches are embedded by convolutions.

The authors publish it on a patched timm 0.5.4. Two things differ from today's timm. There the
layer that halves the picture closes a stage, here it opens the next one, so its tensors have other
names and the same arithmetic. And the published file holds tables of positions and masks that
today are computed.

Wang et al., Med. Image Anal. 81 (2022) 102559.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from storm_clinic.encoders.contract import State

_WIDTH = 96
_DOWNSAMPLE = re.compile(r"layers\.(\d+)\.downsample\.(.+)")
_COMPUTED = ("relative_position_index", "attn_mask")


class ConvStem(torch.nn.Module):
    """Two convolutions that halve the picture, and one that widens: patches of 4 x 4 px.

    Takes (b, 3, h, w), gives (b, h / 4, w / 4, 96).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        width_in, width_out = 3, _WIDTH // 8
        for _ in range(2):
            layers += [
                torch.nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False),
                torch.nn.BatchNorm2d(width_out),
                torch.nn.ReLU(inplace=True),
            ]
            width_in, width_out = width_out, width_out * 2
        layers.append(torch.nn.Conv2d(width_in, _WIDTH, 1))
        self.proj = torch.nn.Sequential(*layers)
        self.norm = torch.nn.LayerNorm(_WIDTH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 1))
        return embedded


def build() -> torch.nn.Module:
    """The network without weights: (b, 3, 224, 224) to (b, 768), averaged over the picture."""
    import timm

    network: Any = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    network.patch_embed = ConvStem()
    built: torch.nn.Module = network
    return built


def from_published(state: State) -> State:
    """Rename the published tensors to today's; what is computed and the classifier are left out."""
    return {
        _renamed(name): tensor
        for name, tensor in state.items()
        if name.rpartition(".")[2] not in _COMPUTED and not name.startswith("head.")
    }


def _renamed(name: str) -> str:
    found = _DOWNSAMPLE.fullmatch(name)
    return f"layers.{int(found[1]) + 1}.downsample.{found[2]}" if found else name
