"""A spot's expression to a vector and back, for whatever genes a panel measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from storm_clinic.errors import CheckpointError
from storm_clinic.storm.config import StormConfig


class GeneScale(nn.Module):
    """Mean and spread of each gene in the training data, kept with the weights.

    Encoder and head both count in spreads from the mean: a gene that is unknown then weighs like
    one at its mean, never like one that was looked for and not found.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("spread", torch.ones(n_genes))

    def set(self, mean: Tensor, spread: Tensor) -> None:
        """Take over what was measured on training spots; each (n_genes,), spread above 0.

        Raises
        ------
        CheckpointError
            If a shape is wrong, a value is not finite or a spread not above 0.
        """
        for name, value in (("mean", mean), ("spread", spread)):
            fits = value.shape == self.mean.shape and bool(torch.isfinite(value).all())
            if not fits or (name == "spread" and not bool((value > 0).all())):
                raise CheckpointError(
                    f"{name} must be {tuple(self.mean.shape)} finite numbers, spreads above 0",
                    where="gene scale",
                )
        self.mean.copy_(mean)
        self.spread.copy_(spread)


class RawGenes(nn.Module):
    """A spot's expression as the bare vector of its genes, in spreads; unknown ones at their mean.

    Attributes
    ----------
    width : int
        Numbers a spot: one a gene.
    """

    def __init__(self, config: StormConfig) -> None:
        super().__init__()
        self.width = config.n_genes

    def forward(self, expression: Tensor, panel: Tensor, scale: GeneScale) -> Tensor:
        """Vectors (..., n_genes); arguments as `GeneEncoder.forward`."""
        away = (expression - scale.mean) / scale.spread
        away = torch.where(panel, away, torch.zeros_like(away))
        # A sum's spread grows with the root of its terms; panels of any size then look alike.
        n_known = panel.sum(dim=-1, keepdim=True).clamp(min=1).to(away.dtype)
        return away * (self.width / n_known).sqrt()


class GeneEncoder(nn.Module):
    """Expression under a panel to a vector: a weighted sum over known genes, then a small MLP.

    Attributes
    ----------
    width : int
        Numbers a spot: ``gene_width``.
    """

    def __init__(self, config: StormConfig) -> None:
        super().__init__()
        self.width = config.gene_width
        self.raw = RawGenes(config)
        self.genes = nn.Linear(config.n_genes, config.gene_hidden, bias=False)
        self.norm = nn.LayerNorm(config.gene_hidden)
        self.out = nn.Linear(config.gene_hidden, config.gene_width)

    def forward(self, expression: Tensor, panel: Tensor, scale: GeneScale) -> Tensor:
        """Embeddings, shape (..., gene_width).

        Parameters
        ----------
        expression : float tensor, shape (..., n_genes)
            log1p of counts per 10,000.
        panel : bool tensor, shape (..., n_genes)
            As ``expression`` or with ones for lengths. Values outside may be anything, even NaN.
        scale : GeneScale
            In what each gene is counted.
        """
        hidden = self.genes(self.raw(expression, panel, scale))
        encoded: Tensor = self.out(nn.functional.gelu(self.norm(hidden)))
        return encoded


class NovaeTokens(nn.Module):
    """A frozen Novae's embeddings as tokens of expression, in place of an encoder of our own.

    Parameters
    ----------
    config : StormConfig
        Its ``gene_width`` is that of the embeddings.
    """

    def __init__(self, config: StormConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.gene_width)
        self.out = nn.Linear(config.gene_width, config.width)

    def forward(self, embedded: Tensor) -> Tensor:
        """Tokens (..., width); that of a spot without an embedding means nothing.

        Parameters
        ----------
        embedded : float tensor, shape (..., gene_width)
            NaN where a spot has none, as `novae.embed_visible` gives it.
        """
        has_one = embedded.isfinite().all(dim=-1)
        # Cleared before the layers: a NaN there would reach their gradients even where unread.
        known = torch.where(has_one[..., None], embedded, torch.zeros_like(embedded))
        tokens: Tensor = self.out(self.norm(known))
        return tokens


class VirtualExpression(nn.Module):
    """Expression that a spot's embedding foretells: log1p of counts per 10,000.

    Its last layer is linear, so that the mean over spots may be taken before it.
    """

    def __init__(self, config: StormConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.width, config.width)
        self.genes = nn.Linear(config.width, config.n_genes)

    def hidden(self, spots: Tensor) -> Tensor:
        """What the linear layer reads, shape (..., width): take the mean of these to pool."""
        return nn.functional.gelu(self.inner(spots))

    def in_spreads(self, hidden: Tensor) -> Tensor:
        """Expression of all genes in spreads from their means, shape (..., n_genes)."""
        away: Tensor = self.genes(hidden)
        return away

    def read_out(self, hidden: Tensor, scale: GeneScale, genes: Tensor | None = None) -> Tensor:
        """Expression, shape (..., n_genes), or of the genes at these places of the vocabulary."""
        parts: tuple[Tensor, ...] = (self.genes.weight, self.genes.bias, scale.mean, scale.spread)
        if genes is not None:
            parts = tuple(part[genes] for part in parts)
        weight, bias, mean, spread = parts
        return mean + spread * nn.functional.linear(hidden, weight, bias)
