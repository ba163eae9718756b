"""How a bag of tiles becomes one vector: poolings on packed bags, without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from storm_clinic.heads.segments import Segments
from storm_clinic.heads.streamed_pooling import HiddenStream, highest_of_parts, looking


@dataclass(frozen=True)
class Pooled:
    """What a pooling gives.

    Attributes
    ----------
    vector : tensor, shape (n_bags, n_pooled)
    weights : tensor, shape (n_tiles, n_branches), optional
        Share of each tile in each branch, summing to one over a bag. Those of a stream are worked
        out only where asked for, and have no gradient.
    """

    vector: Tensor
    weights: Tensor | None = None


class Pooling(Protocol):
    """A module that pools hidden tiles of shape (n_tiles, n_hidden)."""

    n_pooled: int

    def __call__(self, hidden: Tensor, segments: Segments, places: Tensor | None) -> Pooled:
        """Pool; ``places`` are µm from the middle of the slide, (n_tiles, 2), where known."""

    def pool_stream(self, stream: HiddenStream, weighted: bool) -> Pooled:
        """Pool one bag without holding it; whether the weights of its tiles are asked for."""


def _evenly(hidden: Tensor) -> Tensor:
    """Scores under which all tiles weigh the same, for `HiddenStream.mean`."""
    return hidden.new_zeros(len(hidden), 1, 1)


class MeanPooling(nn.Module):
    """Every tile counts alike."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.n_pooled = n_hidden

    def forward(self, hidden: Tensor, segments: Segments, _places: Tensor | None) -> Pooled:
        """Mean of each hidden unit."""
        return Pooled(segments.mean(hidden))

    def pool_stream(self, stream: HiddenStream, _weighted: bool) -> Pooled:
        """The same of one bag, chunk by chunk."""
        read = stream.mean(lambda hidden, _places, _asked: (_evenly(hidden), hidden[:, None]), ())
        return Pooled(read.means[0])


class MaxPooling(nn.Module):
    """The tile in which a hidden unit is strongest speaks for the bag."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.n_pooled = n_hidden

    def forward(self, hidden: Tensor, segments: Segments, _places: Tensor | None) -> Pooled:
        """Maximum of each hidden unit."""
        return Pooled(segments.max(hidden))

    def pool_stream(self, stream: HiddenStream, _weighted: bool) -> Pooled:
        """The same of one bag: a look finds the strongest tiles, and only they are pooled.

        Of tiles that tie in a unit the first is taken, as `Segments.max` does.
        """
        with looking():
            rows = self._strongest(stream)
        return self.forward(*stream.taken(torch.unique(rows)))

    def _strongest(self, stream: HiddenStream) -> Tensor:
        """Row of the tile that is strongest in each hidden unit, (n_hidden,)."""
        top = torch.full((self.n_pooled,), -torch.inf)
        rows = torch.zeros(self.n_pooled, dtype=torch.int64)
        n_before = 0
        for hidden in stream.chunks():
            highest, at = hidden.max(dim=0)  # the first of those that tie
            higher = (highest > top) | highest.isnan()
            rows = torch.where(higher, n_before + at, rows)
            top = torch.where(higher, highest, top)
            n_before += len(hidden)
        return rows


class GatedScores(nn.Module):
    """One score a tile and branch: gated attention before its softmax.

    References
    ----------
    Ilse, Tomczak and Welling, Attention-based deep multiple instance learning, ICML 2018, eq. 9.
    """

    def __init__(self, n_hidden: int, n_attention: int, n_branches: int = 1) -> None:
        super().__init__()
        self.content_and_gate = nn.Linear(n_hidden, 2 * n_attention)
        # A bias would cancel in the softmax.
        self.score = nn.Linear(n_attention, n_branches, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores, (n_tiles, n_branches)."""
        content, gate = self.content_and_gate(hidden).chunk(2, dim=1)
        scores: Tensor = self.score(torch.tanh(content) * torch.sigmoid(gate))
        return scores.to(hidden.dtype)

    def pool_stream(self, stream: HiddenStream, weighted: bool) -> Pooled:
        """Hidden tiles of one bag averaged by the softmax of each branch, beside one another."""
        read = stream.mean(
            lambda hidden, _places, _asked: (self(hidden)[:, :, None], hidden[:, None]),
            self.parameters(),
            weighted=weighted,
        )
        weights = None if read.weights is None else read.weights[:, :, 0]
        return Pooled(read.means.reshape(1, -1), weights)


