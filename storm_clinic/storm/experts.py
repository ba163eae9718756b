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

    def forward(self, tokens: Tensor, modalities: tuple[Modality, ...], present: Tensor) -> Tensor:
        """Tokens (b, n_tokens, width): equal parts along n_tokens, a modality each, in order.

        What comes out where a token is not ``present``, bool (b, n_tokens), means nothing.
        """
        if self.one:
            return _of_present(self.of["one"], tokens, present)
        parts = zip(
            modalities,
            tokens.chunk(len(modalities), dim=1),
            present.chunk(len(modalities), dim=1),
            strict=True,
        )
        return torch.cat(
            [_of_present(self.of[name], part, shown) for name, part, shown in parts], dim=1
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

    def forward(
        self, tokens: Tensor, bias: Tensor, modalities: tuple[Modality, ...], present: Tensor
    ) -> Tensor:
        """Tokens of the same shape, (b, n_tokens, width); ``present`` is bool (b, n_tokens)."""
        tokens = tokens + self.dropout(self.attention(self.norm_attention(tokens), bias))
        forwarded: Tensor = self.dropout(
            self.experts(self.norm_experts(tokens), modalities, present)
        )
        return tokens + forwarded


def _of_present(network: nn.Module, tokens: Tensor, present: Tensor) -> Tensor:
    """What a network makes of each token that is present, and 0 of others.

    On a GPU it sees all: picking some out would make it wait to be told how many.
    """
    if tokens.device.type != "cpu":
        every: Tensor = network(tokens)
        return every
    rows = present.flatten().nonzero().flatten()
    flat = tokens.reshape(-1, tokens.shape[-1])
    made: Tensor = network(flat.index_select(0, rows))
    return made.new_zeros(flat.shape).index_copy(0, rows, made).view(tokens.shape)


def _feed_forward(width: int) -> nn.Sequential:
    inner = _WIDENING * width
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
