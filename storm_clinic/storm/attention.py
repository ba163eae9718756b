"""Self-attention shared by both modalities, falling with distance in µm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def head_slopes(n_heads: int) -> Tensor:
    """How fast each head's attention falls, per pitch: 2^(-8 h / n_heads), h from 1; float32.

    References
    ----------
    Press et al., Train short, test long (ALiBi), ICLR 2022, section 3.
    """
    heads = torch.arange(1, n_heads + 1, dtype=torch.float32)
    return torch.exp2(-8.0 * heads / n_heads)


def attention_bias(
    xy_um: Tensor, present: Tensor, slopes: Tensor | None, *, pitch_um: float
) -> Tensor:
    """What is added to attention's logits: distance and absence in one tensor.

    Parameters
    ----------
    xy_um : float tensor, shape (b, n_tokens, 2)
        Places in µm; those of absent tokens may be anything.
    present : bool tensor, shape (b, n_tokens)
        Tokens that others may read.
    slopes : float tensor, shape (n_heads,), or None
        None for no fall with distance.
    pitch_um : float
        What counts as one step.

    Returns
    -------
    float tensor, shape (b, n_heads or 1, n_tokens, n_tokens)
        Row is the reader. -slope * distance / pitch, and -inf where the token read is absent. A
        token always reads itself, so that no row is empty.
    """
    n_tokens = present.shape[1]
    itself = torch.eye(n_tokens, dtype=torch.bool, device=present.device)
    readable = (present[:, None, :] | itself)[:, None]
    if slopes is None:
        flat = torch.zeros(readable.shape, device=xy_um.device)
        return flat.masked_fill(~readable, float("-inf"))
    places = torch.where(present[..., None], xy_um, torch.zeros_like(xy_um))
    steps = (places[:, :, None] - places[:, None]).square().sum(dim=-1).sqrt() / pitch_um
    bias = -slopes[None, :, None, None] * steps[:, None]
    return bias.masked_fill(~readable, float("-inf"))


class SharedAttention(nn.Module):
    """Multi-head self-attention over the tokens of all modalities."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Tokens (b, n_tokens, width) after reading one another under `attention_bias`."""
        n_batch, n_tokens, width = tokens.shape
        parts = self.query_key_value(tokens).view(n_batch, n_tokens, 3, self.n_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype)
        )
        mixed: Tensor = self.out(read.transpose(1, 2).reshape(n_batch, n_tokens, width))
        return mixed
