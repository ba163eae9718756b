"""Slide encoders: places as their authors count them, and outputs by hand."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from storm_clinic.encoders.catalogue import find_slide_card
from storm_clinic.encoders.slide_contract import SlideTiles, place_tiles, tile_cells
from storm_clinic.encoders.slide_encoding import LoadedSlideEncoder, load_slide_encoder
from storm_clinic.errors import EncoderError, FeatureError


@pytest.mark.parametrize(
    ("pitch", "corners", "cells"),
    [
        # 512 px at 0.5 µm/px on a slide of 0.25: 1024 level-0 px.
        (1024.0, [(0, 0), (1024, 0), (2048, 3072)], [(0, 0), (1, 0), (2, 3)]),
        # On a slide of 0.2523: 1014.66 px; corners are rounded one by one.
        (
            1014.66,
            [(0, 0), (1015, 0), (2029, 1015), (101466, 0)],
            [(0, 0), (1, 0), (2, 1), (100, 0)],
        ),
        # A pitch that rounds down: dividing by 1014 would do, by 1014.4 rounded up would not.
        (1014.4, [(1014, 2029), (2029, 3043)], [(1, 2), (2, 3)]),
        # A grid that starts anywhere, as in imports: cells count from its first tile.
        (512.0, [(100, 700), (612, 700), (100, 1212)], [(0, 1), (1, 1), (0, 2)]),
    ],
)
def test_tiles_get_the_cells_they_were_laid_in(pitch, corners, cells):
    found = tile_cells(np.array(corners, dtype=np.int64), pitch)
    assert found.tolist() == [list(cell) for cell in cells]


@pytest.mark.parametrize("slide_mpp", [0.2523, 0.25, 0.4977, 0.2268])
def test_a_whole_slide_of_rounded_corners_keeps_every_tile_apart(slide_mpp):
    from storm_clinic.slides.tiles import TileGeometry, lay_tiles

    geometry = TileGeometry(512, 0.5)
    corners = lay_tiles((120_000, 90_000), slide_mpp, geometry)
    pitch = geometry.step_level0_px(slide_mpp)
    cells = tile_cells(corners, pitch)
    columns = int(cells[:, 0].max()) + 1
    # Raster order: the n-th tile lies in column n modulo columns, row n over columns.
    order = np.arange(len(corners))
    assert (cells == np.stack([order % columns, order // columns], axis=1)).all()


@pytest.mark.parametrize(
    ("slide_mpp", "pitch_px", "coords"),
    # The authors' example: patch_size_lv0 is 1024 on a 40x slide, 512 on a 20x slide.
    [
        (0.25, 1024, [(0, 0), (1024, 0), (0, 2048)]),
        (0.5, 512, [(0, 0), (512, 0), (0, 1024)]),
        (0.2523, 1015, [(0, 0), (1015, 0), (0, 2030)]),
    ],
)
def test_titan_gets_level0_pixels_that_divide_by_the_pitch(slide_mpp, pitch_px, coords):
    pitch = 512 * 0.5 / slide_mpp
    corners = np.rint(np.array([(0, 0), (pitch, 0), (0, 2 * pitch)])).astype(np.int64)
    placed, found = place_tiles(find_slide_card("titan"), corners, pitch)
    assert found == pitch_px
    assert placed.tolist() == [list(pair) for pair in coords]


@pytest.mark.parametrize(
    ("slide_mpp", "corner", "position"),
    # Position in the authors' table: 1 + 1000 * column + row, a cell each 128 µm.
    [
        (0.5, (256, 512), 1 + 1000 * 1 + 2),
        (0.25, (512, 1024), 1 + 1000 * 1 + 2),
        (0.2523, (507, 1015), 1 + 1000 * 1 + 2),
        (0.25, (102_400, 51_200), 1 + 1000 * 200 + 100),
    ],
)
def test_gigapath_finds_its_positions_whatever_the_scanner(slide_mpp, corner, position):
    corners = np.array([(0, 0), corner], dtype=np.int64)
    placed, _ = place_tiles(find_slide_card("prov-gigapath-slide"), corners, 128 / slide_mpp)
    # As in the authors' code: floor(coords / 256), x times 1000 plus y, one for the class token.
    cells = torch.floor(torch.from_numpy(placed).float() / 256.0)
    positions = (cells[:, 0] * 1000 + cells[:, 1]).long() + 1
    assert positions.tolist() == [1, position]


def test_tiles_that_share_a_cell_or_leave_the_grid_are_refused():
    card = find_slide_card("prov-gigapath-slide")
    with pytest.raises(FeatureError, match="two share a cell"):
        place_tiles(card, np.array([(0, 0), (100, 0)], dtype=np.int64), 512.0)
    with pytest.raises(FeatureError, match="cell 1000 of a grid of 1000"):
        place_tiles(card, np.array([(0, 0), (512_000, 0)], dtype=np.int64), 512.0)


def _loaded(name, model):
    return LoadedSlideEncoder(find_slide_card(name), model, "0" * 64, torch.device("cpu"))


CORNERS = np.array([(0, 0), (1024, 0), (1024, 1024)], dtype=np.int64)


def test_titan_is_called_as_on_its_card():
    calls = []

    class Titan(torch.nn.Module):
        def encode_slide_from_patch_features(self, features, coords, patch_size_lv0):
            calls.append((features.shape, coords.dtype, coords.tolist(), patch_size_lv0))
            return features.mean(1)

    features = np.random.default_rng(0).normal(size=(3, 768)).astype(np.float16)
    found = _loaded("titan", Titan()).encode(features, CORNERS, 1024.0)
    assert calls == [((1, 3, 768), torch.int64, [CORNERS.tolist()], 1024)]
    np.testing.assert_allclose(found[0], features.astype(np.float32).mean(0), atol=1e-6)


def test_prism_gives_its_image_embedding_and_sees_no_places():
    class Prism(torch.nn.Module):
        def slide_representations(self, features):
            return {"image_embedding": features[:, 0, :1280], "image_latents": None}

    features = np.random.default_rng(0).normal(size=(3, 2560)).astype(np.float32)
    found = _loaded("prism", Prism()).encode(features)
    np.testing.assert_array_equal(found, features[:1, :1280])


@pytest.fixture
def gigapath(monkeypatch):
    """A stand-in for the authors' package, with the call and return of its network."""

    class LongNet(torch.nn.Module):
        def __init__(self, in_chans, global_pool):
            super().__init__()
            assert not global_pool  # the class token
            self.proj = torch.nn.Linear(in_chans, 768)
            self.register_buffer("pos_embed", torch.arange(1_000_001.0), persistent=False)
            sys.stdout.write("Global Pooling: False")

        def forward(self, x, coords, all_layer_embed=False):
            cells = torch.floor(coords / 256.0)
            position = (cells[..., 0] * 1000 + cells[..., 1]).long() + 1
            return [self.proj(x).mean(1) + self.pos_embed[position].sum()]

    package = ModuleType("gigapath")
    package.slide_encoder = SimpleNamespace(gigapath_slide_enc12l768d=LongNet)
    monkeypatch.setitem(sys.modules, "gigapath", package)


