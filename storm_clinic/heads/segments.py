"""Packed bags as tensors: which rows are whose, and sums, maxima and softmax over each bag."""

from __future__ import annotations

import torch
from torch import Tensor

_LONG_BAG = 256  # tiles a bag on average, from which on a product a bag is faster than a scatter


class Segments:
    """Which bag each row of a packed batch belongs to. A bag may be empty.

    Attributes
    ----------
    sizes : int64 tensor, shape (n_bags,)
        Tiles a bag.
    of_tile : int64 tensor, shape (n_tiles,)
        Bag of each tile.
    """

    def __init__(self, sizes: Tensor) -> None:
        self.sizes = sizes
        self._lengths: list[int] = sizes.tolist()
        self.of_tile = torch.repeat_interleave(torch.arange(len(sizes)), sizes)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over each bag's tiles, shape (n_bags, ...); 0 of an empty bag."""
        total = values.new_zeros((len(self.sizes), *values.shape[1:]))
        return total.index_add(0, self.of_tile, values)

    def weighted_sum(self, weights: Tensor, values: Tensor) -> Tensor:
        """Sum over each bag's tiles of weights (n_tiles,) times values (n_tiles, n): (n_bags, n).

        Bags of many tiles are summed by a product of matrices each, without writing what is summed.
        """
        if len(values) < _LONG_BAG * len(self.sizes):
            return self.sum(weights[:, None] * values)
        with torch.autocast("cpu", enabled=False):
            own = torch.split(weights, self._lengths)
            tiles = torch.split(values, self._lengths)
            return torch.stack([w @ of_bag for w, of_bag in zip(own, tiles, strict=True)])

    def mean(self, values: Tensor) -> Tensor:
        """Mean over each bag's tiles, shape (n_bags, n); 0 of an empty bag."""
        return self.sum(values) / self.sizes.clamp(min=1)[:, None]

    def max(self, values: Tensor) -> Tensor:
        """Largest value among each bag's tiles, shape (n_bags, n); 0 of an empty bag.

        Of tiles that tie the first has the gradient. (``torch.segment_reduce`` would give each of
        them the whole of a negative one, as if there were several bags.)
        """
        nothing = values.new_zeros(values.shape[1:])
        bags = torch.split(values, self._lengths)
        return torch.stack([bag.max(dim=0).values if len(bag) else nothing for bag in bags])

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax over each bag's tiles, of the shape of the scores, (n_tiles, ...)."""
        weights = torch.exp(scores - self._top(scores.detach())[self.of_tile])
        return weights / self.sum(weights)[self.of_tile]

    def highest(self, scores: Tensor, n: int) -> Tensor:
        """Rows of the ``n`` highest scores of each bag (all of a smaller bag), ascending.

        Parameters
        ----------
        scores : tensor, shape (n_tiles,)
            One a tile.
        n : int
            How many of each bag.
        """
        by_score = torch.argsort(scores.detach(), descending=True, stable=True)
        order = by_score[torch.argsort(self.of_tile[by_score], stable=True)]
        starts = torch.cumsum(self.sizes, 0) - self.sizes
        rank = torch.arange(len(order)) - starts[self.of_tile]
        return torch.sort(order[rank < n]).values

    def taken(self, rows: Tensor) -> Segments:
        """The segments of some of the rows, which are given in ascending order."""
        return Segments(torch.bincount(self.of_tile[rows], minlength=len(self.sizes)))

    def _top(self, scores: Tensor) -> Tensor:
        """`max` of scores without a gradient, (n_bags, ...): quicker of many small bags."""
        if not len(scores):
            return scores.new_zeros((len(self.sizes), *scores.shape[1:]))
        top: Tensor = torch.segment_reduce(scores, "max", lengths=self.sizes, axis=0)
        return torch.where(torch.isneginf(top), 0.0, top)
