"""Batches of one shape through an encoder; where a GPU's memory runs out, of half as many tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.encoders.pinned_copies import PinnedCopies
from storm_clinic.errors import EncoderError


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """Embeddings, float32 (n, width) on the CPU, and the tiles a batch they were computed in."""

    embedding: torch.Tensor
    batch_size: int


class BatchEncoder:
    """Encodes batch after batch.

    Parameters
    ----------
    encoder : LoadedEncoder
    batch_size : int
        Tiles a batch; every batch is filled up to it.

    Attributes
    ----------
    batch_size : int
        As above, or less after the device's memory ran out.
    """

    def __init__(self, encoder: LoadedEncoder, batch_size: int) -> None:
        self.encoder = encoder
        self.batch_size = batch_size
        self._copies = PinnedCopies(encoder.device) if encoder.device.type == "cuda" else None

    def start(self, tiles: torch.Tensor) -> Callable[[], EncodedBatch]:
        """Start to encode tiles; on a GPU this returns while it computes.

        Parameters
        ----------
        tiles : uint8 tensor, shape (n, side, side, 3)
            On the CPU, at most as many as the first ``batch_size``. It may be overwritten once
            this returns.

        Returns
        -------
        function
            Waits for the embeddings and returns them; to be called once.

        Raises
        ------
        EncoderError
            If not even one tile fits into the device's memory.
        RuntimeError
            Of CUDA.
        """
        if self._copies is None:
            done = EncodedBatch(torch.cat(self._parts(tiles, self.encoder.encode)), self.batch_size)
            return lambda: done
        copies = self._copies
        pixels, buffer = copies.upload(tiles)
        try:
            parts = self._parts(pixels, self.encoder.encode_on_device)
            finish = copies.download(torch.cat(parts), buffer)
        except BaseException:
            copies.release(buffer)
            raise
        size = self.batch_size
        return lambda: EncodedBatch(finish(), size)

    def _parts(
        self, tiles: torch.Tensor, encode: Callable[..., torch.Tensor]
    ) -> list[torch.Tensor]:
        parts: list[torch.Tensor] = []
        done = 0
        while done < len(tiles):
            part = tiles[done : done + self.batch_size]
            try:
                parts.append(encode(part, pad_to=self.batch_size))
            except torch.OutOfMemoryError as error:
                if self.batch_size == 1:
                    raise EncoderError(
                        "the device's memory does not hold the network and one tile",
                        where=f"encoder {self.encoder.card.name}",
                        fix="Free the device's memory, or use --device cpu.",
                    ) from error
            else:
                done += len(part)
                continue
            # Out of the handler, whose traceback holds what the failed try had computed.
            self.batch_size = (self.batch_size + 1) // 2
            if self.encoder.device.type == "cuda":
                torch.cuda.empty_cache()
        return parts
