"""How far arithmetic of lower precision moves embeddings of the tiles at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from storm_clinic.errors import EncoderError

# What the plain cosine hides: embeddings of one network share a large mean.
LEAST_CENTRED_COSINE = 0.999
_JUDGED_TILES = 64
# A tile this near the mean has no direction of its own; blank tiles are such.
_LEAST_DISTANCE = 1e-3


def centred_cosine(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Cosine of each row's departure from the mean row: what tells tiles apart.

    Parameters
    ----------
    found, expected : float tensors, shape (n, width)
        Embeddings of the same tiles.

    Returns
    -------
    tensor, shape (m,)
        Of the m rows that ``expected`` tells from the mean.
    """
    found, expected = found.double(), expected.double()
    away = expected - expected.mean(0)
    apart = away.norm(dim=1) > _LEAST_DISTANCE * expected.norm(dim=1)
    return functional.cosine_similarity((found - found.mean(0))[apart], away[apart])


@dataclass(eq=False)
class DriftWatch:
    """Holds the first tiles that are encoded against fp32, and stops where they differ too much.

    The judgement grows with every batch until it rests on 64 tiles; it changes no embedding.

    Attributes
    ----------
    encoder : str
        Its name, for the error.
    least : float
        The centred cosine that every judged tile must reach.
    """

    encoder: str
    least: float = LEAST_CENTRED_COSINE
    _pairs: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    _n_tiles: int = 0

    def judge(self, embedding: torch.Tensor, exact: Callable[[int], torch.Tensor]) -> None:
        """Judge a batch together with those before it.

        Parameters
        ----------
        embedding : tensor, shape (n_tiles, width)
            As the lower precision gives it.
        exact : function
            Embeds the first so many tiles of the batch in fp32.

        Raises
        ------
        EncoderError
            If a tile's centred cosine lies below ``least``.
        """
        n_tiles = min(len(embedding), _JUDGED_TILES - self._n_tiles)
        if n_tiles == 0:
            self._pairs.clear()
            return
        self._pairs.append((embedding[:n_tiles].float().cpu(), exact(n_tiles).float().cpu()))
        self._n_tiles += n_tiles
        found, expected = (torch.cat(side) for side in zip(*self._pairs, strict=True))
        reached = centred_cosine(found, expected)
        # NaN, of embeddings that are not finite, is no pass either.
        if len(reached) and not (worst := float(reached.min())) >= self.least:
            raise EncoderError(
                f"in bf16 the embeddings of these tiles move too far: of the first "
                f"{self._n_tiles}, one has a centred cosine of {worst:.4f} with fp32, "
                f"{self.least} is asked for",
                where=f"encoder {self.encoder}",
                fix="Use --precision fp32.",
            )
