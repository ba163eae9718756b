"""From the tile embeddings of one slide to STORM's: spots, slide, and imputed expression.

H&E alone: the network's expression tokens are absent. Every tile is embedded once, contexts are
gathered in batches, and expression is given out in blocks, so that a large slide needs little
memory. All in float32: embeddings are stored, and a rounding here would stay in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.errors import SectionError
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.image_scale import scale_slide
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.neighbourhood import Side, neighbourhoods

Floats = NDArray[np.float32]

ROWS = 1024  # tiles a block of expression, as high as a chunk of the file that it goes to
_CONTEXTS = 256


def embed_tiles(
    model: StormModel,
    features: NDArray[Any],
    centres_um: NDArray[Any],
    *,
    step_um: float,
    side: Side = 5,
) -> Floats:
    """STORM's embedding of every tile of a slide, from H&E alone.

    Parameters
    ----------
    model : StormModel
        In evaluation mode, on the device that is to compute.
    features : float array, shape (n_tiles, image_width)
        Tile embeddings.
    centres_um : float array, shape (n_tiles, 2)
        Centres of the tiles on the slide in µm, on a square grid that is not turned.
    step_um : float
        Distance of neighbouring tiles.
    side : 1, 3 or 5
        Tiles along an edge of a context.

    Returns
    -------
    float32 array, shape (n_tiles, width)

    Raises
    ------
    SectionError
        If shapes do not fit, or two tiles lie in one place.
    """
    if features.shape != (len(centres_um), model.config.image_width):
        raise SectionError(
            f"embeddings of shape {features.shape} do not fit {len(centres_um)} tiles and a "
            f"network for {model.config.image_width} numbers an image",
            where="tiles",
        )
    if model.config.image_axes:
        features = scale_slide(features)
    device = _device(model)
    around = neighbourhoods(centres_um, pitch_um=step_um, grid="square", side=side, angle=0.0)
    # From the corner of the tissue: float32 then holds every distance to a hundredth of a µm.
    places = np.asarray(centres_um, dtype=np.float64)
    xy_um = torch.as_tensor((places - places.min(axis=0)).astype(np.float32), device=device)
    spots = np.empty((len(features), model.config.width), dtype=np.float32)
    with torch.inference_mode():
        tokens = _image_tokens(model, features, device)
        for first in range(0, len(spots), _CONTEXTS):
            wanted = torch.arange(first, min(first + _CONTEXTS, len(spots)), device=device)
            contexts = Contexts.gather(around, wanted, xy_um=xy_um, image=tokens)
            spots[first : first + len(wanted)] = model(contexts, embedded=True).spot.cpu().numpy()
    return spots


def slide_expression(model: StormModel, spots: Floats, genes: NDArray[np.int64]) -> Floats:
    """Mean imputed expression of a slide, log1p of counts per 10,000.

    The last layer is linear: the mean is taken before it, over ``width`` numbers a tile instead of
    one a gene, and is the mean of what `tile_expression` gives.

    Parameters
    ----------
    model : StormModel
        In evaluation mode, on the device that is to compute.
    spots : float32 array, shape (n_tiles, width)
        From `embed_tiles`.
    genes : int64 array, shape (n_genes,)
        Places in the vocabulary.

    Returns
    -------
    float32 array, shape (n_genes,)
    """
    device = _device(model)
    total = torch.zeros(model.config.width, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for block in _blocks(spots, device):
            total += model.head.hidden(block).double().sum(dim=0)
        mean = (total / len(spots)).float()
        places = torch.as_tensor(genes, device=device)
        return _numpy(model.head.read_out(mean, model.gene_scale, places))


def tile_expression(model: StormModel, spots: Floats, genes: NDArray[np.int64]) -> Iterator[Floats]:
    """Imputed expression of every tile, log1p of counts per 10,000, in blocks of `ROWS` tiles.

    Parameters as `slide_expression`; yields float32 arrays, shape (n_rows, n_genes), in the order
    of the tiles.
    """
    device = _device(model)
    places = torch.as_tensor(genes, device=device)
    for block in _blocks(spots, device):
        with torch.inference_mode():
            yield _numpy(model.virtual_expression(block, places))


def _image_tokens(model: StormModel, features: NDArray[Any], device: torch.device) -> Tensor:
    return torch.cat([model.embed_image(block) for block in _blocks(features, device)])


def _blocks(rows: NDArray[Any], device: torch.device) -> Iterator[Tensor]:
    for first in range(0, len(rows), ROWS):
        block = np.ascontiguousarray(rows[first : first + ROWS], dtype=np.float32)
        yield torch.from_numpy(block).to(device)


def _device(model: StormModel) -> torch.device:
    return model.norm.weight.device


def _numpy(values: Tensor) -> Floats:
    found: Floats = values.cpu().numpy()
    return found
