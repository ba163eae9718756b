"""Resampling of read pixels to the wanted microns per pixel, correct below the pixel."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# Within this ratio pixels are taken as they are, each less than half a pixel from its place:
# averaging neighbours would blur in bands and gain nothing.
NEAREST_RATIO = 0.01
_WHOLE = 1e-6  # a pixel position this near a whole number is one


def source_span(start: float, step: float, n_out: int) -> tuple[int, int]:
    """Half-open range of source pixels that ``n_out`` output pixels from ``start`` need."""
    if abs(step - 1) <= NEAREST_RATIO:
        first, last = (math.floor(start + (k + 0.5) * step + _WHOLE) for k in (0, n_out - 1))
        return first, last + 1
    if step < 1:  # linear interpolation looks at both neighbours
        return math.floor(start - 0.5), math.ceil(start + step * n_out + 0.5)
    first = math.floor(start + _WHOLE)
    shifts = start - first > _WHOLE
    return first, first + math.ceil(step * n_out - _WHOLE) + shifts


def square_side(span: tuple[int, int], step: float, size: tuple[int, int]) -> int | None:
    """Side of the square of source pixels of which each output pixel is the mean.

    1 where every source pixel of a span (width, height) is an output pixel, in its order; None
    where output pixels are not made of whole squares, side by side.
    """
    if abs(step - 1) <= NEAREST_RATIO:
        # Below 1 a pixel may be taken twice, above 1 one may be left out; never both.
        return 1 if span == size else None
    side = int(step)
    return side if side == step and span == (side * size[0], side * size[1]) else None


def average_squares(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Means of squares side by side: from uint8 (n * height, n * width, 3) to (height, width, 3).

    Each depends on its own square alone, wherever the picture was cut.
    """
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def resample(
    source: Pixels, offset: tuple[float, float], step: float, size: tuple[int, int]
) -> Pixels:
    """Resample by area (``step`` > 1), linearly (< 1), or take pixels as they are (about 1).

    Output pixel k covers the source from ``offset + k * step`` to ``offset + (k + 1) * step``.

    Parameters
    ----------
    source : uint8 array, shape (source_height, source_width, 3)
        Covers at least the range that `source_span` names.
    offset : (x, y)
        Where the first output pixel begins, in source pixels from ``source``'s corner.
    step : float
        Source pixels per output pixel.
    size : (width, height)
        Of the output.

    Returns
    -------
    uint8 array, shape (height, width, 3)
    """
    if abs(step - 1) <= NEAREST_RATIO:
        return _take(source, offset, step, size)
    if step < 1:
        return _enlarge(source, offset, step, size)
    return _average(_shift(source, offset), step, size)


def _nearest(start: float, step: float, outputs: NDArray[np.int64]) -> NDArray[np.int64]:
    centres = start + (outputs + 0.5) * step
    index: NDArray[np.int64] = np.floor(centres + _WHOLE).astype(np.int64)
    return index


def _take(
    source: Pixels, offset: tuple[float, float], step: float, size: tuple[int, int]
) -> Pixels:
    columns = _nearest(offset[0], step, np.arange(size[0]))
    rows = _nearest(offset[1], step, np.arange(size[1]))
    if columns[-1] - columns[0] == size[0] - 1 and rows[-1] - rows[0] == size[1] - 1:
        # A copy, as everywhere here: the source may be a view of an image that is kept.
        return source[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return source[rows[:, None], columns[None, :]]


def _shift(source: Pixels, offset: tuple[float, float]) -> Pixels:
    """Move the source so that the offset is a whole number, and cut it there.

    The mean over a pixel-wide window that starts at a fraction f is (1 - f) of one pixel and f
    of the next, so averaging these means is averaging by area: exactly for whole steps, and but
    for the share of one rim pixel otherwise.
    """
    x, y = math.floor(offset[0] + _WHOLE), math.floor(offset[1] + _WHOLE)
    part_x, part_y = offset[0] - x, offset[1] - y
    shifted = source[y:, x:]
    if part_x > _WHOLE:
        shifted = _mix(shifted[:, :-1], shifted[:, 1:], part_x)
    if part_y > _WHOLE:
        shifted = _mix(shifted[:-1], shifted[1:], part_y)
    return shifted


def _mix(first: Pixels, second: Pixels, part: float) -> Pixels:
    return np.asarray(cv2.addWeighted(first, 1 - part, second, part, 0), dtype=np.uint8)


def _average(source: Pixels, step: float, size: tuple[int, int]) -> Pixels:
    width, height = size
    # OpenCV takes the step from fx only if the size is left open, and then rounds the size; a few
    # repeated rim pixels make sure that it is large enough. They never reach the part returned.
    missing_x = max(0, math.ceil((width + 1) * step) - source.shape[1])
    missing_y = max(0, math.ceil((height + 1) * step) - source.shape[0])
    if float(step).is_integer():
        return average_squares(source[: height * int(step), : width * int(step)], size)
    padded = cv2.copyMakeBorder(source, 0, missing_y, 0, missing_x, cv2.BORDER_REPLICATE)
    small = cv2.resize(padded, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[:height, :width], dtype=np.uint8)


def _enlarge(
    source: Pixels, offset: tuple[float, float], step: float, size: tuple[int, int]
) -> Pixels:
    # Centre of output pixel k lies at offset + (k + 0.5) step, in coordinates of pixel centres.
    shift_x, shift_y = (start + 0.5 * step - 0.5 for start in offset)
    matrix = np.array([[step, 0.0, shift_x], [0.0, step, shift_y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    enlarged = cv2.warpAffine(source, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(enlarged, dtype=np.uint8)
