"""Pooling a bag that is too large to be held: chunk by chunk, and once more for the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from storm_clinic.heads.segments import Segments
from storm_clinic.heads.tile_tensors import TileStream

# From hidden tiles, (n_tiles, n_hidden), their places, (n_tiles, 2), where known, and what they
# are asked with, if anything, to scores, (n_tiles, n_branches, n_heads), and values,
# (n_tiles, n_heads, width).
Terms = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class StreamedMean:
    """Means of one bag's values, weighted by the softmax of its scores.

    Attributes
    ----------
    means : tensor, shape (n_branches, n_heads, width)
        Summed over chunks in float64.
    weights : tensor, shape (n_tiles, n_branches, n_heads), optional
        Softmax over tiles, without gradient; only where asked for.
    """

    means: Tensor
    weights: Tensor | None


@dataclass(frozen=True, eq=False)
class HiddenStream:
    """Hidden tiles of one bag, made chunk by chunk in every look.

    Attributes
    ----------
    tiles : TileStream
    layer : callable
        From standardised tiles, (n_tiles, n_features), to hidden ones, (n_tiles, n_hidden).
    parameters : tuple of tensors
        Of the layer.
    """

    tiles: TileStream
    layer: Callable[[Tensor], Tensor]
    parameters: tuple[Tensor, ...]

    @property
    def segments(self) -> Segments:
        """The bag as the only one."""
        return Segments(torch.tensor([len(self.tiles)]))

    def chunks(self) -> Iterator[Tensor]:
        """Hidden tiles, (at most chunk_tiles, n_hidden), for who is `looking`."""
        for values, _ in self.tiles.chunks():
            yield self.layer(values)

    def taken(self, rows: Tensor) -> tuple[Tensor, Segments, Tensor | None]:
        """Some hidden tiles as a packed bag, with gradient: what a pooling is called with.

        Parameters
        ----------
        rows : int64 tensor, shape (n_rows,)
            Ascending.
        """
        few = self.tiles.taken(rows)
        return self.layer(few.values), few.segments, few.places

    def mean(
        self,
        terms: Terms,
        parameters: Iterable[Tensor],
        *,
        asked: Tensor | None = None,
        weighted: bool = False,
    ) -> StreamedMean:
        """Values averaged under the softmax of their scores, in the memory of a chunk.

        No activation is kept: backward reads the tiles again. With weights w = softmax(s) and the
        mean z of the values v, the gradient g of z reaches a value as w g and a score as
        w (v - z)·g, which needs of the other chunks nothing but z and the softmax's denominator.

        Parameters
        ----------
        terms : callable
            See `Terms`.
        parameters : iterable of tensors
            Leaves that ``terms`` depends on.
        asked : tensor, optional
            What else it depends on: it is handed to ``terms``, and its gradient flows on.
        weighted : bool
            Whether the weights of all tiles are kept: a number a tile, branch and head.
        """

        def of_chunk(
            values: Tensor, places: Tensor | None, asked: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return terms(self.layer(values), places, asked)

        means, weights = _MeanOfStream.apply(
            self.tiles, of_chunk, weighted, asked, *self.parameters, *parameters
        )
        return StreamedMean(means, weights)


@contextmanager
def looking() -> Iterator[None]:
    """A look without gradient, which leaves no trace in a later one that has.

    Autocast would keep rounded weights for the next product with them; those that were rounded
    without a gradient then had none there either (PyTorch issue 112583).
    """
    rounded, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=rounded, cache_enabled=False):
        yield


def highest_of_parts(parts: Iterable[Tensor], n: int) -> Tensor:
    """Rows of the ``n`` highest scores, ascending, as `Segments.highest` finds them in one bag.

    Parameters
    ----------
    parts : iterable of tensors, each of shape (n_tiles_of_part,)
        Scores of the bag's tiles from the first to the last; few more than ``n`` are ever held.
    n : int
        How many.
    """
    scores, rows = torch.empty(0), torch.empty(0, dtype=torch.int64)
    n_before = 0
    for part in parts:
        scores = torch.cat([scores, part])
        rows = torch.cat([rows, torch.arange(n_before, n_before + len(part))])
        kept = Segments(torch.tensor([len(rows)])).highest(scores, n)
        scores, rows, n_before = scores[kept], rows[kept], n_before + len(part)
    return rows


class _MeanOfStream(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tiles: TileStream,
        of_chunk: Terms,
        weighted: bool,
        asked: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.tiles, ctx.of_chunk, ctx.asked, ctx.parameters = tiles, of_chunk, asked, parameters
        ctx.rounded = torch.is_autocast_enabled("cpu")
        top, kept = torch.tensor(-torch.inf), []
        total, summed = torch.zeros((), dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        with looking():
            for chunk in tiles.chunks():
                scores, values = of_chunk(*chunk, asked)
                if weighted:
                    kept.append(scores)
                with _exact_sums():
                    higher = torch.maximum(top, scores.amax(dim=0))
                    share = torch.exp(scores - higher)
                    shrunk = torch.exp((top - higher).double())
                    total = total * shrunk + share.sum(dim=0).double()
                    part = torch.einsum("tbh,thw->bhw", share, values).double()
                    summed = summed * shrunk[..., None] + part
                    top = higher
        ctx.top, ctx.total = top, total.to(values.dtype)
        ctx.means = (summed / total[..., None]).to(values.dtype)
        if not weighted:
            return ctx.means.clone(), None
        weights = torch.cat(kept).sub_(top).exp_().div_(ctx.total)
        ctx.mark_non_differentiable(weights)
        return ctx.means.clone(), weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        gradient = gradients[0]
        # Apart from what it was made of: parameters may have made it too, and get that elsewhere.
        asked: Tensor | None = None
        if ctx.asked is not None:
            asked = ctx.asked.detach().requires_grad_(ctx.needs_input_grad[3])
        inputs = (asked, *ctx.parameters)
        wanted = [at for at, part in enumerate(inputs) if part is not None and part.requires_grad]
        found: list[Tensor | None] = [None] * len(inputs)
        level = (ctx.means * gradient).sum(dim=2)
        for chunk in ctx.tiles.chunks():
            with torch.enable_grad():
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=ctx.rounded):
                    scores, values = ctx.of_chunk(*chunk, asked)
                weights = torch.exp(scores - ctx.top) / ctx.total
                along = torch.einsum("thw,bhw->tbh", values, gradient)
                surrogate = (weights * (along - level)).sum()
            parts = torch.autograd.grad(surrogate, [inputs[at] for at in wanted], allow_unused=True)
            for at, part in zip(wanted, parts, strict=True):
                if part is not None:
                    before = found[at]
                    found[at] = part if before is None else before + part
        return None, None, None, *found


def _exact_sums() -> torch.autocast:
    """Matrices may be multiplied in bfloat16 around this; sums over tiles never are."""
    return torch.autocast("cpu", enabled=False)
