"""Attention in branches, one a class or cause, with a loss on single tiles, as in CLAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from storm_clinic.heads.pooling import GatedScores, Pooled
from storm_clinic.heads.segments import Segments
from storm_clinic.heads.streamed_pooling import HiddenStream, highest_of_parts

_CLAM_TILES = 8  # tiles at each end of a bag that the instance loss looks at, as in the paper
_SIGNS = (1.0, -1.0)  # of the highest end and of the lowest


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

    def pool_stream(self, stream: HiddenStream, weighted: bool) -> Pooled:
        """The same of one bag, chunk by chunk."""
        return self.scores.pool_stream(stream, weighted)

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
        own = branch.clamp(min=0)[segments.of_tile]
        weights = pooled.weights.detach().gather(1, own[:, None])[:, 0]
        logits = self.instance(hidden).gather(1, own[:, None])[:, 0]
        n_each = _n_each(segments.sizes)
        ends = []
        for sign in _SIGNS:
            rows = segments.highest(sign * weights, _CLAM_TILES)
            rank = _rank_within(segments, rows, sign * weights)
            ends.append(rows[rank < n_each[segments.of_tile[rows]]])
        return _loss_of_ends(logits, ends, segments.of_tile, segments.sizes, branch)

    def stream_instance_loss(self, stream: HiddenStream, pooled: Pooled, branch: Tensor) -> Tensor:
        """The same of one bag, of which only the highest and lowest tiles are read again.

        Parameters
        ----------
        stream : HiddenStream
            Tiles.
        pooled : Pooled
            Of these tiles, with weights.
        branch : int64 tensor, shape (1,)
            The branch of the bag's outcome; -1 where there is none.
        """
        assert pooled.weights is not None
        sizes = torch.tensor([len(stream.tiles)])
        own = int(branch.clamp(min=0))
        parts = torch.split(pooled.weights[:, own], stream.tiles.chunk_tiles)
        n_each = int(_n_each(sizes))
        ends = [highest_of_parts((sign * part for part in parts), n_each) for sign in _SIGNS]
        rows = torch.unique(torch.cat(ends))
        hidden, among, _ = stream.taken(rows)
        logits = self.instance(hidden)[:, own]
        places = [torch.searchsorted(rows, end) for end in ends]
        return _loss_of_ends(logits, places, among.of_tile, sizes, branch)


def _loss_of_ends(
    logits: Tensor, ends: list[Tensor], of_tile: Tensor, sizes: Tensor, branch: Tensor
) -> Tensor:
    """Sum over bags of the mean cross-entropy of the rows at both ends.

    ``logits`` and ``of_tile`` are (n_rows,), of the tiles that ``ends`` counts; ``sizes`` and
    ``branch`` are (n_bags,).
    """
    loss = logits.new_zeros(len(sizes))
    for sign, rows in zip(_SIGNS, ends, strict=True):
        loss = loss.index_add(0, of_tile[rows], nn.functional.softplus(-sign * logits[rows]))
    per_bag = loss / (2 * _n_each(sizes).clamp(min=1))
    return torch.where((branch >= 0) & (sizes > 1), per_bag, 0.0).sum()


def _n_each(sizes: Tensor) -> Tensor:
    """Tiles at each end: at most half a bag, so that no tile is called both."""
    return torch.minimum(sizes // 2, torch.tensor(_CLAM_TILES))


def _rank_within(segments: Segments, rows: Tensor, scores: Tensor) -> Tensor:
    """Rank of each row among the given ones of its bag, the highest score first."""
    among = segments.taken(rows)
    by_score = torch.argsort(scores[rows], descending=True, stable=True)
    order = by_score[torch.argsort(among.of_tile[by_score], stable=True)]
    starts = torch.cumsum(among.sizes, 0) - among.sizes
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - starts[among.of_tile]
    return rank
