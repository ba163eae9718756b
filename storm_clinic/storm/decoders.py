"""What pretraining asks of STORM's tokens. The decoders are thrown away afterwards.

- A masked *image* token is decoded to the image embedding of its spot, each number standardised on
  training spots, under smooth L1: embeddings of frozen encoders have a few numbers far off.
- A masked *expression* token is decoded to the expression of its spot, in spreads from each gene's
  mean (`GeneScale`, so that abundant genes do not outweigh the rest), over the genes of its panel,
  under squared error: what minimises it is the mean, which is what pooled expression adds up.
- Where expression is absent, the *image* token of every visible spot foretells the expression of
  its own spot through the network's own head, in the same unit. The head is kept: after pretraining
  a network imputes already, and fine-tuning starts from there.

Spots without any count are in no loss. Each context weighs the same, however many of its spots are
predicted, so that the loss of a batch is the mean of its parts', wherever they are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from storm_clinic.errors import TrainingError
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.masking import Masked
from storm_clinic.storm.model import Encoded, StormModel


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each of the three predictions counts.

    Raises
    ------
    TrainingError
        If one is negative, or all are 0.
    """

    image: float = 1.0
    expression: float = 1.0
    virtual: float = 1.0

    def __post_init__(self) -> None:
        weights = (self.image, self.expression, self.virtual)
        if not (min(weights) >= 0 and max(weights) > 0 and max(weights) < float("inf")):
            raise TrainingError(
                f"must not be negative, and not all 0, are {weights}", where="weights of losses"
            )


class Targets(NamedTuple):
    """What was measured at each slot of the contexts.

    Attributes
    ----------
    image : float tensor, shape (n_spots, image_width)
    expression : float tensor, shape (n_spots, n_genes)
        log1p of counts per 10,000.
    panel : bool tensor, shape (n_spots, n_genes)
        Genes that were measured.
    spots : int tensor, shape (b, n_slots)
        Row of each slot's spot in the three above.
    """

    image: Tensor
    expression: Tensor
    panel: Tensor
    spots: Tensor


class Losses(NamedTuple):
    """Losses of a batch.

    Attributes
    ----------
    total : tensor, shape ()
        Weighted, the mean over contexts; what is minimised.
    sums : float tensor, shape (3,)
        Of image, expression, virtual over the contexts that are asked for it; without gradient.
    contexts : float tensor, shape (3,)
        How many those are.
    """

    total: Tensor
    sums: Tensor
    contexts: Tensor


class Decoders(nn.Module):
    """One small network a modality, from a token to what was measured at its spot."""

    image_mean: Tensor
    image_spread: Tensor

    def __init__(self, config: StormConfig) -> None:
        super().__init__()
        self.image = _decoder(config.width, config.image_width)
        self.expression = _decoder(config.width, config.n_genes)
        self.register_buffer("image_mean", torch.zeros(config.image_width))
        self.register_buffer("image_spread", torch.ones(config.image_width))

    def set_image_scale(self, mean: Tensor, spread: Tensor) -> None:
        """Mean and spread of each number of the training spots' image embeddings."""
        self.image_mean.copy_(mean)
        self.image_spread.copy_(spread)

    def losses(
        self,
        encoded: Encoded,
        masked: Masked,
        targets: Targets,
        model: StormModel,
        weights: LossWeights,
    ) -> Losses:
        """Compare what tokens say with what was measured.

        Parameters
        ----------
        encoded : Encoded
            Of ``masked.contexts``, by ``model``.
        masked : Masked
            Which slots are asked.
        targets : Targets
            What was measured there.
        model : StormModel
            Its head foretells expression, its gene scale is the unit.
        weights : LossWeights
            Of the three predictions.
        """
        parts = (
            self._image(encoded.tokens["image"], masked.image, targets),
            self._expression(encoded.tokens["expression"], masked.expression, targets, model),
            self._virtual(encoded.tokens["image"], masked.virtual, targets, model),
        )
        sums = torch.stack(parts)
        asked = (masked.image, masked.expression, masked.virtual)
        contexts = torch.stack([slots.any(dim=1).sum() for slots in asked]).to(sums.dtype)
        factors = sums.new_tensor((weights.image, weights.expression, weights.virtual))
        total = (factors * sums).sum() / len(masked.image)
        return Losses(total, sums.detach(), contexts)

    def _image(self, tokens: Tensor, asked: Tensor, targets: Targets) -> Tensor:
        wanted = (targets.image[targets.spots[asked]] - self.image_mean) / self.image_spread
        found = self.image(tokens[asked]).float()
        each = functional.smooth_l1_loss(found, wanted, reduction="none").mean(dim=1)
        return (each * _share_of_context(asked)).sum()

    def _expression(
        self, tokens: Tensor, asked: Tensor, targets: Targets, model: StormModel
    ) -> Tensor:
        spots = targets.spots[asked]
        scale = model.gene_scale
        wanted = (targets.expression[spots] - scale.mean) / scale.spread
        found = self.expression(tokens[asked]).float()
        each = _mean_over_panel((found - wanted).square(), targets.panel[spots])
        return (each * _share_of_context(asked)).sum()

    def _virtual(
        self, tokens: Tensor, asked: Tensor, targets: Targets, model: StormModel
    ) -> Tensor:
        spots = targets.spots[asked]
        found = model.virtual_expression(tokens[asked]).float()
        away = (found - targets.expression[spots]) / model.gene_scale.spread
        each = _mean_over_panel(away.square(), targets.panel[spots])
        return (each * _share_of_context(asked)).sum()


def _decoder(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))


def _mean_over_panel(values: Tensor, panel: Tensor) -> Tensor:
    kept = torch.where(panel, values, torch.zeros_like(values))
    return kept.sum(dim=1) / panel.sum(dim=1).clamp(min=1)


def _share_of_context(asked: Tensor) -> Tensor:
    """For each slot that is asked: 1 / how many of its context are."""
    n_asked = asked.sum(dim=1, keepdim=True).clamp(min=1)
    return (1.0 / n_asked).expand(asked.shape)[asked]
