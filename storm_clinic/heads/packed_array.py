"""Rows of many bags in one mapped file, with a checksum of each bag.

The file is NumPy's own. Behind the array, where NumPy does not read, stand the bags' CRC-32 as
little-endian uint32, so that nothing that changed on the disk after packing is trained on.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import FeatureError
from storm_clinic.files import atomic_write

Array = NDArray[Any]
Ints = NDArray[np.int64]

DERIVED = "Delete it; it is derived and will be made again."
_CHECKSUM = np.dtype("<u4")


class PackedArray:
    """Rows of bags that `write_packed` wrote; to be sliced by rows, as an array is.

    A bag is held against its checksum the first time that any of its rows is read through it. To
    another process it is sent as the name of its file, and every bag is held against it there too.

    Parameters
    ----------
    path : Path
        The file.
    dtype : numpy dtype
    shape : (n_rows, width)
        Both as they were written.
    offsets : int64 array, shape (n_bags + 1,)
        Bag i holds the rows ``offsets[i]`` to ``offsets[i + 1]``.

    Raises
    ------
    FeatureError
        If it holds anything else, or, from slicing, a bag is not what was written.
    """

    def __init__(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, int], offsets: Ints
    ) -> None:
        self._path, self._offsets = path, offsets
        self._values = map_array(path, dtype, shape)
        n_bags = len(offsets) - 1
        with path.open("rb") as handle:
            handle.seek(len(_header(dtype, shape)) + self._values.nbytes)
            behind = handle.read()
        if len(behind) != n_bags * _CHECKSUM.itemsize:
            raise FeatureError("lacks the checksums of its bags", where=path, fix=DERIVED)
        self._checksums = np.frombuffer(behind, _CHECKSUM)
        self._is_checked = np.zeros(n_bags, dtype=np.bool_)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_rows, width)."""
        return self._values.shape

    @property
    def ndim(self) -> int:
        """Two."""
        return self._values.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its numbers."""
        return self._values.dtype

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[type[PackedArray], tuple[Any, ...]]:
        return PackedArray, (self._path, self.dtype, self.shape, self._offsets)

    def __getitem__(self, rows: slice) -> Array:
        first, stop, _ = rows.indices(len(self))
        begins = int(np.searchsorted(self._offsets[1:], first, side="right"))
        ends = int(np.searchsorted(self._offsets[:-1], stop, side="left"))
        if not self._is_checked[begins:ends].all():
            for bag in range(begins, ends):
                self._check(bag)
        return self._values[rows]

    def _check(self, bag: int) -> None:
        if self._is_checked[bag]:
            return
        values = self._values[self._offsets[bag] : self._offsets[bag + 1]]
        if zlib.crc32(values.data) != self._checksums[bag]:
            raise FeatureError(
                f"what it holds of bag {bag + 1} of {len(self._is_checked)} was changed after it "
                "was written",
                where=self._path,
                fix=DERIVED,
            )
        self._is_checked[bag] = True


def write_packed(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, int], bags: Iterable[Iterable[Array]]
) -> None:
    """Write bags, each of which comes in pieces (n_rows, width), of which one is held at a time.

    A plain file, since a full disk kills whoever writes a memory map.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    checksums = []
    with atomic_write(path) as part, part.open("wb") as handle:
        handle.write(_header(dtype, shape))
        for pieces in bags:
            checksum = 0
            for piece in pieces:
                rows = np.ascontiguousarray(piece, dtype=dtype).data
                checksum = zlib.crc32(rows, checksum)
                handle.write(rows)
            checksums.append(checksum)
        handle.write(np.array(checksums, _CHECKSUM).data)


def map_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, int]) -> Array:
    """A memory map of the one array in a file, whose header is compared and never interpreted.

    Raises
    ------
    FeatureError
        If there is none, or of another type or shape.
    """
    header = _header(dtype, shape)
    n_bytes = len(header) + math.prod(shape) * dtype.itemsize
    with path.open("rb") as handle:
        is_whole = handle.read(len(header)) == header and path.stat().st_size >= n_bytes
    if not is_whole:
        raise FeatureError(
            f"is no whole packed array of {dtype.name} of shape {shape}", where=path, fix=DERIVED
        )
    values: Array = np.memmap(path, dtype, mode="r", offset=len(header), shape=shape)
    return values


def _header(dtype: np.dtype[Any], shape: tuple[int, int]) -> bytes:
    """What NumPy writes in front of such an array."""
    facts = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()
