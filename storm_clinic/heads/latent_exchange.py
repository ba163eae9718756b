"""STORM's clinical head: latents of each modality look at those of the others, and are pooled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from storm_clinic.heads.pooling import GatedScores, Pooled
from storm_clinic.heads.segments import Segments

_N_HEADS = 4


@dataclass(frozen=True)
class Latents:
    """What the latents of one modality have read.

    Attributes
    ----------
    vectors : tensor, shape (n_bags, n_latents, n_hidden)
    shares : tensor, shape (n_tiles, n_latents), optional
        Of each tile in what each latent has read, summing to one over a bag; where asked for.
    segments : Segments
        Whose each tile is.
    """

    vectors: Tensor
    shares: Tensor | None
    segments: Segments


class LatentExchange(nn.Module):
    """Latents of every modality attend to those of all others; each modality is then pooled.

    All modalities look at once, at what the others were before. A modality that a patient lacks,
    or that is hidden from a step, is looked at by none. Latents are pooled by gated attention of
    the modality's own.

    With a single modality there is nothing to look at, and only the pooling is left.

    References
    ----------
    After STORM, arXiv 2604.03630 (Perceiver latents, cross-attention between modalities, attention
    pooling of each); sizes and the order of norms are ours.
    """

    def __init__(self, modalities: tuple[str, ...], n_hidden: int, n_attention: int) -> None:
        super().__init__()
        looking = modalities if len(modalities) > 1 else ()
        self.crossings = nn.ModuleDict({name: _Crossing(n_hidden) for name in looking})
        self.scores = nn.ModuleDict({n: GatedScores(n_hidden, n_attention) for n in modalities})

    def forward(
        self, latents: Mapping[str, Latents], seen: Mapping[str, Tensor]
    ) -> dict[str, Pooled]:
        """One vector a bag and modality, (n_bags, n_hidden), and each tile's share in it, if known.

        Parameters
        ----------
        latents : mapping of modality to Latents
            Of the same bags.
        seen : mapping of modality to bool tensor, shape (n_bags,)
            Who has the modality, and is shown it.
        """
        pooled = {}
        for name, own in latents.items():
            vectors = own.vectors
            if name in self.crossings:
                others = [other for other in latents if other != name]
                keys = torch.cat([latents[other].vectors for other in others], dim=1)
                shown = [seen[o][:, None].expand(-1, latents[o].vectors.shape[1]) for o in others]
                vectors = self.crossings[name](vectors, keys, torch.cat(shown, dim=1))
            n_bags, n_latents, n_hidden = vectors.shape
            scores = self.scores[name](vectors.reshape(-1, n_hidden)).view(n_bags, n_latents)
            weights = scores.softmax(dim=1)
            shares = None
            if own.shares is not None:
                shares = (own.shares * weights[own.segments.of_tile]).sum(dim=1, keepdim=True)
            pooled[name] = Pooled((weights[..., None] * vectors).sum(dim=1), shares)
        return pooled


class _Crossing(nn.Module):
    """Latents of one modality look at those of others, then pass a feed-forward; pre-norm."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.n_heads = math.gcd(n_hidden, _N_HEADS)
        self.norm_own, self.norm_others = nn.LayerNorm(n_hidden), nn.LayerNorm(n_hidden)
        self.query = nn.Linear(n_hidden, n_hidden)
        self.key_value = nn.Linear(n_hidden, 2 * n_hidden)
        self.looked = nn.Linear(n_hidden, n_hidden)
        self.norm_forward = nn.LayerNorm(n_hidden)
        self.forward_in = nn.Linear(n_hidden, 2 * n_hidden)
        self.forward_out = nn.Linear(2 * n_hidden, n_hidden)
        self.norm = nn.LayerNorm(n_hidden)

    def forward(self, own: Tensor, others: Tensor, shown: Tensor) -> Tensor:
        """New latents of the shape of ``own``; whoever is shown nothing keeps what he has."""
        n_bags, n_latents, n_hidden = own.shape
        query = self._by_head(self.query(self.norm_own(own)))
        pairs = self.key_value(self.norm_others(others)).chunk(2, dim=2)
        key, value = (self._by_head(part) for part in pairs)
        some = shown.any(dim=1)
        # A softmax over nothing would be NaN: such a bag looks at all, and what it sees is dropped.
        mask = (shown | ~some[:, None])[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        looked = self.looked(mixed.transpose(1, 2).reshape(n_bags, n_latents, n_hidden))
        own = own + looked * some[:, None, None]
        inner = nn.functional.gelu(self.forward_in(self.norm_forward(own)))
        vectors: Tensor = self.norm(own + self.forward_out(inner))
        return vectors

    def _by_head(self, latents: Tensor) -> Tensor:
        """From (n_bags, n, n_hidden) to (n_bags, n_heads, n, n_hidden / n_heads)."""
        n_bags, n_latents, _ = latents.shape
        return latents.view(n_bags, n_latents, self.n_heads, -1).transpose(1, 2)
