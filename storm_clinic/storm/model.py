"""The STORM network: neighbourhoods of spots to embeddings and virtual expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from storm_clinic.errors import CheckpointError, SectionError
from storm_clinic.storm.attention import attention_bias, head_slopes
from storm_clinic.storm.config import MODALITIES, Modality, StormConfig
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.experts import Block
from storm_clinic.storm.gene_encoder import (
    GeneEncoder,
    GeneScale,
    NovaeTokens,
    RawGenes,
    VirtualExpression,
)

_START = 0.02  # spread of learned tokens at the start, as in ViT


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the network says about a batch of contexts. All widths are ``config.width``.

    Attributes
    ----------
    tokens : mapping of modality to float tensor, shape (b, n_slots, width)
        Last state of every slot, for decoders; that of an absent token means nothing.
    spot : float tensor, shape (b, width)
        The middle spot's, read out of image tokens, or of expression tokens where it has no image;
        see `StormConfig.readout`.
    context : float tensor, shape (b, width)
        Mean over all tokens that are present.
    joint : float tensor, shape (b, width)
        Mean of what is read out of each modality that the middle spot has; from H&E alone it is
        ``spot``.
    """

    tokens: dict[Modality, Tensor]
    spot: Tensor
    context: Tensor
    joint: Tensor