def test_gigapath_is_built_by_its_package_and_filled_by_ours(gigapath, tmp_path, capsys):
    state = {"proj.weight": torch.zeros(768, 1536), "proj.bias": torch.arange(768.0)}
    torch.save({"model": state}, tmp_path / "slide_encoder.pth")
    encoder = load_slide_encoder("prov-gigapath-slide", weights=tmp_path, device="cpu")
    features = np.ones((2, 1536), dtype=np.float32)
    corners = np.array([(0, 0), (512, 1024)], dtype=np.int64)
    found = encoder.encode(features, corners, 512.0)
    np.testing.assert_allclose(found[0], np.arange(768) + 1 + 1003)
    assert capsys.readouterr().out == ""  # its chatter would spoil --json


def _chief_state(generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.05

    return {
        "attention_net.0.weight": draw(512, 768),
        "attention_net.0.bias": draw(512),
        "attention_net.3.attention_a.0.weight": draw(256, 512),
        "attention_net.3.attention_a.0.bias": draw(256),
        "attention_net.3.attention_b.0.weight": draw(256, 512),
        "attention_net.3.attention_b.0.bias": draw(256),
        "attention_net.3.attention_c.weight": draw(1, 256) * 200,
        "attention_net.3.attention_c.bias": draw(1),
    }


def test_chief_is_the_mean_of_tiles_under_a_gated_attention(tmp_path):
    state = _chief_state(torch.Generator().manual_seed(3))
    training = {"classifiers.weight": torch.zeros(2, 512), "text_to_vision.0.bias": torch.zeros(5)}
    torch.save(state | training, tmp_path / "CHIEF_pretraining.pth")
    encoder = load_slide_encoder("chief", weights=tmp_path, device="cpu")
    tiles = np.random.default_rng(1).normal(size=(7, 768))

    w = {name.removeprefix("attention_net."): value.numpy() for name, value in state.items()}
    hidden = np.maximum(tiles @ w["0.weight"].T + w["0.bias"], 0)
    a = np.tanh(hidden @ w["3.attention_a.0.weight"].T + w["3.attention_a.0.bias"])
    b = 1 / (1 + np.exp(-(hidden @ w["3.attention_b.0.weight"].T + w["3.attention_b.0.bias"])))
    score = ((a * b) @ w["3.attention_c.weight"].T + w["3.attention_c.bias"])[:, 0]
    weight = np.exp(score) / np.exp(score).sum()
    np.testing.assert_allclose(encoder.encode(tiles)[0], weight @ tiles, atol=1e-4)
    assert weight.max() > 2 / 7  # the weights are not all alike, so the comparison means something


@pytest.mark.parametrize(
    ("features", "coords", "pitch", "message"),
    [
        (np.zeros((2, 767)), CORNERS[:2], 1024.0, r"takes \(n, 768\) features, got \(2, 767\)"),
        (np.zeros((0, 768)), CORNERS[:0], 1024.0, "got"),
        (np.zeros((2, 768)), None, 1024.0, "coordinates"),
        (np.zeros((2, 768)), CORNERS[:2], None, "microns per pixel"),
    ],
)
def test_tiles_that_a_slide_encoder_cannot_take_are_refused(features, coords, pitch, message):
    with pytest.raises(FeatureError, match=message):
        _loaded("titan", torch.nn.Identity()).encode(features, coords, pitch)


def test_an_output_of_another_width_and_a_network_that_fails_are_named():
    def broken(network, tiles: SlideTiles):
        raise RuntimeError("flash attention needs a GPU")

    card = dataclasses.replace(
        find_slide_card("chief"), apply=lambda network, tiles: tiles.features
    )
    cpu = torch.device("cpu")
    with pytest.raises(EncoderError, match=r"slide encoder chief: gives shape \(1, 2, 768\)"):
        LoadedSlideEncoder(card, torch.nn.Identity(), "0", cpu).encode(np.zeros((2, 768)))
    card = dataclasses.replace(card, apply=broken)
    with pytest.raises(EncoderError, match="cannot embed a slide of 2 tiles: flash"):
        LoadedSlideEncoder(card, torch.nn.Identity(), "0", cpu).encode(np.zeros((2, 768)))


@pytest.mark.parametrize("change", [{"width": 0}, {"mpp": 0.0}, {"name": "conch-v1.5"}])
def test_a_slide_card_that_contradicts_itself_is_refused(change):
    with pytest.raises(EncoderError):
        dataclasses.replace(find_slide_card("titan"), **change)


@pytest.mark.parametrize(
    ("name", "install"),
    [("prov-gigapath-slide", "prov-gigapath/prov-gigapath")],
)
def test_a_slide_encoder_whose_package_is_missing_says_how_to_get_it(name, install, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match=install):
        load_slide_encoder(name, weights=tmp_path, device="cpu")


def test_an_unknown_slide_encoder_gets_the_nearest_known_one():
    with pytest.raises(EncoderError, match="'titn'; did you mean 'titan'"):
        find_slide_card("titn")
