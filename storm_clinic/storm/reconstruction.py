"""What a pretrained network makes of one of its own training sections: for looking at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from storm_clinic.storm.masking import Draws, MaskingMix, mask
from storm_clinic.storm.pretrain import Pretrained, embedded_contexts, shown_by_novae
from storm_clinic.storm.shards import ShardSet
from storm_clinic.storm.spot_batches import SpotReader

_ROWS, _MOST_EMBEDDED = 256, 1024
_BOTH = MaskingMix(both=1.0, image_alone=0.0, expression_alone=0.0)
_IMAGE = MaskingMix(both=0.0, image_alone=1.0, expression_alone=0.0, whole_image=1.0)

Floats = NDArray[np.float32]


class Reconstruction(NamedTuple):
    """Log1p CP10k of some genes over the spots of one section; each (n_spots, n_genes).

    Attributes
    ----------
    genes : tuple of str
    xy_um : float32 array, shape (n_spots, 2)
    measured : float32 array
    filled_in : float32 array
        Decoded where the spot's own expression is masked, and five of each modality show; NaN where
        it cannot be masked, as Novae's embeddings of others hold it.
    from_image : float32 array
        Foretold from H&E alone.
    """

    genes: tuple[str, ...]
    xy_um: Floats
    measured: Floats
    filled_in: Floats
    from_image: Floats


def reconstruct(
    made: Pretrained, shards: ShardSet, *, n_genes: int = 3, seed: int = 0
) -> Reconstruction:
    """Reconstruct the first section (part of the first shard) in its most variable genes.

    Of a section that a trained encoder must embed first, the first 1,024 spots alone.

    Parameters
    ----------
    made : Pretrained
        Network and decoders.
    shards : ShardSet
        That it was trained on: nothing here is held out.
    n_genes : int
        How many genes, those with the largest spread.
    seed : int
        Of the masks.
    """
    model, decoders = made.model, made.decoders
    shard = shards.read(0)
    rows = np.flatnonzero(shard.section[: shard.n_own].numpy() == 0)
    if made.encoder is not None:  # minutes of embedding, for a picture
        rows = rows[:_MOST_EMBEDDED]
    spread = torch.where(shard.panels[0], model.gene_scale.spread, torch.zeros(()))
    genes = spread.topk(min(n_genes, len(spread))).indices
    generator = torch.Generator().manual_seed(seed)
    reader, middle = SpotReader(shards), shards.n_slots // 2
    parts = []
    for some in np.array_split(rows, range(_ROWS, len(rows), _ROWS)):
        batch = reader.batch(0, some)
        if shards.novae_draws:
            batch = reader.with_novae(0, batch, 0)
        if made.encoder is not None:
            batch = reader.with_tiles(0, batch, torch.arange(len(batch.rows)))
        draws = Draws.draw(len(some), shards.n_slots, generator)
        draws.expression[:, middle] = 1.0  # the last to stay visible
        with torch.no_grad():
            given = embedded_contexts(batch, model, made.encoder)
            masked = mask(given, draws, _BOTH, shown=shown_by_novae(batch, model))
            hidden = model(masked.contexts, embedded=True)
            alone = model(mask(given, draws, _IMAGE).contexts, embedded=True)
            scale = model.gene_scale
            decoded = decoders.expression(hidden.tokens["expression"][:, middle])
            filled_in = (scale.mean + scale.spread * decoded)[:, genes]
            filled_in[~masked.expression[:, middle]] = torch.nan
            from_image = model.virtual_expression(alone.spot, genes)
        spots = batch.spots[:, middle]
        measured = batch.expression[spots][:, genes]
        parts.append((batch.xy_um[:, middle], measured, filled_in, from_image))
    joined = [torch.cat(values).numpy() for values in zip(*parts, strict=True)]
    names = tuple(shards.vocabulary.symbols[place] for place in genes.tolist())
    return Reconstruction(names, *joined)
