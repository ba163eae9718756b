"""A network on packed bags: tiles → hidden → pooled, then joined by clinical covariates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from storm_clinic.errors import InputError, StudyError
from storm_clinic.heads.attention import GatedAttention, MeanPooling, Segments

_FIRST_READOUT = 0.1  # scale of the first image weights: at the start the image says little


class TileNetwork(nn.Module):
    """One hidden layer on each tile, a pooling, and a linear readout of pooled and clinical.

    Parameters
    ----------
    pooling : "mean" or "attention"
        See `storm_clinic.heads.attention`.
    width : int
        Features a tile.
    n_clinical : int
        Clinical covariates; they enter linearly, after pooling (early fusion).
    n_outputs : int
        Raw outputs a patient.
    n_hidden, n_attention : int
        Units of the hidden layer and of the attention.
    seed : int
        Of the first weights.
    """

    def __init__(
        self,
        pooling: str,
        *,
        width: int,
        n_clinical: int,
        n_outputs: int,
        n_hidden: int,
        n_attention: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.n_hidden = n_hidden
        with torch.random.fork_rng(
            devices=[]
        ):  # layers draw weights on their own; ours replace them
            self.tile = nn.Linear(width, n_hidden)
            self.pooling = _pooling(pooling, n_hidden, n_attention)
            self.from_image = nn.Linear(n_hidden, n_outputs)
        self.from_clinical = nn.Parameter(torch.zeros(n_outputs, n_clinical))
        self._draw(torch.Generator().manual_seed(seed))

    def _draw(self, generator: torch.Generator) -> None:
        """Weights uniform within one over the square root of the inputs; biases zero."""
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    bound = 1 / math.sqrt(layer.in_features)
                    layer.weight.uniform_(-bound, bound, generator=generator)
                    if layer.bias is not None:
                        layer.bias.zero_()
            self.from_image.weight.mul_(_FIRST_READOUT)

    def pool(self, tiles: Tensor, segments: Segments) -> tuple[Tensor, Tensor | None]:
        """Pooled hidden vectors, (n_bags, n_hidden), and attention, (n_tiles,), if there is any."""
        hidden = torch.relu(self.tile(tiles))
        pooled, weights = self.pooling(hidden, segments)
        return pooled, weights

    def forward(
        self, tiles: Tensor, segments: Segments, clinical: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Raw outputs of some whole bags, shape (n_bags, n_outputs).

        Parameters
        ----------
        tiles : tensor, shape (n_tiles, width)
            Standardised.
        segments : Segments
            Whose each tile is.
        clinical : tensor, shape (n_bags, n_clinical)
            The clinical block.
        mask : tensor, shape (n_bags, n_hidden), optional
            Factors of the pooled vector: dropout drawn by the caller, so that it can be repeated.
        """
        pooled, _ = self.pool(tiles, segments)
        if mask is not None:
            pooled = pooled * mask
        outputs: Tensor = self.from_image(pooled) + clinical @ self.from_clinical.T
        return outputs

    def start_from(self, slopes: NDArray[np.float64], intercepts: NDArray[np.float64]) -> None:
        """Set clinical coefficients, (n_clinical, n_outputs), and intercepts, (n_outputs,)."""
        with torch.no_grad():
            self.from_clinical.copy_(torch.from_numpy(slopes.T.copy()))
            self.from_image.bias.copy_(torch.from_numpy(intercepts))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """A copy of the weights, by name."""
        return {name: value.detach().numpy().copy() for name, value in self.state_dict().items()}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take weights by name.

        Raises
        ------
        InputError
            If a name or a shape does not fit.
        """
        weights = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"weights do not fit the network: {error}") from error


def _pooling(name: str, n_hidden: int, n_attention: int) -> nn.Module:
    if name == "mean":
        return MeanPooling()
    if name == "attention":
        return GatedAttention(n_hidden, n_attention)
    raise StudyError(f"unknown pooling {name!r}")
