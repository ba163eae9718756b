"""The search for a batch size, with a memory that is only pretended."""

from __future__ import annotations

import warnings

import pytest
import torch

from storm_clinic.encoders import tuning as tuning_room
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.encoders.tuning import Tuning, largest_batch, tune, worth_compiling
from storm_clinic.errors import EncoderError


class _Memory:
    """Holds so many tiles, and remembers what was tried."""

    def __init__(self, holds: int):
        self.holds, self.tried = holds, []

    def __call__(self, n_tiles: int) -> None:
        self.tried.append(n_tiles)
        if n_tiles > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("holds", "start", "most", "found", "tried"),
    [
        (300, 32, 1024, 256, [32, 64, 128, 256, 512]),
        (10_000, 32, 128, 128, [32, 64, 128]),
        (10_000, 32, 100, 64, [32, 64]),
        (10_000, 128, 85, 85, [85]),
        (20, 128, 1024, 16, [128, 64, 32, 16]),
        (1, 8, 64, 1, [8, 4, 2, 1]),
    ],
)
def test_the_largest_batch_that_fits_is_found(holds, start, most, found, tried):
    memory = _Memory(holds)
    assert largest_batch(memory, start=start, most=most) == found
    assert memory.tried == tried


def test_a_device_that_holds_no_tile_is_an_error():
    with pytest.raises(EncoderError, match="does not hold the network and one tile"):
        largest_batch(_Memory(0), start=16, most=64)


def test_other_failures_are_not_taken_for_a_full_memory():
    def broken(n_tiles):
        raise RuntimeError("CUDA error: an illegal memory access")

    with pytest.raises(RuntimeError, match="illegal"):
        largest_batch(broken, start=16, most=64)


@pytest.mark.parametrize(("seconds", "compiled", "worth"), [(1.0, 0.5, True), (1.0, 0.95, False)])
def test_compiling_must_gain_a_tenth(seconds, compiled, worth):
    assert worth_compiling(seconds, compiled) is worth


def test_on_a_processor_nothing_is_searched_or_compiled(tiny_encoder):
    card, weights = tiny_encoder
    loaded = load_encoder(card, weights=weights, device="cpu")
    tuned, tuning = tune(loaded, tile_px=64)
    assert tuned is loaded
    assert tuning == Tuning(card.batch_size)


@pytest.fixture
def as_on_a_gpu(tiny_encoder, monkeypatch):
    """The walk of a GPU on a processor: no compiler, and a clock that says what it is told."""
    card, weights = tiny_encoder
    loaded = load_encoder(card, weights=weights, device="cpu")
    monkeypatch.setattr(tuning_room, "_searches", lambda loaded: True)
    monkeypatch.setattr(torch, "compile", lambda function: function)

    def walk(seconds: float, compiled_seconds: float | Exception):
        def clock(encoder, size, tile_px):
            found = seconds if encoder.run is None else compiled_seconds
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(tuning_room, "_seconds", clock)
        monkeypatch.setattr(tuning_room, "_BATCH_BYTES", 40 * 3 * 64**2)  # 40 tiles of 64 px
        return loaded, *tune(loaded, tile_px=64)

    return walk


def test_a_network_that_compiles_to_a_faster_one_is_used_compiled(as_on_a_gpu):
    loaded, tuned, tuning = as_on_a_gpu(2.0, 1.0)
    # 4 doubled to 8, 16, 32; 64 would be over 40.
    assert tuning == Tuning(32, 16.0, 32.0, compiled=True)
    tiles = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    assert tuned.run is not None
    assert torch.equal(tuned.encode(tiles, pad_to=32), loaded.encode(tiles, pad_to=32))


def test_a_network_that_compiling_makes_no_faster_stays_as_it_is(as_on_a_gpu):
    loaded, tuned, tuning = as_on_a_gpu(1.0, 1.0)
    assert tuned is loaded
    assert (tuning.compiled, tuning.compiled_tiles_per_second) == (False, 32.0)


def test_a_compiler_that_fails_is_recorded_and_not_needed(as_on_a_gpu):
    loaded, tuned, tuning = as_on_a_gpu(1.0, RuntimeError("Failed to find C compiler"))
    assert tuned is loaded
    assert tuning.compile_problem == "RuntimeError: Failed to find C compiler"


def _gpu_missing() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is not there
        return not torch.cuda.is_available()


needs_gpu = pytest.mark.skipif(_gpu_missing(), reason="there is no GPU here to compare with")


def _centred_cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of each tile, after the mean over tiles is taken away: what tells tiles apart."""
    return torch.nn.functional.cosine_similarity(a - a.mean(0), b - b.mean(0))


@needs_gpu
@pytest.mark.parametrize("name", ["uni2-h", "virchow2", "kaiko-vits16", "gpfm"])
def test_features_of_gpu_and_processor_agree(name, shrunk, random_state, tmp_path):
    from safetensors.torch import save_file

    card = shrunk(name)
    save_file(random_state(card), tmp_path / "model.safetensors")
    generator = torch.Generator().manual_seed(9)
    coarse = torch.randint(0, 256, (24, 3, 14, 14), generator=generator).float()
    pictures = torch.nn.functional.interpolate(coarse, size=card.tile_px, mode="bilinear")
    tiles = pictures.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    cpu = load_encoder(card, weights=tmp_path, device="cpu").encode(tiles)
    gpu = load_encoder(card, weights=tmp_path, device="cuda")
    assert gpu.precision == card.precision
    assert _centred_cosine(cpu, gpu.encode(tiles)).min() >= 0.999


@needs_gpu
def test_tuning_on_a_gpu_keeps_the_features(tiny_encoder):
    card, weights = tiny_encoder
    loaded = load_encoder(card, weights=weights, device="cuda")
    tuned, tuning = tune(loaded, tile_px=64)
    assert tuning.batch_size >= loaded.batch_size
    assert tuning.tiles_per_second is not None
    tiles = torch.randint(0, 256, (16, 64, 64, 3), dtype=torch.uint8)
    assert _centred_cosine(loaded.encode(tiles), tuned.encode(tiles)).min() >= 0.999
