"""A tile encoder that is trained on with the network, its early layers more slowly than its late.

Where spots are embedded once by a frozen encoder none of this is needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.encoder_folder import (
    TrainedFrom,
    encoder_folder,
    named_card,
    read_start,
)
from storm_clinic.encoders.encoding import embed, prepare
from storm_clinic.encoders.hub import load_network
from storm_clinic.errors import EncoderError

DECAY = 0.7  # of the learning rate from a layer to the one before it, as in the paper
TILES_AT_ONCE = 64


class TrainableEncoder(nn.Module):
    """Tiles to embeddings, with gradients; its parameters are those of ``network``.

    Attributes
    ----------
    card : EncoderCard
        What it wants to see; its ``width`` is that of the embeddings.
    network : nn.Module
        The vision transformer.
    start : TrainedFrom
        What it was before it was trained on.
    tiles_at_once : int
        More tiles are embedded in parts of this many, whose inner values are computed again on the
        way back: memory is that of one part, whatever the batch.
    layer_decay : float
        By what the learning rate falls from a layer to the one before it; see `layer_scales`.
    """

    def __init__(
        self,
        card: EncoderCard,
        network: nn.Module,
        start: TrainedFrom,
        *,
        tiles_at_once: int = TILES_AT_ONCE,
        layer_decay: float = DECAY,
    ) -> None:
        super().__init__()
        self.card = card
        self.network = network
        self.start = start
        self.tiles_at_once = tiles_at_once
        self.layer_decay = layer_decay

    def forward(self, tiles: Tensor) -> Tensor:
        """Embeddings (b, width) of tiles, uint8 (b, side, side, 3).

        Before any update they are the frozen encoder's.

        Raises
        ------
        EncoderError
            If the tiles are of another type or shape: numbers from 0 to 1 would pass for black.
        """
        if tiles.dtype != torch.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
            raise EncoderError(
                f"tiles must be uint8 (b, side, side, 3), are {tiles.dtype} {tuple(tiles.shape)}",
                where=f"trainable encoder {self.card.name}",
            )
        if len(tiles) <= self.tiles_at_once:
            return self._embed(tiles)
        parts = torch.split(tiles, self.tiles_at_once)
        if not torch.is_grad_enabled():
            return torch.cat([self._embed(part) for part in parts])
        kept = [checkpoint(self._embed, part, use_reentrant=False) for part in parts]
        return torch.cat(kept)

    def _embed(self, tiles: Tensor) -> Tensor:
        return embed(self.network, prepare(tiles, self.card), self.card)


def trainable_card(encoder: str | EncoderCard, weights: Path | None = None) -> EncoderCard:
    """The card of an encoder as it is trained on.

    Of an encoder whose embedding is class token and mean of patches together, such as H0-mini's
    1,536 numbers, the class token alone is taken, the 768 of the paper; it goes by another name
    then, since its embeddings are others.

    Raises
    ------
    EncoderError
        If no encoder has that name.
    """
    card = named_card(encoder, weights) if isinstance(encoder, str) else encoder
    if card.pooling != "cls+mean":
        return card
    return replace(card, name=f"{card.name}-cls", pooling="cls", width=card.width // 2)


def load_trainable(
    encoder: str | EncoderCard = "h0-mini",
    *,
    weights: Path | None = None,
    tiles_at_once: int = TILES_AT_ONCE,
    layer_decay: float = DECAY,
) -> TrainableEncoder:
    """An encoder with its published weights, ready to be trained on; see `trainable_card`.

    Parameters
    ----------
    encoder, weights
        As for `storm_clinic.encoders.hub.load_encoder`.
    tiles_at_once, layer_decay
        See `TrainableEncoder`.

    Raises
    ------
    EncoderError
        As there, or if the network is no vision transformer of timm.
    """
    card = trainable_card(encoder, weights)
    network, digest = load_network(card, weights)
    _require_transformer(network, card.name)
    network = network.requires_grad_(True).train()
    name = encoder if isinstance(encoder, str) else encoder.name
    folder = encoder_folder(weights)
    if folder is not None:
        name = read_start(folder).encoder  # the network is the catalogue's, however often trained
    start = TrainedFrom(encoder=name, digest=digest)
    return TrainableEncoder(
        card, network, start, tiles_at_once=tiles_at_once, layer_decay=layer_decay
    )


def _require_transformer(network: nn.Module, name: str) -> None:
    """Refuse, before a training, what cannot be trained tile by tile and layer by layer.

    Batch normalisation would make an embedding depend on the other tiles of a batch.
    """
    layer_scales(network)
    shares = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if shares or not hasattr(network, "patch_embed"):
        what = "normalises over batches" if shares else "has no patch embedding"
        raise EncoderError(
            f"{type(network).__name__} {what}, unlike a vision transformer",
            where=f"trainable encoder {name}",
            fix="Use a vision transformer of timm, such as h0-mini, or frozen embeddings.",
        )


def layer_scales(network: nn.Module, *, decay: float = DECAY, prefix: str = "") -> dict[str, float]:
    """By what the learning rate of each parameter of a vision transformer is multiplied.

    ``decay`` ** (n_blocks + 1 - layer): layer 0 is patch embedding, positions and learned tokens,
    the blocks follow from 1, and what stands after the last block has the whole rate, as the rest
    of the model has.

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
