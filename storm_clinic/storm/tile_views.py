"""Other looks at the same tile: turned, mirrored, and stained on another day.

A network that is taught on embeddings of one look each soon knows them by heart. Eight looks let it
be taught twice as long before it does, and what a section's orientation and dyes add to embeddings
is not taken for biology.

References
----------
Tellez et al., Quantifying the effects of data augmentation and stain color normalization in
convolutional neural networks for computational pathology, Med. Image Anal. 58 (2019) 101544.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import SectionError

# Optical density of haematoxylin, eosin and what is left in red, green and blue
# (Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23 (2001) 291-299).
_DYES = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_GLASS = 255.0
_TURNS = 4
MOST_VIEWS = 64


@dataclass(frozen=True)
class TileView:
    """One look at tiles.

    Attributes
    ----------
    turns : int
        Quarter turns, counter-clockwise.
    mirrored : bool
        Left for right, after turning.
    dyes : triple of float
        By what the amount of haematoxylin, of eosin and of what is left is multiplied.
    """

    turns: int = 0
    mirrored: bool = False
    dyes: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(self, tiles: NDArray[Any]) -> NDArray[np.uint8]:
        """Tiles as they look then: uint8 (n, side, side, 3), as given."""
        found = np.rot90(tiles, self.turns, axes=(1, 2))
        if self.mirrored:
            found = found[:, :, ::-1]
        if self.dyes != (1.0, 1.0, 1.0):
            found = _stained(found, self.dyes)
        return np.ascontiguousarray(found, dtype=np.uint8)


def tile_views(n_views: int, *, stain: float, seed: int) -> list[TileView]:
    """The look as it is, then ``n_views - 1`` others.

    The eight ways to turn and mirror a square come in turn, so that eight views hold each once. All
    but the first have amounts of dyes drawn from 1 - stain to 1 + stain.

    Parameters
    ----------
    n_views : int
        From 1 to 64.
    stain : float
        From 0 to below 1; 0 leaves colours alone.
    seed : int
        Of amounts of dyes.

    Raises
    ------
    SectionError
        If a number cannot be.
    """
    if not 1 <= n_views <= MOST_VIEWS or not 0 <= stain < 1:
        raise SectionError(
            f"{n_views} views with dyes varied by {stain} cannot be",
            where="views of tiles",
            fix=f"Ask for 1 to {MOST_VIEWS} views, and a share of dyes from 0 to below 1.",
        )
    drawn = np.random.default_rng(seed).uniform(1 - stain, 1 + stain, (n_views, len(_DYES)))
    views = [TileView()]
    for number in range(1, n_views):
        haematoxylin, eosin, rest = drawn[number].tolist()
        mirrored = number % (2 * _TURNS) >= _TURNS
        views.append(TileView(number % _TURNS, mirrored, (haematoxylin, eosin, rest)))
    return views


def _stained(tiles: NDArray[Any], dyes: tuple[float, float, float]) -> NDArray[np.uint8]:
    """The same tissue with other amounts of dyes, by the law of Beer and Lambert."""
    unit = _DYES / np.linalg.norm(_DYES, axis=1, keepdims=True)
    change = (np.linalg.inv(unit) @ np.diag(dyes) @ unit).astype(np.float32)
    # A look-up instead of a logarithm a pixel; black is taken for the darkest grey.
    density = -np.log(np.maximum(np.arange(256), 1) / _GLASS).astype(np.float32)
    found = np.empty(tiles.shape, dtype=np.uint8)
    for place, tile in enumerate(tiles):
        light = _GLASS * np.exp(-(density[tile] @ change))
        found[place] = np.rint(light).clip(0, _GLASS)
    return found