class GatedAttention(nn.Module):
    """Tiles weighted by gated attention, learned with the risk."""

    def __init__(self, n_hidden: int, n_attention: int) -> None:
        super().__init__()
        self.n_pooled = n_hidden
        self.scores = GatedScores(n_hidden, n_attention)

    def forward(self, hidden: Tensor, segments: Segments, _places: Tensor | None) -> Pooled:
        """Weighted sum of hidden tiles."""
        weights = segments.softmax(self.scores(hidden))
        return Pooled(segments.weighted_sum(weights[:, 0], hidden), weights)

    def pool_stream(self, stream: HiddenStream, weighted: bool) -> Pooled:
        """The same of one bag, chunk by chunk."""
        return self.scores.pool_stream(stream, weighted)


class TopAttention(nn.Module):
    """Gated attention among the few tiles of each bag that score highest; the others count nothing.

    The scores learn through the softmax of those that were kept.
    """

    def __init__(self, n_hidden: int, n_attention: int, n_top: int) -> None:
        super().__init__()
        self.n_pooled, self.n_top = n_hidden, n_top
        self.scores = GatedScores(n_hidden, n_attention)

    def forward(self, hidden: Tensor, segments: Segments, _places: Tensor | None) -> Pooled:
        """Weighted sum of the hidden tiles that were kept."""
        scores = self.scores(hidden)
        kept = segments.highest(scores[:, 0], self.n_top)
        among = segments.taken(kept)
        weights = among.softmax(scores[kept])
        vector = among.sum(weights * hidden[kept])
        return Pooled(vector, torch.zeros_like(scores).index_copy(0, kept, weights))

    def pool_stream(self, stream: HiddenStream, weighted: bool) -> Pooled:
        """The same of one bag: a look finds the tiles to keep, and only they are pooled."""
        with looking():
            scores = (self.scores(hidden)[:, 0] for hidden in stream.chunks())
            rows = highest_of_parts(scores, self.n_top)
        pooled = self.forward(*stream.taken(rows))
        if not weighted or pooled.weights is None:
            return Pooled(pooled.vector)
        among = pooled.weights.detach()
        weights = among.new_zeros(len(stream.tiles), 1).index_copy(0, rows, among)
        return Pooled(pooled.vector, weights)


class EvidencePooling(nn.Module):
    """Tiles bring evidence that cannot be negative, and the bag has its mean.

    The softmax of attention divides by all tiles, so that a model which must count them (how much
    of a tumour looks bad?) cannot let its weights say where what it counts lies. Here a tile's
    weight is its share of the bag's evidence, which is what the risk is made of.

    References
    ----------
    After additive MIL, Javed et al., NeurIPS 2022: the bag's score is a sum over tiles.
    """

    def __init__(self, n_hidden: int, n_branches: int) -> None:
        super().__init__()
        self.n_pooled = n_branches
        self.evidence = nn.Linear(n_hidden, n_branches)

    def forward(self, hidden: Tensor, segments: Segments, _places: Tensor | None) -> Pooled:
        """Mean evidence of each branch, (n_bags, n_branches)."""
        evidence = self._evidence_of(hidden)
        total = segments.sum(evidence)
        return Pooled(segments.mean(evidence), evidence / total[segments.of_tile])

    def pool_stream(self, stream: HiddenStream, weighted: bool) -> Pooled:
        """The same of one bag, chunk by chunk, and once more for the weights."""
        read = stream.mean(
            lambda hidden, _places, _asked: (_evenly(hidden), self._evidence_of(hidden)[:, None]),
            self.parameters(),
        )
        if not weighted:
            return Pooled(read.means[0])
        with looking():
            evidence = torch.cat([self._evidence_of(hidden) for hidden in stream.chunks()])
        return Pooled(read.means[0], evidence / evidence.sum(dim=0))

    def _evidence_of(self, hidden: Tensor) -> Tensor:
        return nn.functional.softplus(self.evidence(hidden).to(hidden.dtype))
