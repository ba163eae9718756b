"""What is hidden from STORM in pretraining, and what it must then predict.

Every context is, by chance, one of three kinds:

- *both*: image and expression are there, each but for five spots under the learned token. Masked
  images and masked expression are predicted.
- *image alone*: expression is absent, as it is wherever the network is used. Either the whole image
  shows (what inference meets), or five spots of it. Masked images are predicted, and where the
  image shows it foretells the expression of its own spot.
- *expression alone*: the image is absent; masked expression is predicted.

The paper masks both modalities down to five spots; the other two kinds are ours, so that the
network has met in training what it meets later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from storm_clinic.errors import TrainingError
from storm_clinic.storm.contexts import Contexts


@dataclass(frozen=True, kw_only=True)
class MaskingMix:
    """Shares of the kinds of contexts.

    Attributes
    ----------
    both, image_alone, expression_alone : float
        Chances of the three kinds; their sum is 1.
    whole_image : float
        Chance that a context of image alone shows all of its image.
    visible : int
        Spots a modality that stay visible where it is masked; never more than half of those that
        are there, rounded up.

    Raises
    ------
    TrainingError
        If a number cannot be.
    """

    both: float = 0.5
    image_alone: float = 0.4
    expression_alone: float = 0.1
    whole_image: float = 0.5
    visible: int = 5

    def __post_init__(self) -> None:
        shares = (self.both, self.image_alone, self.expression_alone)
        problem = None
        if min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            problem = f"both, image_alone and expression_alone must add up to 1, are {shares}"
        elif not 0 <= self.whole_image <= 1:
            problem = f"whole_image must be from 0 to 1, is {self.whole_image}"
        elif self.visible < 1:
            problem = f"visible must be at least 1, is {self.visible}"
        if problem:
            raise TrainingError(problem, where="masking of STORM")


class Draws(NamedTuple):
    """Chance, apart from what it is used for; all float32 from 0 to below 1.

    Drawn for a whole batch and then divided, so that a batch means the same on any number of
    processes.

    Attributes
    ----------
    kind, whole : tensor, shape (b,)
        Decide a context's kind, and whether its image stays whole.
    image, expression : tensor, shape (b, n_slots)
        The lowest of a row stay visible.
    """

    kind: Tensor
    whole: Tensor
    image: Tensor
    expression: Tensor

    @classmethod
    def draw(cls, n_rows: int, n_slots: int, generator: torch.Generator) -> Draws:
        """For a batch of that many contexts, on the CPU."""
        kind, whole = torch.rand((2, n_rows), generator=generator)
        image, expression = torch.rand((2, n_rows, n_slots), generator=generator)
        return cls(kind, whole, image, expression)

    def part(self, rows: slice) -> Draws:
        """Those of some contexts of the batch."""
        return Draws(*(values[rows] for values in self))

    def to(self, device: torch.device) -> Draws:
        """The same on a device."""
        return Draws(*(values.to(device, non_blocking=True) for values in self))


@dataclass(frozen=True, eq=False)
class Masked:
    """Contexts as the network sees them, and what it must say; bool tensors (b, n_slots).

    Attributes
    ----------
    contexts : Contexts
    image, expression : tensor
        Masked slots whose image or expression is to be predicted from their own token.
    virtual : tensor
        Slots of contexts without expression whose image shows, and whose expression was measured:
        their image token is to foretell it.
    """

    contexts: Contexts
    image: Tensor
    expression: Tensor
    virtual: Tensor


class Shown(NamedTuple):
    """Expression that was embedded for one set of visible spots; bool tensors (b, n_slots).

    Attributes
    ----------
    visible : tensor
        Slots whose spot is in that set; all others are masked.
    embedded : tensor
        Of these, slots whose spot has an embedding. One without takes no part where expression is
        shown, and is not asked for either: its counts stand in the embeddings of others.
    """

    visible: Tensor
    embedded: Tensor


def mask(
    contexts: Contexts, draws: Draws, mix: MaskingMix, *, shown: Shown | None = None
) -> Masked:
    """Hide parts of contexts that have both modalities.

    Parameters
    ----------
    contexts : Contexts
        With image and expression; tokens that are absent stay so, and are never to be predicted.
        Masks that are in it are replaced.
    draws : Draws
        Of as many rows.
    mix : MaskingMix
        Shares of the kinds.
    shown : Shown, optional
        Which expression a context shows that shows any, instead of what was drawn.

    Raises
    ------
    TrainingError
        If a modality is not given.
    """
    if len(contexts.modalities) < 2:
        raise TrainingError("pretraining needs image and expression", where="contexts")
    image_there, expression_there = contexts.present("image"), contexts.present("expression")
    both, image_alone = _kinds(draws, mix)
    whole = image_alone & (draws.whole < mix.whole_image)
    sees_image, sees_expression = both | image_alone, ~image_alone
    hidden_image = _hidden(image_there, draws.image, mix) & (sees_image & ~whole)[:, None]
    if shown is None:
        takes_part = expression_there
        hidden = _hidden(expression_there, draws.expression, mix)
    else:
        takes_part = expression_there & (shown.embedded | ~shown.visible)
        hidden = expression_there & ~shown.visible
    hidden_expression = hidden & sees_expression[:, None]
    masked = replace(
        contexts,
        image_present=image_there & sees_image[:, None],
        expression_present=takes_part & sees_expression[:, None],
        image_masked=hidden_image,
        expression_masked=hidden_expression,
    )
    virtual = expression_there & image_there & ~hidden_image & image_alone[:, None]
    return Masked(masked, hidden_image, hidden_expression, virtual)


def _kinds(draws: Draws, mix: MaskingMix) -> tuple[Tensor, Tensor]:
    both = draws.kind < mix.both
    return both, ~both & (draws.kind < mix.both + mix.image_alone)


def _hidden(there: Tensor, scores: Tensor, mix: MaskingMix) -> Tensor:
    """All tokens that are there but those with the lowest scores."""
    order = scores.masked_fill(~there, torch.inf).argsort(dim=1).argsort(dim=1)
    visible = ((there.sum(dim=1, keepdim=True) + 1) // 2).clamp(max=mix.visible)
    return there & (order >= visible)
