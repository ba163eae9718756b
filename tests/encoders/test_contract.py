from __future__ import annotations

import dataclasses

import pytest

from storm_clinic.encoders.catalogue import find_card
from storm_clinic.errors import EncoderError, UnsafeName


def test_a_tile_that_fits_is_shown_at_the_mpp_it_was_read_at():
    assert find_card("uni2-h").shown_mpp(224, 0.5) == 0.5


def test_a_tile_that_is_shrunk_is_shown_at_a_coarser_mpp():
    # 256 px at 0.5 µm/px shrunk to 224 px: 128 µm over 224 px.
    assert find_card("uni2-h").shown_mpp(256, 0.5) == pytest.approx(128 / 224)


def test_a_crop_keeps_the_mpp():
    # Resized to 256 (no change) and cropped to 224: the field shrinks, the scale does not.
    card = dataclasses.replace(find_card("uni2-h"), resize_px=256, tile_px=256)
    assert card.shown_mpp(256, 0.5) == 0.5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mpp": 0.0}, "mpp"),
        ({"width": 0}, "width"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
        ({"resize_px": 200}, "resize_px"),
        ({"pooling": "pooled"}, "prefix tokens"),
        ({"prefix_tokens": 0}, "prefix tokens"),
        ({"architecture": ""}, "architecture"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(change, named):
    with pytest.raises(EncoderError, match=named):
        dataclasses.replace(find_card("uni2-h"), **change)


def test_a_name_that_cannot_be_a_folder_is_refused():
    with pytest.raises(UnsafeName):
        dataclasses.replace(find_card("uni2-h"), name="../uni")
