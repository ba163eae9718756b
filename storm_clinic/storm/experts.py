"""A block of the network: attention that modalities share, experts that they do not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from storm_clinic.storm.attention import SharedAttention
from storm_clinic.storm.config import MODALITIES, Modality, StormConfig

_WIDENING = 4


class Experts(nn.Module):
    """One feed-forward network a modality, or one for all.

    References
    ----------
    Bao et al., VLMo, NeurIPS 2022 (mixture of modality experts with shared attention).
    """

    def __init__(self, config: StormConfig) -> None:
        super().__init__()
        names = MODALITIES if config.experts == "modality" else ("one",)
        self.of = nn.ModuleDict({name: _feed_forward(config.width) for name in names})
        self.one = config.experts == "one"

    def forward(self, tokens: Tensor, modalities: tuple[Modality, ...]) -> Tensor:
        """Tokens (b, n_tokens, width): equal parts along n_tokens, a modality each, in order."""
        if self.one:
            result: Tensor = self.of["one"](tokens)
            return result
        parts = tokens.chunk(len(modalities), dim=1)
        return torch.cat(
            [self.of[name](part) for name, part in zip(modalities, parts, strict=True)], dim=1
        )


class Block(nn.Module):
    """Shared attention, then experts; each after a layer norm, each added to what came in."""

    def __init__(self, config: StormConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = SharedAttention(config.width, config.n_heads)
        self.norm_experts = nn.LayerNorm(config.width)
        self.experts = Experts(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, bias: Tensor, modalities: tuple[Modality, ...]) -> Tensor:
        """Tokens of the same shape, (b, n_tokens, width)."""
        tokens = tokens + self.dropout(self.attention(self.norm_attention(tokens), bias))
        forwarded: Tensor = self.dropout(self.experts(self.norm_experts(tokens), modalities))
        return tokens + forwarded


def _feed_forward(width: int) -> nn.Sequential:
    inner = _WIDENING * width
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
