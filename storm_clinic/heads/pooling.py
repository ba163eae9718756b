"""How a bag of tiles becomes one vector: poolings on packed bags, without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from storm_clinic.heads.segments import Segments

_CLAM_TILES = 8  # tiles at each end of a bag that the instance loss looks at, as in the paper


@dataclass(frozen=True)
class Pooled:
    """What a pooling gives.

    Attributes
    ----------
    vector : tensor, shape (n_bags, n_pooled)
    weights : tensor, shape (n_tiles, n_branches), optional
        Share of each tile in each branch, summing to one over a bag.
    """

    vector: Tensor
    weights: Tensor | None = None


class Pooling(Protocol):
    """A module that pools hidden tiles of shape (n_tiles, n_hidden)."""

    n_pooled: int

    def __call__(self, hidden: Tensor, segments: Segments, places: Tensor | None) -> Pooled:
        """Pool; ``places`` are µm from the middle of the slide, (n_tiles, 2), where known."""


class MeanPooling(nn.Module):
    """Every tile counts alike."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.n_pooled = n_hidden

    def forward(self, hidden: Tensor, segments: Segments, _places: Tensor | None) -> Pooled:
        """Mean of each hidden unit."""
        return Pooled(segments.mean(hidden))

    def terms(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and values of tiles; see `storm_clinic.heads.streamed_pooling`."""
        return hidden.new_zeros(len(hidden)), hidden


class MaxPooling(nn.Module):
    """The tile in which a hidden unit is strongest speaks for the bag."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.n_pooled = n_hidden

    def forward(self, hidden: Tensor, segments: Segments, _places: Tensor | None) -> Pooled:
        """Maximum of each hidden unit."""
        return Pooled(segments.max(hidden, 0.0))


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

    def terms(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and values of tiles; see `storm_clinic.heads.streamed_pooling`."""
        return self.scores(hidden)[:, 0], hidden


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

    def terms(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and values of tiles; see `storm_clinic.heads.streamed_pooling`."""
        return hidden.new_zeros(len(hidden)), self._evidence_of(hidden)

    def _evidence_of(self, hidden: Tensor) -> Tensor:
        return nn.functional.softplus(self.evidence(hidden).to(hidden.dtype))


class BranchAttention(nn.Module):
    """One attention branch a class (or cause), and an instance loss on its ends, as in CLAM.

    In the branch of a patient's own outcome the tiles with the most attention are taken as
    evidence for it and those with the least as none; a classifier of hidden tiles learns that.
    Patients whose outcome speaks for no branch, such as the censored, have no instance loss. CLAM
    scores it by a smooth SVM loss, here it is cross-entropy.

    References
    ----------
    Lu et al., Nature Biomedical Engineering 5 (2021) 555-570.
    """

    def __init__(self, n_hidden: int, n_attention: int, n_branches: int) -> None:
        super().__init__()
        self.n_pooled, self.n_branches = n_hidden * n_branches, n_branches
        self.scores = GatedScores(n_hidden, n_attention, n_branches)
        self.instance = nn.Linear(n_hidden, n_branches)

    def forward(self, hidden: Tensor, segments: Segments, _places: Tensor | None) -> Pooled:
        """Weighted sums of hidden tiles, one a branch, beside one another."""
        weights = segments.softmax(self.scores(hidden))
        branches = [segments.sum(weights[:, [b]] * hidden) for b in range(self.n_branches)]
        return Pooled(torch.cat(branches, dim=1), weights)

    def instance_loss(
        self, hidden: Tensor, segments: Segments, pooled: Pooled, branch: Tensor
    ) -> Tensor:
        """Sum over bags of the mean cross-entropy of their highest and lowest tiles.

        Parameters
        ----------
        hidden : tensor, shape (n_tiles, n_hidden)
            Tiles.
        segments : Segments
            Whose each tile is.
        pooled : Pooled
            Of these tiles.
        branch : int64 tensor, shape (n_bags,)
            The branch of each bag's outcome; -1 where there is none.
        """
        assert pooled.weights is not None
        speaks = (branch >= 0) & (segments.sizes > 1)
        own = branch.clamp(min=0)[segments.of_tile]
        weights = pooled.weights.detach().gather(1, own[:, None])[:, 0]
        logits = self.instance(hidden).gather(1, own[:, None])[:, 0]
        # At most half a bag at each end, so that no tile is called both.
        n_each = torch.minimum(segments.sizes // 2, torch.tensor(_CLAM_TILES))
        loss = logits.new_zeros(len(segments.sizes))
        for sign in (1.0, -1.0):
            rows = segments.highest(sign * weights, _CLAM_TILES)
            rows = rows[
                _rank_within(segments, rows, sign * weights) < n_each[segments.of_tile[rows]]
            ]
            terms = nn.functional.softplus(-sign * logits[rows])
            loss = loss.index_add(0, segments.of_tile[rows], terms)
        per_bag = loss / (2 * n_each.clamp(min=1))
        return torch.where(speaks, per_bag, 0.0).sum()


def _rank_within(segments: Segments, rows: Tensor, scores: Tensor) -> Tensor:
    """Rank of each row among the given ones of its bag, the highest score first."""
    among = segments.taken(rows)
    by_score = torch.argsort(scores[rows], descending=True, stable=True)
    order = by_score[torch.argsort(among.of_tile[by_score], stable=True)]
    starts = torch.cumsum(among.sizes, 0) - among.sizes
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - starts[among.of_tile]
    return rank
