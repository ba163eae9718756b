from __future__ import annotations

import numpy as np
import pytest
import torch

from storm_clinic.errors import SectionError
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.inference import ROWS, embed_tiles, slide_expression, tile_expression
from storm_clinic.storm.model import StormModel

N_GENES = 7
STEP = 200.0


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = StormConfig(
        width=16, n_layers=2, n_heads=2, image_width=10, n_genes=N_GENES, pitch_um=STEP
    )
    model = StormModel(config)
    model.gene_scale.set(torch.rand(N_GENES), torch.rand(N_GENES) + 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def slide():
    """A ragged piece of tissue on a grid of 200 µm, somewhere on a slide."""
    rng = np.random.default_rng(1)
    cells = np.argwhere(rng.random((40, 45)) < 0.8)[:, ::-1]
    features = rng.normal(size=(len(cells), 10)).astype(np.float16)
    return features, cells * STEP + 31_234.5


def by_hand(model, features, centres, row):
    """One tile's context, laid out place by place, shown to the whole network."""
    image, xy = torch.zeros(1, 25, 10), torch.zeros(1, 25, 2)
    valid = torch.zeros(1, 25, dtype=torch.bool)
    for slot in range(25):
        place = centres[row] + STEP * np.array([slot % 5 - 2, slot // 5 - 2])
        found = np.flatnonzero(np.abs(centres - place).max(axis=1) < 1)
        if len(found):
            valid[0, slot] = True
            image[0, slot] = torch.from_numpy(features[found[0]].astype(np.float32))
            xy[0, slot] = torch.from_numpy(centres[found[0]])
    with torch.no_grad():
        return model(Contexts(valid=valid, xy_um=xy, image=image)).spot[0].numpy()


def test_every_tile_is_read_in_its_own_context(model, slide):
    features, centres = slide
    spots = embed_tiles(model, features, centres, step_um=STEP)
    for row in (0, 1, 300, 777, len(features) - 1):
        np.testing.assert_allclose(
            spots[row], by_hand(model, features, centres, row), rtol=2e-4, atol=2e-5
        )


def test_a_smaller_context_sees_less(model, slide):
    features, centres = slide
    alone = embed_tiles(model, features, centres, step_um=STEP, side=1)
    changed = features.copy()
    changed[1:] = 0
    np.testing.assert_array_equal(
        alone[0], embed_tiles(model, changed, centres, step_um=STEP, side=1)[0]
    )
    wide = embed_tiles(model, features, centres, step_um=STEP)
    assert np.abs(wide[0] - embed_tiles(model, changed, centres, step_um=STEP)[0]).max() > 1e-3


def test_the_order_of_tiles_is_the_order_of_embeddings(model, slide):
    features, centres = slide
    order = np.random.default_rng(2).permutation(len(features))
    spots = embed_tiles(model, features, centres, step_um=STEP)
    shuffled = embed_tiles(model, features[order], centres[order], step_um=STEP)
    np.testing.assert_allclose(shuffled, spots[order], rtol=1e-3, atol=1e-4)


def test_the_mean_may_be_taken_before_the_last_layer(model, slide):
    spots = embed_tiles(model, *slide, step_um=STEP)
    genes = np.array([5, 0, 3])
    blocks = list(tile_expression(model, spots, genes))
    assert [len(block) for block in blocks] == [ROWS, len(spots) - ROWS]
    tiles = np.concatenate(blocks).astype(np.float64)
    np.testing.assert_allclose(slide_expression(model, spots, genes), tiles.mean(axis=0), rtol=1e-5)


def test_genes_come_in_the_order_they_were_asked_for(model, slide):
    spots = embed_tiles(model, *slide, step_um=STEP)[:9]
    everything = next(tile_expression(model, spots, np.arange(N_GENES)))
    panel = next(tile_expression(model, spots, np.array([5, 0])))
    np.testing.assert_allclose(panel, everything[:, [5, 0]], rtol=1e-5)


def test_embeddings_of_another_encoder_are_refused(model, slide):
    features, centres = slide
    with pytest.raises(SectionError, match="a network for 10 numbers an image"):
        embed_tiles(model, features[:, :9], centres, step_um=STEP)
