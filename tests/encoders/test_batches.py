"""Halved batches with a memory that is only pretended, and copies with streams that are."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch

from storm_clinic.encoders import pinned_copies
from storm_clinic.encoders.batches import BatchEncoder
from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.encoders.pinned_copies import PinnedCopies
from storm_clinic.errors import EncoderError


class Small(LoadedEncoder):
    """Its memory holds three tiles."""

    holds = 3

    def encode(self, tiles, *, pad_to=None):
        if pad_to > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(tiles, pad_to=pad_to)


@pytest.fixture
def loaded(tiny_encoder):
    card, weights = tiny_encoder
    return load_encoder(card, weights=weights, device="cpu")


@pytest.fixture
def tiles() -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randint(0, 256, (10, 64, 64, 3), dtype=torch.uint8, generator=generator)


def test_batches_are_halved_until_they_fit_and_stay_so(loaded, tiles):
    small = Small(loaded.card, loaded.model, loaded.digest, loaded.device)
    batches = BatchEncoder(small, 10)
    first = batches.start(tiles)()
    assert first.batch_size == batches.batch_size == 3  # 10, 5, 3
    torch.testing.assert_close(first.embedding, loaded.encode(tiles), rtol=1e-5, atol=1e-6)
    assert batches.start(tiles[:2])().batch_size == 3


def test_a_memory_that_holds_no_tile_ends_the_run(loaded, tiles):
    none = Small(loaded.card, loaded.model, loaded.digest, loaded.device)
    object.__setattr__(none, "holds", 0)
    with pytest.raises(EncoderError, match="does not hold the network and one tile"):
        BatchEncoder(none, 4).start(tiles[:4])


@pytest.fixture
def pretended_gpu(monkeypatch):
    """A log of what streams and events are told."""
    log: list[str] = []

    class Event:
        def synchronize(self):
            log.append("wait for embeddings")

    class Stream:
        def __init__(self, name):
            self.name = name

        def record_event(self):
            log.append(f"mark on {self.name}")
            return Event()

        def wait_event(self, event):
            log.append(f"{self.name} waits for the copy")

    computing = Stream("computing")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copying"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("synchronize"))
    monkeypatch.setattr(
        pinned_copies, "page_locked", lambda shape, dtype: torch.empty(shape, dtype=dtype)
    )
    return log


def test_computing_waits_for_the_copy_and_reading_for_computing(pretended_gpu, tiles):
    copies = PinnedCopies(torch.device("cpu"))
    pixels, buffer = copies.upload(tiles)
    assert torch.equal(pixels, tiles)
    finish = copies.download(pixels.float().mean((1, 2, 3)), buffer)
    assert pretended_gpu == [
        "mark on copying",
        "computing waits for the copy",
        "mark on computing",
    ]
    assert torch.equal(finish(), tiles.float().mean((1, 2, 3)))
    assert pretended_gpu[-1] == "wait for embeddings"


def test_a_third_batch_waits_until_the_first_is_read(pretended_gpu, tiles):
    copies = PinnedCopies(torch.device("cpu"))
    first, second = copies.upload(tiles), copies.upload(tiles + 1)
    third: list[torch.Tensor] = []
    waiting = threading.Thread(target=lambda: third.append(copies.upload(tiles + 2)[0]))
    waiting.start()
    waiting.join(0.1)
    assert third == []
    copies.download(first[0].float(), first[1])()
    waiting.join(10)
    # The second batch's buffer was not the one that was used again.
    assert torch.equal(third[0], tiles + 2)
    assert torch.equal(second[0], tiles + 1)


def test_a_batch_that_cannot_be_computed_gives_its_buffer_back(pretended_gpu, tiles):
    copies = PinnedCopies(torch.device("cpu"))
    for _ in range(5):  # more than there are buffers
        _, buffer = copies.upload(tiles)
        copies.release(buffer)
    assert pretended_gpu.count("synchronize") == 5