class StormModel(nn.Module):
    """One transformer for H&E, expression, or both, around each spot.

    A modality that is absent is left out, with the same weights. Nothing but distance tells places
    apart (see `StormConfig.alibi`), so no output depends on how a section is turned or mirrored.

    Parameters
    ----------
    config : StormConfig
    checkpoint_activations : bool
        In training, compute the blocks again on the way back instead of keeping their inner
        values: for base, whose activations outgrow its weights.

    References
    ----------
    STORM, arXiv 2604.03630; where it is silent, choices are ours.
    """

    slopes: Tensor
    image_axes: Tensor

    def __init__(self, config: StormConfig, *, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = checkpoint_activations
        seen = config.image_axes or config.image_width
        if config.image_axes:
            self.register_buffer("image_axes", torch.eye(seen, config.image_width))
        self.image_norm = nn.LayerNorm(seen)  # encoders differ widely in scale
        self.image_in = nn.Linear(seen, config.width)
        self.gene_scale = GeneScale(config.n_genes)
        if config.gene_encoder == "novae":
            self.novae_tokens = NovaeTokens(config)
        else:
            encoded = config.gene_encoder == "mlp"
            self.gene_encoder = GeneEncoder(config) if encoded else RawGenes(config)
            self.expression_in = nn.Linear(self.gene_encoder.width, config.width)
        self.modality = _learned_tokens(config.width)
        self.mask_token = _learned_tokens(config.width)
        self.register_buffer("slopes", head_slopes(config.n_heads), persistent=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = VirtualExpression(config)

    def forward(self, contexts: Contexts, *, embedded: bool = False) -> Encoded:
        """Encode a batch of contexts.

        Parameters
        ----------
        contexts : Contexts
            What is shown.
        embedded : bool
            Whether image and expression already went through `embed_image` and
            `embed_expression` (or ``novae_tokens``). Each spot stands in up to 25 contexts:
            embedding it once, before `Contexts.gather`, saves most of the work at the entrance,
            with the same result.

        Raises
        ------
        SectionError
            If a width is not the network's, or expression comes without its panel.
        """
        self._check(contexts, embedded)
        modalities = contexts.modalities
        tokens = torch.cat([self._tokens(contexts, name, embedded) for name in modalities], dim=1)
        present = torch.cat([contexts.present(name) for name in modalities], dim=1)
        places = contexts.xy_um.repeat(1, len(modalities), 1)
        bias = attention_bias(
            places,
            present,
            self.slopes if self.config.alibi else None,
            pitch_um=self.config.pitch_um,
        )
        for block in self.blocks:
            if self.checkpoint_activations and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, bias, modalities, present, use_reentrant=False)
            else:
                tokens = block(tokens, bias, modalities, present)
        readout_um = self.config.readout * self.config.pitch_um
        return _summarise(self.norm(tokens), present, contexts, readout_um)

    def set_image_axes(self, axes: Tensor) -> None:
        """Take over what `image_scale.principal_axes` found on training slides.

        Parameters
        ----------
        axes : float tensor, shape (image_axes, image_width)
            One a row.

        Raises
        ------
        CheckpointError
            If the shape is another, or a value is not finite.
        """
        shape = (self.config.image_axes, self.config.image_width)
        if tuple(axes.shape) != shape or not bool(torch.isfinite(axes).all()):
            raise CheckpointError(
                f"axes must be {shape} finite numbers, are {tuple(axes.shape)}", where="image axes"
            )
        self.image_axes.copy_(axes)

    def embed_image(self, image: Tensor) -> Tensor:
        """Image embeddings (..., image_width) as tokens (..., width)."""
        return self.embed_along_axes(self.along_axes(image))

    def along_axes(self, image: Tensor) -> Tensor:
        """Image embeddings (..., image_width) along the axes (..., image_axes), if there are any.

        No axis is ever learned: whoever shows the same embeddings again and again does this once.
        """
        if not self.config.image_axes:
            return image
        return functional.linear(image, self.image_axes)

    def embed_along_axes(self, image: Tensor) -> Tensor:
        """What `along_axes` gave as tokens (..., width)."""
        tokens: Tensor = self.image_in(self.image_norm(image))
        return tokens

    def embed_expression(self, expression: Tensor, panel: Tensor) -> Tensor:
        """Expression (..., n_genes) as tokens (..., width).

        Parameters
        ----------
        expression : float tensor, shape (..., n_genes)
            log1p of counts per 10,000.
        panel : bool tensor, shape (..., n_genes)
            Genes that were measured; as ``expression``, or with ones for lengths.

        Raises
        ------
        SectionError
            If the network reads expression as Novae embeds it.
        """
        if self.config.gene_encoder == "novae":
            raise SectionError(
                "this network reads expression as Novae embeds it, not counts",
                where="contexts",
                fix="Embed the visible spots (storm.novae.embed_visible), then novae_tokens.",
            )
        tokens: Tensor = self.expression_in(self.gene_encoder(expression, panel, self.gene_scale))
        return tokens

    def virtual_expression(self, spots: Tensor, genes: Tensor | None = None) -> Tensor:
        """Expression foretold from ``Encoded.spot``: log1p of counts per 10,000.

        Parameters
        ----------
        spots : float tensor, shape (..., width)
            One embedding a spot.
        genes : int tensor, shape (n_wanted,), optional
            Places in the vocabulary; all by default.

        Returns
        -------
        float tensor, shape (..., n_genes or n_wanted)
        """
        return self.head.read_out(self.head.hidden(spots), self.gene_scale, genes)

    def _check(self, contexts: Contexts, embedded: bool) -> None:
        config = self.config
        for values, own, name in (
            (contexts.image, config.image_width, "numbers an image"),
            (contexts.expression, config.n_genes, "genes"),
        ):
            wanted = config.width if embedded else own
            if values is not None and values.shape[2] != wanted:
                raise SectionError(
                    f"{values.shape[2]} {name} do not fit a network for {wanted}", where="contexts"
                )
        if contexts.expression is not None and contexts.panel is None and not embedded:
            raise SectionError("expression needs a panel", where="contexts")

    def _tokens(self, contexts: Contexts, modality: Modality, embedded: bool) -> Tensor:
        """Embed what may be seen; put the learned token where it is masked, and 0 elsewhere."""
        present, masked = contexts.present(modality), contexts.masked(modality)
        values = contexts.image if modality == "image" else contexts.expression
        assert values is not None  # `Contexts.modalities` names those that are given
        # Cleared before anything reads it: neither value nor gradient of a hidden spot gets on.
        values = torch.where((present & ~masked)[..., None], values, torch.zeros_like(values))
        tokens = values
        if not embedded and modality == "image":
            tokens = self.embed_image(values)
        elif not embedded:
            assert contexts.panel is not None  # checked above
            tokens = self.embed_expression(values, contexts.panel[:, None])
        tokens = torch.where(masked[..., None], self.mask_token[modality].to(tokens.dtype), tokens)
        tokens = tokens + self.modality[modality].to(tokens.dtype)
        return torch.where(present[..., None], tokens, torch.zeros_like(tokens))


def _summarise(tokens: Tensor, present: Tensor, contexts: Contexts, readout_um: float) -> Encoded:
    names, middle = contexts.modalities, contexts.middle
    by_name = dict(zip(names, tokens.chunk(len(names), dim=1), strict=True))
    shown = dict(zip(names, present.chunk(len(names), dim=1), strict=True))
    read = torch.stack(
        [
            _read_out(by_name[name], shown[name], contexts, readout_um)
            if readout_um
            else by_name[name][:, middle]
            for name in names
        ],
        dim=1,
    )
    here = torch.stack([shown[name][:, middle] for name in names], dim=1)
    first = here.to(torch.int8).argmax(dim=1)  # image stands first; 0 where neither is there
    return Encoded(
        tokens=by_name,
        spot=read[torch.arange(len(read), device=read.device), first],
        context=_mean(tokens, present),
        joint=_mean(read, here),
    )


def _read_out(tokens: Tensor, shown: Tensor, contexts: Contexts, readout_um: float) -> Tensor:
    """Mean of one modality's tokens (b, width), falling with distance from the middle."""
    # Places of empty slots may be anything, even NaN.
    known = contexts.valid[..., None]
    places = torch.where(known, contexts.xy_um, torch.zeros_like(contexts.xy_um))
    away = torch.linalg.vector_norm(places - places[:, contexts.middle, None], dim=-1) / readout_um
    weights = torch.where(shown, torch.exp(-away), torch.zeros_like(away)).to(tokens.dtype)
    kept = torch.where(shown[..., None], tokens, torch.zeros_like(tokens))
    total = torch.einsum("bs,bsw->bw", weights, kept)
    return total / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def _mean(tokens: Tensor, present: Tensor) -> Tensor:
    """Mean of present tokens along axis 1; 0 where none is present."""
    kept = torch.where(present[..., None], tokens, torch.zeros_like(tokens)).sum(dim=1)
    return kept / present.sum(dim=1, keepdim=True).clamp(min=1)


def _learned_tokens(width: int) -> nn.ParameterDict:
    return nn.ParameterDict({name: _START * torch.randn(width) for name in MODALITIES})


def pool_slide(spots: NDArray[Any]) -> NDArray[np.float32]:
    """The slide's embedding: the mean of its spots', summed in float64 in the order given.

    Parameters
    ----------
    spots : float array, shape (n_spots, width)
        One embedding a spot.

    Returns
    -------
    float32 array, shape (width,)
        The same bytes for the same spots in the same order, on any machine.

    Raises
    ------
    SectionError
        If there are no spots, or a value is not finite.
    """
    if spots.ndim != 2 or not len(spots) or not np.isfinite(spots).all():
        raise SectionError("needs finite embeddings of at least one spot", where="slide embedding")
    # cumsum adds one after the other, where sum may add in blocks that depend on the machine.
    total = np.zeros(spots.shape[1])
    for block in np.array_split(spots, range(4096, len(spots), 4096)):
        total += np.cumsum(block, axis=0, dtype=np.float64)[-1]
    mean: NDArray[np.float32] = (total / len(spots)).astype(np.float32)
    return mean
