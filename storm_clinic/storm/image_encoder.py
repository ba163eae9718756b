"""A tile encoder that is trained on with the network, its early layers more slowly than its late.

Where spots are embedded once by a frozen encoder none of this is needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from storm_clinic.encoders.catalogue import find_card
from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.encoding import embed, prepare
from storm_clinic.encoders.hub import load_network
from storm_clinic.errors import EncoderError

DECAY = 0.7  # of the learning rate from a layer to the one before it, as in the paper


class TrainableEncoder(nn.Module):
    """Tiles to embeddings, with gradients; its parameters are those of ``network``.

    Attributes
    ----------
    card : EncoderCard
        What it wants to see; its ``width`` is that of the embeddings.
    network : nn.Module
        The vision transformer.
    """

    def __init__(self, card: EncoderCard, network: nn.Module) -> None:
        super().__init__()
        self.card = card
        self.network = network

    def forward(self, tiles: Tensor) -> Tensor:
        """Embeddings (b, width) of tiles, uint8 (b, side, side, 3)."""
        embedding: Tensor = embed(self.network, prepare(tiles, self.card), self.card)
        return embedding


def load_trainable(
    encoder: str | EncoderCard = "h0-mini", *, weights: Path | None = None
) -> TrainableEncoder:
    """An encoder with its published weights, ready to be trained on.

    Of an encoder whose embedding is class token and mean of patches together, such as H0-mini's
    1,536 numbers, the class token alone is taken: the 768 of the paper.

    Parameters
    ----------
    encoder, weights
        As for `storm_clinic.encoders.hub.load_encoder`.

    Raises
    ------
    EncoderError
        As there, or if the network is no vision transformer of timm.
    """
    card = find_card(encoder) if isinstance(encoder, str) else encoder
    if card.pooling == "cls+mean":
        card = replace(card, pooling="cls", width=card.width // 2)
    network, _ = load_network(card, weights)
    layer_scales(network)  # a network without layers in order is refused before a training
    return TrainableEncoder(card, network.requires_grad_(True).train())


def layer_scales(network: nn.Module, *, decay: float = DECAY, prefix: str = "") -> dict[str, float]:
    """By what the learning rate of each parameter of a vision transformer is multiplied.

    1 after the last block, ``decay`` in the last block, and ``decay`` times less with each block
    before it; patch embedding, positions and learned tokens come before the first.

    Parameters
    ----------
    network : nn.Module
        With ``blocks`` in order, as timm's.
    decay : float
        Above 0 to 1.
    prefix : str
        Put before each name: where the network stands in a larger module, such as
        ``"image.network."``.

    Returns
    -------
    dict of parameter's name to float
        For `storm_clinic.storm.optimisation.Optimiser`.

    Raises
    ------
    EncoderError
        If the network has no blocks, or the decay cannot be.

    References
    ----------
    Clark et al., ELECTRA, ICLR 2020; Bao et al., BEiT, ICLR 2022.
    """
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise EncoderError(
            f"{type(network).__name__} has no blocks in order, so that no layer comes before "
            "another",
            where="trainable image encoder",
            fix="Use a vision transformer of timm, such as h0-mini, or frozen embeddings.",
        )
    if not 0 < decay <= 1:
        raise EncoderError(f"must be above 0 to 1, is {decay}", where="layer-wise decay")
    return {
        prefix + name: decay ** (len(blocks) + 1 - _depth(name, len(blocks)))
        for name, _ in network.named_parameters()
    }


_BEFORE = ("patch_embed", "cls_token", "pos_embed", "reg_token", "dist_token", "norm_pre")


def _depth(name: str, n_blocks: int) -> int:
    """0 before the first block, then the block's number from 1, then one more."""
    first, _, rest = name.partition(".")
    if first == "blocks":
        return int(rest.partition(".")[0]) + 1
    return 0 if first in _BEFORE else n_blocks + 1
