"""Sums of many rows in float64, the float16 ones widened by integers.

NumPy converts float16 number by number, which takes most of the time of a sum. Moved into the place
of a float32's exponent and mantissa, the same bits are that number times 2**-112, subnormal or not,
and integers are moved many at a time. Float16 numbers are multiples of 2**-24, so that float64 adds
them without rounding while their sum stays below 2**29: in whatever order, to the same bits.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK_VALUES = 1 << 16  # converted to float64 together: half a MiB stays in a core's cache
_WIDENED_VALUES = 1 << 17  # widened to float32 together, which takes as much
_FEWEST_VALUES = 1 << 14  # below, NumPy has converted them before all steps of widening are called
_FIELDS = np.int32(-0x7000_2000)  # 0x8fffe000: sign, five bits of exponent, ten of mantissa
_SCALE = 2.0**112  # float32's exponent is biased by 127, float16's by 15
_INFINITY = 0x7C00  # bits of float16's infinity; those of NaN are above
_EXACT = 2.0**29  # 53 bits of a float64, of which the last is 2**-24


class RowSums:
    """Sums of rows of one width, in working memory that is kept from one sum to the next.

    Parameters
    ----------
    width : int
        Numbers a row.
    """

    def __init__(self, width: int) -> None:
        step = max(1, _BLOCK_VALUES // width)
        # The first row carries the sum so far, so that rows are added one after the other.
        self._block = np.empty((step + 1, width))
        self._widened = np.empty((max(1, _WIDENED_VALUES // width), width), dtype=np.int32)
        # Subnormal float16 become subnormal float32, which a library may have had set to zero.
        least = np.array([1 << 13], dtype=np.int32).view(np.float32)
        self._widens = bool(least.sum(dtype=np.float64) > 0)

    def of(self, rows: NDArray[Any]) -> Floats:
        """Sum of float rows, (n_rows, width), added one after the other: (width,)."""
        plain = np.asarray(rows)  # a slice of a memory map costs more than one of an array
        total = None
        if self._widens and plain.dtype == np.float16 and plain.size >= _FEWEST_VALUES:
            total = self._exact(plain)
        return self._in_order(plain) if total is None else total

    def _in_order(self, rows: NDArray[Any]) -> Floats:
        block, step = self._block, len(self._block) - 1
        block[0] = 0.0
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            np.copyto(block[1 : len(part) + 1], part)
            block[0] = block[: len(part) + 1].sum(axis=0)
        return np.array(block[0])

    def _exact(self, rows: NDArray[np.float16]) -> Floats | None:
        """The same sum of float16; None where it may round, or a value is not finite."""
        total, bound, step = np.zeros(rows.shape[1]), 0.0, len(self._widened)
        signed, unsigned = rows.view(np.int16), rows.view(np.uint16)
        for first in range(0, len(rows), step):
            part = signed[first : first + step]
            # Without their sign bit, floats order like the integers that have the same bits.
            largest = max(int(part.max()), int(unsigned[first : first + step].max()) - 0x8000)
            if largest >= _INFINITY:
                return None
            bound += len(part) * _float16_of(max(0, largest))
            if bound > _EXACT:
                return None
            bits = self._widened[: len(part)]
            np.copyto(bits, part)
            np.left_shift(bits, 13, out=bits)
            np.bitwise_and(bits, _FIELDS, out=bits)
            total += bits.view(np.float32).sum(axis=0, dtype=np.float64)
        return total * _SCALE


def _float16_of(bits: int) -> float:
    value: float = struct.unpack("<e", struct.pack("<H", bits))[0]
    return value
