"""Tiles to a GPU and embeddings back, while it computes the batch before.

Written for CUDA; its order of events is tested with stand-ins, its gain has not been measured.
"""

from __future__ import annotations

import queue
from collections.abc import Callable

import torch

_DEPTH = 2  # one batch is copied while one is computed


class PinnedCopies:
    """Page-locked buffers, and a stream that copies beside the one that computes.

    Parameters
    ----------
    device : torch.device
        A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._free: queue.SimpleQueue[torch.Tensor | None] = queue.SimpleQueue()
        for _ in range(_DEPTH):
            self._free.put(None)  # made when the first batch shows its shape

    def upload(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Start to copy a batch; waits while two batches are on their way.

        Returns
        -------
        tensor on the device, and the buffer
            The current stream waits for the copy; the buffer is for `download` or `release`.
        """
        buffer = self._free.get()
        try:
            if buffer is None or buffer.shape[1:] != tiles.shape[1:] or len(buffer) < len(tiles):
                buffer = page_locked(tiles.shape, tiles.dtype)
            held = buffer[: len(tiles)]
            held.copy_(tiles)
            with torch.cuda.stream(self._stream):
                pixels = held.to(self._device, non_blocking=True)
                copied = self._stream.record_event()
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(copied)
            pixels.record_stream(computing)  # its memory is not given away while that computes
        except BaseException:
            self._free.put(buffer)
            raise
        return pixels, buffer

    def release(self, buffer: torch.Tensor | None) -> None:
        """Give a buffer back whose batch could not be computed."""
        torch.cuda.synchronize(self._device)
        self._free.put(buffer)

    def download(
        self, embedding: torch.Tensor, buffer: torch.Tensor | None
    ) -> Callable[[], torch.Tensor]:
        """Start to copy embeddings back.

        Returns
        -------
        function
            Waits for them, gives the buffer back, returns them on the CPU; call it once.
        """
        found = page_locked(embedding.shape, embedding.dtype)
        found.copy_(embedding, non_blocking=True)
        done = torch.cuda.current_stream(self._device).record_event()

        def finish() -> torch.Tensor:
            try:
                done.synchronize()
            finally:
                self._free.put(buffer)
            return found

        return finish


def page_locked(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Memory that the GPU copies from and to by itself."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)
