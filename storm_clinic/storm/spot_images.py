"""The picture of each spot of a section, and its embedding by a tile encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.errors import SectionError
from storm_clinic.slides.reader import open_slide
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.tile_views import TileView


def spot_tiles(
    section: PairedSection,
    *,
    tile_um: float,
    tile_px: int,
    rows: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Tiles around the spots' centres, one by one; each uint8 (tile_px, tile_px, 3).

    What lies outside the image is its background.

    Parameters
    ----------
    section : PairedSection
        With an image.
    tile_um : float
        Side of the tissue that a tile shows.
    tile_px : int
        Side of a tile in pixels.
    rows : int64 array, optional
        Spots that are wanted, in this order; all in theirs by default.

    Raises
    ------
    SectionError
        If the section has no image, or a tile cannot be.
    SlideError
        If the image cannot be read, or is more than 1.5 times coarser than the tiles.
    """
    if section.image is None:
        raise SectionError("has no image", where=f"section {section.name}")
    if not (0 < tile_um < np.inf and tile_px >= 1):
        raise SectionError(
            f"a tile of {tile_um} µm in {tile_px} pixels cannot be", where=f"section {section.name}"
        )
    half_px = tile_um / section.mpp / 2
    centres = section.centres_px if rows is None else section.centres_px[rows]
    corners = np.rint(centres - half_px).astype(np.int64)
    with open_slide(section.image, mpp_override=section.mpp) as slide:
        for x, y in corners.tolist():
            yield slide.read((x, y), tile_px, tile_um / tile_px)


def embed_spots(
    section: PairedSection, encoder: LoadedEncoder, *, tile_um: float
) -> NDArray[np.float32]:
    """Embed the tissue around every spot.

    Parameters
    ----------
    section : PairedSection
        With an image.
    encoder : LoadedEncoder
        From `storm_clinic.encoders.hub.load_encoder`; it says how many pixels a tile has.
    tile_um : float
        Side of the tissue around a spot that is shown, larger than the spot if wanted.

    Returns
    -------
    float32 array, shape (n_spots, width of the encoder)

    Raises
    ------
    SectionError, SlideError
        See `spot_tiles`.
    """
    [embedded] = embed_views(section, encoder, [TileView()], tile_um=tile_um)
    return np.asarray(embedded)


def embed_views(
    section: PairedSection, encoder: LoadedEncoder, views: Sequence[TileView], *, tile_um: float
) -> NDArray[np.float32]:
    """Embed several looks at the tissue around every spot; each tile is read once.

    Parameters
    ----------
    section, encoder, tile_um
        See `embed_spots`.
    views : sequence of TileView
        Looks.

    Returns
    -------
    float32 array, shape (n_views, n_spots, width of the encoder)

    Raises
    ------
    SectionError, SlideError
        See `spot_tiles`.
    """
    tiles = spot_tiles(section, tile_um=tile_um, tile_px=encoder.card.tile_px)
    embedded = np.empty((len(views), section.n_spots, encoder.card.width), dtype=np.float32)
    size = encoder.batch_size
    for first in range(0, section.n_spots, size):
        rows = range(first, min(first + size, section.n_spots))
        batch = np.stack([next(tiles) for _ in rows])
        for number, view in enumerate(views):
            # Padded, so that a spot's bits do not depend on how many spots the section has.
            found = encoder.encode(torch.from_numpy(view(batch)), pad_to=size)
            embedded[number, rows.start : rows.stop] = found.numpy()
    return embedded
