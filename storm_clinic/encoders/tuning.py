"""On a GPU: the largest batch that fits, and whether compiling the network pays.

On a CPU nothing is searched: results there are the same bits on every run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from storm_clinic.encoders.encoding import LoadedEncoder, embed
from storm_clinic.errors import EncoderError

# Reader processes hold a few dozen batches in shared memory.
_BATCH_BYTES = 64 << 20
_REPEATS = 3
# A gain below this is not worth the minute that compiling takes, nor the noise of the clock.
_LEAST_GAIN = 1.1


@dataclass(frozen=True)
class Tuning:
    """What was found on this device.

    Attributes
    ----------
    batch_size : int
        Tiles a batch.
    tiles_per_second : float or None
        Of the network as it is; None where nothing was measured.
    compiled_tiles_per_second : float or None
        After ``torch.compile``; None where that failed or was not tried.
    compiled : bool
        Whether the compiled network is used.
    compile_problem : str or None
        Why it could not be compiled.
    """

    batch_size: int
    tiles_per_second: float | None = None
    compiled_tiles_per_second: float | None = None
    compiled: bool = False
    compile_problem: str | None = None


def largest_batch(try_batch: Callable[[int], object], *, start: int, most: int) -> int:
    """The largest batch that fits in memory, of ``start`` times or divided by powers of two.

    Doubles from ``start`` until memory runs out or ``most`` is passed; where already ``start``
    does not fit, halves until something does.

    Parameters
    ----------
    try_batch : function
        Encodes that many tiles; raises ``torch.OutOfMemoryError`` if they do not fit.
    start, most : int
        First try, and the largest batch wanted; ``start`` is cut to ``most``.

    Raises
    ------
    EncoderError
        If not even one tile fits.
    """
    size = min(start, most)
    if not _fits(try_batch, size):
        while size > 1:
            size //= 2
            if _fits(try_batch, size):
                return size
        raise EncoderError(
            "the device's memory does not hold the network and one tile",
            where="device",
            fix="Free the device's memory, or use --device cpu.",
        )
    while size * 2 <= most and _fits(try_batch, size * 2):
        size *= 2
    return size


def _fits(try_batch: Callable[[int], object], size: int) -> bool:
    try:
        try_batch(size)
    except torch.OutOfMemoryError:
        return False
    return True


def worth_compiling(seconds: float, compiled_seconds: float) -> bool:
    """Whether a compiled network is faster by a tenth, measured on the same warm batch."""
    return seconds >= _LEAST_GAIN * compiled_seconds


def tune(loaded: LoadedEncoder, tile_px: int) -> tuple[LoadedEncoder, Tuning]:
    """Find the batch size, and compile the network where that was measured to be faster.

    Parameters
    ----------
    loaded : LoadedEncoder
        On any device; on a CPU it comes back as it is.
    tile_px : int
        Side of the tiles that will be encoded.

    Returns
    -------
    LoadedEncoder, Tuning
        The encoder to use, and what was found, for the run's record.

    Raises
    ------
    EncoderError
        If not even one tile fits.
    """
    if not _searches(loaded):
        return loaded, Tuning(loaded.batch_size)
    most = max(loaded.card.batch_size, _BATCH_BYTES // (3 * tile_px**2))

    def try_batch(n_tiles: int) -> None:
        try:
            loaded.encode(_blank(n_tiles, tile_px))
        finally:
            torch.cuda.empty_cache()  # a try that failed leaves its memory reserved

    size = largest_batch(try_batch, start=loaded.batch_size, most=most)
    seconds = _seconds(loaded, size, tile_px)
    tuning = Tuning(size, tiles_per_second=size / seconds)
    compiled = replace(loaded, run=torch.compile(_embedding_of(loaded)))
    try:
        compiled_seconds = _seconds(compiled, size, tile_px)
    # Compiling needs a C++ compiler, Triton and more memory; what is missing shows only now.
    except (RuntimeError, OSError, ImportError) as error:
        torch.cuda.empty_cache()
        return loaded, replace(tuning, compile_problem=f"{type(error).__name__}: {error}"[:500])
    faster = worth_compiling(seconds, compiled_seconds)
    tuning = replace(tuning, compiled_tiles_per_second=size / compiled_seconds, compiled=faster)
    return (compiled if faster else loaded), tuning


def _searches(loaded: LoadedEncoder) -> bool:
    return loaded.device.type == "cuda"


def _embedding_of(loaded: LoadedEncoder) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(prepared: torch.Tensor) -> torch.Tensor:
        return embed(loaded.model, prepared, loaded.card)

    return run


def _seconds(loaded: LoadedEncoder, size: int, tile_px: int) -> float:
    """Best time of a few batches after one to warm up; `encode` ends by copying to the CPU."""
    tiles = _blank(size, tile_px)
    loaded.encode(tiles)
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        loaded.encode(tiles)
        times.append(time.perf_counter() - started)
    return min(times)


def _blank(n_tiles: int, tile_px: int) -> Any:
    return torch.full((n_tiles, tile_px, tile_px, 3), 255, dtype=torch.uint8)
