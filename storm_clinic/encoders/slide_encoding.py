"""Tile features to the embedding of a slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from storm_clinic.encoders.catalogue import find_slide_card
from storm_clinic.encoders.hub import choose_device, load_network
from storm_clinic.encoders.slide_contract import SlideEncoderCard, SlideTiles, place_tiles
from storm_clinic.errors import EncoderError, FeatureError


@dataclass(frozen=True, eq=False)
class LoadedSlideEncoder:
    """A slide encoder with its weights, on a device.

    Attributes
    ----------
    card : SlideEncoderCard
    model : torch.nn.Module
        In evaluation mode, fp32 weights.
    digest : str
        SHA-256 of the weights' content.
    device : torch.device
    """

    card: SlideEncoderCard
    model: torch.nn.Module
    digest: str
    device: torch.device

    @property
    def precision(self) -> str:
        """Arithmetic in use: "bf16" (autocast) or "fp32"."""
        return "fp32" if self.device.type == "cpu" else self.card.precision

    def encode(
        self,
        features: NDArray[np.floating],
        coords: NDArray[np.int64] | None = None,
        pitch_level0: float | None = None,
    ) -> NDArray[np.float32]:
        """Embed one slide.

        Parameters
        ----------
        features : float array, shape (n_tiles, tile_width)
            Of its tile encoder.
        coords : int64 array, shape (n_tiles, 2), optional
            Top-left corners, level-0 px; not looked at where the card takes none.
        pitch_level0 : float, optional
            Distance between neighbouring tiles in level-0 px, not rounded; with ``coords``.

        Returns
        -------
        float32 array, shape (1, width)

        Raises
        ------
        FeatureError
            If there is no tile, a tile has another width, or places are wanted and unknown.
        EncoderError
            If the network fails, or gives something other than its card says.
        """
        card, where = self.card, f"slide encoder {self.card.name}"
        if features.ndim != 2 or features.shape[1] != card.tile_width or not len(features):
            raise FeatureError(
                f"takes (n, {card.tile_width}) features, got {features.shape}", where=where
            )
        placed, pitch = None, 0
        if card.coordinates != "none":
            if coords is None or pitch_level0 is None:
                raise FeatureError(
                    "needs the tiles' coordinates and the slide's microns per pixel", where=where
                )
            corners, pitch = place_tiles(card, coords, pitch_level0)
            placed = torch.from_numpy(corners)[None].to(self.device)
        tiles = torch.from_numpy(features.astype(np.float32))[None].to(self.device)
        reduced = self.precision != "fp32"
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=reduced),
            ):
                found = card.apply(self.model, SlideTiles(tiles, placed, pitch))
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise EncoderError(
                f"cannot embed a slide of {len(features)} tiles: {error}", where=where
            ) from error
        if found.shape != (1, card.width):
            raise EncoderError(
                f"gives shape {tuple(found.shape)}, its card says (1, {card.width})", where=where
            )
        embedding: NDArray[np.float32] = found.float().cpu().numpy()
        return embedding


def load_slide_encoder(
    encoder: str | SlideEncoderCard, *, weights: Path | None = None, device: str = "auto"
) -> LoadedSlideEncoder:
    """Load a slide encoder.

    Parameters
    ----------
    encoder : str or SlideEncoderCard
        A name of the catalogue or of an installed package's entry point, or the facts themselves.
    weights : Path, optional
        File or folder of weights on this machine; nothing is fetched then.
    device : str
        "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".

    Raises
    ------
    EncoderError
        As `storm_clinic.encoders.hub.load_encoder`.
    """
    card = find_slide_card(encoder) if isinstance(encoder, str) else encoder
    target = choose_device(device)
    model, digest = load_network(card, weights)
    return LoadedSlideEncoder(card, model.to(target), digest, target)
