"""What is known about a slide encoder, and what it is shown. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from storm_clinic.encoders.contract import INSTALL, PUBLISHED, Loader, Precision, State
from storm_clinic.errors import EncoderError, FeatureError
from storm_clinic.files import safe_name

if TYPE_CHECKING:
    import torch

# Of the positions that Prov-GigaPath's slide encoder knows, in each direction.
GRID_CELLS = 1000
Coordinates = Literal["none", "level0", "cells"]


@dataclass(frozen=True, eq=False)
class SlideTiles:
    """The tiles of one slide, as a slide encoder gets them.

    Attributes
    ----------
    features : float32 tensor, shape (1, n_tiles, tile_width)
    coords : int64 tensor, shape (1, n_tiles, 2), or None
        As `place_tiles` gives them; None where the encoder takes none.
    pitch : int
        Distance between neighbouring tiles in the unit of ``coords``.
    """

    features: torch.Tensor
    coords: torch.Tensor | None
    pitch: int


@dataclass(frozen=True)
class SlideEncoderCard:
    """The facts of one slide encoder: which tiles it wants, and what it gives.

    Fields of the same name mean the same as in `storm_clinic.encoders.contract.EncoderCard`.

    Attributes
    ----------
    name : str
        Also the name of its feature stores.
    loader : "transformers" or a function
        Which library builds the network.
    apply : function
        Takes the network and a `SlideTiles`, returns (1, width).
    tile_encoder : str
        Name of the tile encoder whose features it was trained on.
    tile_width : int
        Length of a tile's embedding.
    tile_px, mpp : int, float
        Side of a tile and its microns per pixel as read.
    coordinates : "none", "level0" or "cells"
        What it is told about places: nothing; level-0 pixels, with the distance between
        neighbours; or cells of a grid of 1000 x 1000, a tile each.
    pooling : str
        Which output of which layer is kept, in words; part of the store's contract.
    width : int
        Length of the slide's embedding.

    Raises
    ------
    EncoderError
        If a field is out of range.
    """

    name: str
    loader: Loader | Callable[[], torch.nn.Module]
    apply: Callable[[Any, SlideTiles], torch.Tensor]
    tile_encoder: str
    tile_width: int
    tile_px: int
    mpp: float
    coordinates: Coordinates
    pooling: str
    width: int
    licence: str
    citation: str
    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prefix_tokens: int = 0
    hub_id: str | None = None
    gated: bool = False
    files: tuple[str, ...] = PUBLISHED
    home: str | None = None
    remote_code: bool = False
    member: str = ""
    needs: tuple[str, ...] = ()
    install: str = INSTALL
    parameters: float = 0.0
    packaged: Callable[[], Path] | None = None
    convert: Callable[[State], State] | None = None
    precision: Precision = "bf16"
    notes: str = ""

    def __post_init__(self) -> None:
        safe_name(self.name, what="slide encoder")
        safe_name(self.tile_encoder, what="tile encoder")
        where = f"slide encoder {self.name}"
        if min(self.tile_width, self.tile_px, self.width) < 1 or self.mpp <= 0:
            raise EncoderError("tile_width, tile_px, mpp and width must be positive", where=where)
        if self.name == self.tile_encoder:
            raise EncoderError("has the name of its tile encoder", where=where)
        if self.remote_code and self.loader != "transformers":
            raise EncoderError(
                "code beside the weights is run through transformers only", where=where
            )


def tile_cells(coords: NDArray[np.int64], pitch_level0: float) -> NDArray[np.int64]:
    """Column and row of each tile in the grid that tiles were laid on.

    Corners are whole pixels while the distance between neighbours need not be (1014.6 px, say), so
    dividing by a rounded distance would put two neighbours into one cell. Here cells are counted
    from the first tile to the nearest whole number.

    Parameters
    ----------
    coords : int64 array, shape (n_tiles, 2)
        Top-left corners, level-0 px.
    pitch_level0 : float
        Distance between neighbours in level-0 px, not rounded.

    Returns
    -------
    int64 array, shape (n_tiles, 2)
    """
    first = coords.min(axis=0)
    origin = np.floor((first + 0.5) / pitch_level0)
    cells: NDArray[np.int64] = (origin + np.rint((coords - first) / pitch_level0)).astype(np.int64)
    return cells


def place_tiles(
    card: SlideEncoderCard, coords: NDArray[np.int64], pitch_level0: float
) -> tuple[NDArray[np.int64], int]:
    """Coordinates as a slide encoder wants them, and the distance between neighbours in them.

    ``level0``: TITAN divides by the distance between neighbours, a whole number of level-0 px. It
    is given multiples of that number, so that its division meets no rounding.
    ``cells``: Prov-GigaPath takes pixels of the tile's own resolution and divides by the tile's
    side, 256. It is given multiples of 256 for the same reason.

    Parameters
    ----------
    card : SlideEncoderCard
        Says which.
    coords : int64 array, shape (n_tiles, 2)
        Top-left corners, level-0 px.
    pitch_level0 : float
        Distance between neighbours in level-0 px, not rounded.

    Returns
    -------
    int64 array, shape (n_tiles, 2), and int

    Raises
    ------
    FeatureError
        If two tiles fall into one cell, or a tile lies beyond the grid.
    """
    cells = tile_cells(coords, pitch_level0)
    if len(np.unique(cells, axis=0)) < len(cells):
        raise FeatureError(
            f"its tiles do not lie on a grid of {pitch_level0:g} level-0 px: two share a cell"
        )
    if card.coordinates == "level0":
        pitch = round(pitch_level0)
    else:
        pitch = card.tile_px
        if cells.min() < 0 or cells.max() >= GRID_CELLS:
            raise FeatureError(
                f"a tile lies in cell {cells.max()} of a grid of {GRID_CELLS} x {GRID_CELLS}"
            )
    return cells * pitch, pitch
