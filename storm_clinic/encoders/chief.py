"""CHIEF's aggregation: a gated attention over tiles, and the mean of tiles under its weights.

Wang et al., Nature 634 (2024) 970-978; the gate is that of Ilse et al., ICML 2018.
"""

from __future__ import annotations

import torch

from storm_clinic.encoders.contract import State

_KEPT = "attention_net."


class _Gate(torch.nn.Module):
    """A score a tile; its parts are named as in the published file."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention_a = torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.Tanh())
        self.attention_b = torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.Sigmoid())
        self.attention_c = torch.nn.Linear(hidden, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.attention_c(self.attention_a(hidden) * self.attention_b(hidden))
        return scores


class Aggregator(torch.nn.Module):
    """Tiles (1, n, 768) to a slide (1, 768): the mean of the tiles, weighted by attention.

    What CHIEF adds from the name of the organ goes into its classifier, not into this output.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_net = torch.nn.Sequential(
            torch.nn.Linear(768, 512), torch.nn.ReLU(), torch.nn.Dropout(0.25), _Gate(512, 256)
        )

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        weights = self.attention_net(tiles).softmax(dim=1)
        mean: torch.Tensor = (weights * tiles).sum(dim=1)
        return mean


def from_published(state: State) -> State:
    """The attention's tensors; text, memory banks and classifiers of training are left out."""
    return {name: tensor for name, tensor in state.items() if name.startswith(_KEPT)}
