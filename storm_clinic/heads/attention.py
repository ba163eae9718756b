"""How a bag of tiles becomes one vector: poolings on packed bags, without padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Segments:
    """Which bag each row of a packed batch belongs to.

    Attributes
    ----------
    sizes : int64 tensor, shape (n_bags,)
        Tiles a bag; none is empty.
    of_tile : int64 tensor, shape (n_tiles,)
        Bag of each tile.
    """

    def __init__(self, sizes: Tensor) -> None:
        self.sizes = sizes
        self.of_tile = torch.repeat_interleave(torch.arange(len(sizes)), sizes)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over each bag's tiles, shape (n_bags, ...)."""
        total = values.new_zeros((len(self.sizes), *values.shape[1:]))
        return total.index_add(0, self.of_tile, values)

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax over each bag's tiles, shape (n_tiles,)."""
        top = torch.segment_reduce(scores.detach(), "max", lengths=self.sizes)
        weights = torch.exp(scores - top[self.of_tile])
        return weights / self.sum(weights)[self.of_tile]


class MeanPooling(nn.Module):
    """Every tile counts alike."""

    def forward(self, hidden: Tensor, segments: Segments) -> tuple[Tensor, Tensor | None]:
        """Pool (n_tiles, n_hidden) to (n_bags, n_hidden)."""
        return segments.sum(hidden) / segments.sizes[:, None], None


class GatedAttention(nn.Module):
    """Tiles weighted by gated attention, learned with the risk.

    References
    ----------
    Ilse, Tomczak and Welling, Attention-based deep multiple instance learning, ICML 2018, eq. 9.
    """

    def __init__(self, n_hidden: int, n_attention: int) -> None:
        super().__init__()
        self.content_and_gate = nn.Linear(n_hidden, 2 * n_attention)
        self.score = nn.Linear(n_attention, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, hidden: Tensor, segments: Segments) -> tuple[Tensor, Tensor | None]:
        """Pool (n_tiles, n_hidden) to (n_bags, n_hidden); also the weights, (n_tiles,)."""
        content, gate = self.content_and_gate(hidden).chunk(2, dim=1)
        gated = torch.tanh(content) * torch.sigmoid(gate)
        weights = segments.softmax(self.score(gated).squeeze(1))
        return segments.sum(weights[:, None] * hidden), weights
