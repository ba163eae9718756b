"""Pixels that were never scanned are transparent; what is read has a colour everywhere."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def blend(rgba: Pixels, background: tuple[int, int, int]) -> Pixels:
    """Put straight-alpha RGBA (h, w, 4) on a background: transparent means never scanned."""
    alpha = rgba[..., 3]
    if alpha.min(initial=255) == 255:
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
    share = alpha[..., None].astype(np.float32) / 255
    blended = rgba[..., :3] * share + np.array(background, np.float32) * (1 - share)
    return np.rint(blended).astype(np.uint8)


def without_rim(rgba: Pixels) -> Pixels:
    """Either scanned or not: between the two OpenSlide interpolates where a level is rounded."""
    if rgba[..., 3].min(initial=255) == 255:
        return rgba
    settled = rgba.copy()
    settled[..., 3] = np.where(rgba[..., 3] >= 128, 255, 0)
    return settled
