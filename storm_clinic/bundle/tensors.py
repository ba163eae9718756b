"""Arrays of several models as the bytes of one safetensors file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from storm_clinic.errors import RegistryError

Arrays = dict[str, NDArray[Any]]


def pack_tensors(groups: Mapping[str, Mapping[str, NDArray[Any]]]) -> bytes:
    """The bytes of a file in which an array is named ``<group>/<array>``.

    Parameters
    ----------
    groups : mapping of group to mapping of name to array
        Floats, integers and booleans.

    Raises
    ------
    RegistryError
        If one is no array of numbers.
    """
    flat = {f"{group}/{name}": a for group, arrays in groups.items() for name, a in arrays.items()}
    return save({name: _plain_array(array, where=name) for name, array in flat.items()})


def unpack_tensors(data: bytes) -> dict[str, Arrays]:
    """What `pack_tensors` was given; groups without an array are lost.

    Raises
    ------
    SafetensorError
        If the bytes are none of such a file.
    """
    groups: dict[str, Arrays] = {}
    for key, array in load(data).items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = array
    return groups


def _plain_array(array: Any, *, where: str) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        kind = getattr(array, "dtype", type(array).__name__)
        raise RegistryError(f"is {kind}, not an array of numbers", where=where)
    # Safetensors writes the buffer as it lies, whatever the strides and byte order say.
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
