"""Pooling a bag that is too large to be held: chunk by chunk, and once more for the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Chunks = Callable[[], Iterator[Tensor]]
Terms = Callable[[Tensor], tuple[Tensor, Tensor]]


def pool_stream(chunks: Chunks, terms: Terms, parameters: list[Tensor]) -> Tensor:
    """Mean of one bag's values, weighted by the softmax of its scores, in the memory of a chunk.

    No activation is kept: backward reads the tiles again. With weights w = softmax(s) and the
    mean z of the values v, the gradient g of z reaches a value as w g and a score as
    w (v - z)·g, which needs of the other chunks nothing but z and the softmax's denominator.

    Parameters
    ----------
    chunks : callable
        Gives all tiles from the first to the last, each time it is called.
    terms : callable
        From a chunk to scores, (n_tiles,), and values, (n_tiles, n_pooled).
    parameters : list of tensors
        All that ``terms`` depends on and that has a gradient.

    Returns
    -------
    tensor, shape (n_pooled,)
        Summed over chunks in float64.
    """
    pooled: Tensor = _StreamedMean.apply(chunks, terms, *parameters)
    return pooled


class _StreamedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chunks: Chunks, terms: Terms, *parameters: Tensor) -> Tensor:
        ctx.chunks, ctx.terms, ctx.parameters = chunks, terms, parameters
        ctx.rounded = torch.is_autocast_enabled("cpu")
        top = torch.tensor(-torch.inf)
        total, weighted = torch.zeros((), dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        for tiles in chunks():
            scores, values = terms(tiles)
            with _exact_sums():
                higher = torch.maximum(top, scores.max())
                share = torch.exp(scores - higher)
                shrunk = torch.exp((top - higher).double())
                total = total * shrunk + share.sum().double()
                weighted = weighted * shrunk + (share @ values).double()
                top = higher
        ctx.top, ctx.total = top, total.to(values.dtype)
        ctx.mean = (weighted / total).to(values.dtype)
        mean: Tensor = ctx.mean.clone()
        return mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (gradient,) = gradients
        asked = [parameter for parameter in ctx.parameters if parameter.requires_grad]
        found = [torch.zeros_like(parameter) for parameter in asked]
        level = ctx.mean @ gradient
        for tiles in ctx.chunks():
            with torch.enable_grad():
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=ctx.rounded):
                    scores, values = ctx.terms(tiles)
                weights = torch.exp(scores - ctx.top) / ctx.total
                surrogate = weights @ (values @ gradient - level)
            for sum_of, part in zip(
                found, torch.autograd.grad(surrogate, asked, allow_unused=True), strict=True
            ):
                if part is not None:
                    sum_of += part
        sums = iter(found)
        return None, None, *(next(sums) if p.requires_grad else None for p in ctx.parameters)


def _exact_sums() -> torch.autocast:
    """Matrices may be multiplied in bfloat16 around this; sums over tiles never are."""
    return torch.autocast("cpu", enabled=False)
