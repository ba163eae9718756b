"""Where toolkits disagree about an encoder, and what this catalogue decided."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from storm_clinic.encoders.catalogue import (
    encoder_names,
    find_card,
    find_slide_card,
    slide_encoder_names,
)
from storm_clinic.encoders.encoding import prepare

IMAGENET = (0.485, 0.456, 0.406)
CLIP = (0.48145466, 0.4578275, 0.40821073)
HALF = (0.5, 0.5, 0.5)
HOPTIMUS = (0.707223, 0.578729, 0.703617)
HIBOU = (0.7068, 0.5755, 0.7220)
LUNIT = (0.70322989, 0.53606487, 0.66096631)

# Tile as read (px, µm/px), µm/px of the picture that the network gets, mean of red, green, blue.
SHOWN = {
    "chief-ctranspath": (256, 1.0, 256 / 224, IMAGENET),
    "conch": (448, 0.5, 0.5, CLIP),
    "conch-v1.5": (512, 0.5, 256 / 448, IMAGENET),
    "ctranspath": (224, 1.0, 1.0, IMAGENET),
    "efficientnet-lite0": (224, 0.5, 0.5, (127 / 255,) * 3),
    "gpfm": (512, 0.25, 128 / 224, IMAGENET),
    "h-optimus-0": (224, 0.5, 0.5, HOPTIMUS),
    "h-optimus-1": (224, 0.5, 0.5, HOPTIMUS),
    "h0-mini": (224, 0.5, 0.5, HOPTIMUS),
    "hibou-b": (224, 0.5, 0.5, HIBOU),
    "hibou-l": (224, 0.5, 0.5, HIBOU),
    "kaiko-vitb16": (224, 0.5, 0.5, HALF),
    "kaiko-vitb8": (224, 0.5, 0.5, HALF),
    "kaiko-vitl14": (224, 0.5, 0.5, HALF),
    "kaiko-vits16": (224, 0.5, 0.5, HALF),
    "kaiko-vits8": (224, 0.5, 0.5, HALF),
    "lunit-vits16": (224, 0.5, 0.5, LUNIT),
    "lunit-vits8": (224, 0.5, 0.5, LUNIT),
    "midnight-12k": (224, 0.5, 0.5, HALF),
    "phikon": (224, 0.5, 0.5, IMAGENET),
    "phikon-v2": (224, 0.5, 0.5, IMAGENET),
    "prov-gigapath": (256, 0.5, 0.5, IMAGENET),
    "resnet50-imagenet": (224, 0.5, 0.5, IMAGENET),
    "uni": (224, 0.5, 0.5, IMAGENET),
    "uni2-h": (224, 0.5, 0.5, IMAGENET),
    "virchow": (224, 0.5, 0.5, IMAGENET),
    "virchow2": (224, 0.5, 0.5, IMAGENET),
}

# Where one name stands for several lengths in circulation.
WIDTHS = {
    "h0-mini": 1536,
    "midnight-12k": 3072,
    "virchow": 2560,
    "virchow2": 2560,
    "resnet50-imagenet": 2048,
    "conch": 512,
    "conch-v1.5": 768,
    "hibou-b": 768,
    "hibou-l": 1024,
}


def test_every_encoder_is_settled():
    assert encoder_names() == sorted(SHOWN)


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_tile_scale_and_colours_are_those_decided(name):
    tile_px, mpp, shown_mpp, mean = SHOWN[name]
    card = find_card(name)
    assert (card.tile_px, card.mpp, card.mean) == (tile_px, mpp, mean)
    assert card.shown_mpp(card.tile_px, card.mpp) == pytest.approx(shown_mpp)


@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_a_name_with_several_widths_has_the_authors(name):
    assert find_card(name).width == WIDTHS[name]


def test_gigapath_sees_the_central_224_of_256_pixels_untouched(random_tiles):
    generator = torch.Generator().manual_seed(1)
    tiles = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8, generator=generator)
    card = find_card("prov-gigapath")
    plain = dataclasses.replace(card, input_px=256, resize_px=None)
    assert torch.equal(prepare(tiles, card), prepare(tiles, plain)[:, :, 16:240, 16:240])


@pytest.mark.parametrize("name", ["gpfm", "chief-ctranspath", "conch-v1.5"])
def test_encoders_that_shrink_show_the_whole_tile(name):
    # A dark frame of one sixteenth of the tile survives: nothing is cut off.
    card = find_card(name)
    tiles = torch.full((1, card.tile_px, card.tile_px, 3), 255, dtype=torch.uint8)
    edge = card.tile_px // 16
    tiles[:, :edge] = 0
    tiles[:, -edge:] = 0
    dark = prepare(tiles, card)[0, 0, :, card.input_px // 2] < 0
    assert int(dark.sum()) == pytest.approx(card.input_px / 8, abs=2)


def test_every_card_names_licence_citation_and_what_was_decided():
    cards = [find_card(name) for name in encoder_names()]
    cards += [find_slide_card(name) for name in slide_encoder_names()]
    assert all(card.licence and card.citation and card.notes for card in cards)


def test_licences_that_extend_to_what_is_derived_say_so():
    cards = [find_card(name) for name in encoder_names()]
    cards += [find_slide_card(name) for name in slide_encoder_names()]
    gated = {card.name for card in cards if card.licence == "CC-BY-NC-ND-4.0" and card.gated}
    assert gated == {
        "conch",
        "conch-v1.5",
        "h-optimus-1",
        "h0-mini",
        "prism",
        "titan",
        "uni",
        "uni2-h",
        "virchow2",
    }
    assert all("derived" in card.notes for card in cards if card.name in gated)


@pytest.mark.parametrize("name", slide_encoder_names())
def test_a_slide_encoder_takes_what_its_tile_encoder_gives(name):
    card = find_slide_card(name)
    tile = find_card(card.tile_encoder)
    assert (tile.width, tile.tile_px, tile.mpp) == (card.tile_width, card.tile_px, card.mpp)


def test_titan_and_gigapath_are_told_places_and_the_others_not():
    found = {name: find_slide_card(name).coordinates for name in slide_encoder_names()}
    assert found == {
        "titan": "level0",
        "prov-gigapath-slide": "cells",
        "prism": "none",
        "chief": "none",
    }
