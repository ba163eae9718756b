"""Tile embeddings that were saved by torch, as CLAM's: a tensor, or a dictionary that names it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from storm_clinic.errors import FeatureError
from storm_clinic.features.foreign_description import ForeignFile, refusal, tile_shape
from storm_clinic.features.slide_features import Array


def describe_tensor(path: Path) -> ForeignFile:
    """What a file holds; it says nothing of itself.

    Raises
    ------
    FeatureError
        If it cannot be read, or holds no tensor of embeddings.
    """
    tensor, _ = _load(path)
    n_tiles, width = tile_shape(tuple(tensor.shape), path)
    return ForeignFile(path, path.stem, n_tiles, width, _dtype(tensor, path))


def read_tensor(path: Path) -> tuple[Array, Array | None]:
    """Features, shape (n_tiles, width), and coordinates as they are, if the file names any.

    Raises
    ------
    FeatureError
        As `describe_tensor`.
    """
    tensor, coords = _load(path)
    shape = tile_shape(tuple(tensor.shape), path)
    _dtype(tensor, path)
    values: Array = (tensor.float() if _is_bfloat16(tensor) else tensor).numpy()
    return values.reshape(shape), coords


def _load(path: Path) -> tuple[Any, Array | None]:
    """The tensor of a torch file, mapped and not yet read, and coordinates if it names them."""
    import torch  # only who imports .pt files needs it

    try:
        # weights_only refuses everything but tensors and plain containers.
        held = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch documents no list of what it raises on damage
        reason = " ".join(str(error).split())[:200]
        raise FeatureError(f"cannot be read as a tensor: {reason}", where=path) from error
    coords = None
    if isinstance(held, dict):
        if "features" not in held:
            names = ", ".join(map(str, held)) or "nothing"
            raise refusal(path, "features", f"there is no such entry; the file holds {names}")
        coords = held.get("coords")
        held = held["features"]
    if not isinstance(held, torch.Tensor) or held.layout != torch.strided:
        raise refusal(path, "features", f"must be a dense tensor, is {type(held).__name__}")
    if coords is not None and not isinstance(coords, torch.Tensor):
        raise refusal(path, "coords", f"must be a tensor, is {type(coords).__name__}")
    return held.detach(), None if coords is None else coords.detach().numpy()


def _dtype(tensor: Any, path: Path) -> str:
    if not tensor.is_floating_point():
        raise refusal(path, "features", f"must be floating point, is {tensor.dtype}")
    # numpy has no bfloat16; float32 holds its values exactly.
    return "float32" if _is_bfloat16(tensor) else str(tensor.dtype).removeprefix("torch.")


def _is_bfloat16(tensor: Any) -> bool:
    return str(tensor.dtype) == "torch.bfloat16"
