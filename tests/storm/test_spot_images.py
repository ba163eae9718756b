from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from storm_clinic.encoders.hub import load_encoder
from storm_clinic.errors import SectionError
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.spot_images import embed_spots, embed_views, spot_tiles
from storm_clinic.storm.tile_views import tile_views

MPP = 0.5


@pytest.fixture
def section(tmp_path) -> PairedSection:
    """Red tells x and green tells y, 2 px a step; six spots, one at the corner."""
    y, x = np.mgrid[0:500, 0:500] // 2
    Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8)).save(tmp_path / "s.png")
    centres = np.array([[100, 60], [300, 60], [100, 260], [300, 260], [400, 400], [0, 0]])
    return PairedSection(
        name="s",
        patient="p",
        technology="st",
        grid="square",
        spot_um=20.0,
        pitch_um=100.0,
        image=tmp_path / "s.png",
        mpp=MPP,
        centres_px=centres,
        counts=np.ones((6, 1)),
        symbols=("A",),
        spots=tuple("abcdef"),
    )


def test_a_tile_is_centred_on_its_spot_and_as_wide_as_asked(section):
    for tile, (x, y) in zip(
        spot_tiles(section, tile_um=32.0, tile_px=64), section.centres_px[:5], strict=False
    ):
        assert tile.shape == (64, 64, 3)
        assert tile[..., 0].mean() == pytest.approx(x / 2, abs=0.5)
        assert tile[..., 1].mean() == pytest.approx(y / 2, abs=0.5)
        # 32 µm are 64 px of the image, 32 steps of colour.
        assert np.ptp(tile[..., 0].astype(int)) == pytest.approx(32, abs=1)
    corner = list(spot_tiles(section, tile_um=32.0, tile_px=64))[5]
    assert (corner[:32, :32] == 255).all()  # beyond the image


def test_embeddings_are_the_encoder_s_of_each_tile_whatever_the_batch(section, tiny_encoder):
    card, weights = tiny_encoder
    encoder = load_encoder(card, weights=weights, device="cpu")  # batches of 4: the last is short
    found = embed_spots(section, encoder, tile_um=32.0)
    assert found.shape == (6, 12)
    assert np.ptp(found, axis=0).max() > 0.1
    backwards = section.subset(np.arange(6)[::-1], why="order")
    np.testing.assert_array_equal(embed_spots(backwards, encoder, tile_um=32.0), found[::-1])


def test_a_section_without_image_is_refused(section, tiny_encoder):
    with pytest.raises(SectionError, match="section s: has no image"):
        next(spot_tiles(replace(section, image=None), tile_um=32.0, tile_px=64))
    with pytest.raises(SectionError, match="cannot be"):
        next(spot_tiles(section, tile_um=0.0, tile_px=64))


def test_each_look_is_embedded_as_its_tiles_alone_would_be(section, tiny_encoder):
    card, weights = tiny_encoder
    encoder = load_encoder(card, weights=weights, device="cpu")
    views = tile_views(3, stain=0.2, seed=0)
    found = embed_views(section, encoder, views, tile_um=32.0)
    np.testing.assert_array_equal(found[0], embed_spots(section, encoder, tile_um=32.0))
    shown = np.stack(list(spot_tiles(section, tile_um=32.0, tile_px=card.tile_px)))
    for look, view in zip(found, views, strict=True):
        alone = encoder.encode(torch.from_numpy(view(shown)))
        np.testing.assert_allclose(look, alone.numpy(), atol=1e-5)
    assert np.abs(found[1] - found[0]).max() > 1e-3
