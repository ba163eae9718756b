"""A PNG, JPEG or TIFF that is one picture, read by Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from storm_clinic.errors import UnreadableSlide
from storm_clinic.files import digest_file
from storm_clinic.slides.mpp import is_plausible, ome_mpp
from storm_clinic.slides.resample import average_squares
from storm_clinic.slides.transparency import Pixels, blend

Size = tuple[int, int]

# A plain image is decoded as a whole: 500 million pixels are 1.5 GB of RGB in every process.
MAX_IMAGE_PX = 500_000_000
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
_READER_BY_BEGINNING: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,  # BigTIFF
    b"MM\0+": TiffImageFile,
}
_MICRONS_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # TIFF ResolutionUnit: inch, centimetre


class PlainImage:
    """A PNG, JPEG or TIFF that is one picture: a core, a region, an image of an ST section.

    Its header is read at once, its pixels when the first are asked for.

    Raises
    ------
    UnreadableSlide
        If it is no such image, is not 8-bit colour, or has more than `MAX_IMAGE_PX` pixels.
    """

    level_downsamples: tuple[float, ...] = (1.0,)
    background: tuple[int, int, int] = (255, 255, 255)

    def __init__(self, path: Path) -> None:
        self._path = path
        with _decoding(path), _open_image(path) as image:
            self.vendor = str(image.format).lower()
            self.level_sizes: tuple[Size, ...] = (image.size,)
            self.codec = str(image.info.get("compression", image.format))
            self.own_mpp = _image_mpp(image)
            self._refuse_unfit(image)
        self._pixels: Pixels | None = None

    def _refuse_unfit(self, image: ImageFile.ImageFile) -> None:
        bits = image.tag_v2.get(258, 8) if isinstance(image, TiffImageFile) else 8
        deep = {bits} if isinstance(bits, int) else set(bits)
        if deep != {8} or image.mode not in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
            raise UnreadableSlide(
                f"it is not 8-bit colour (mode {image.mode}, {max(deep)} bits a channel)",
                where=self._path,
                fix="Export the H&E image as 8-bit RGB.",
            )

    @cached_property
    def digest(self) -> str:
        return f"sha256:{digest_file(self._path)}"

    def read(self, level: int, corner: Size, out: Pixels, side: int) -> None:  # noqa: ARG002
        # It has one level.
        if self._pixels is None:
            with _decoding(self._path), _open_image(self._path) as image:
                if image.mode in ("RGBA", "P"):
                    self._pixels = blend(np.asarray(image.convert("RGBA")), self.background)
                else:
                    self._pixels = np.asarray(image.convert("RGB"))
        (x, y), (height, width) = corner, out.shape[:2]
        pixels = self._pixels[y : y + height * side, x : x + width * side]
        out[:] = pixels if side == 1 else average_squares(pixels, (width, height))

    def close(self) -> None:
        self._pixels = None


def read_labels(path: Path) -> NDArray[np.integer[Any]]:
    """The one channel of a mask image, (h, w); colours are read as brightness.

    Raises
    ------
    UnreadableSlide
        If it is missing, no image, or too large.
    """
    with _decoding(path), _open_image(path) as image:
        if image.mode in ("L", "I", "I;16"):
            return np.array(image)
        return np.array(image.convert("L"))


def _open_image(path: Path) -> ImageFile.ImageFile:
    with path.open("rb") as handle:
        beginning = handle.read(8)
    for magic, reader in _READER_BY_BEGINNING.items():
        if beginning.startswith(magic):
            # Pillow's own limit of pixels is one switch for the whole process; a reader called
            # directly does not consult it, and ours is checked instead.
            image = reader(path)
            break
    else:
        raise UnreadableSlide("it is neither PNG nor JPEG nor TIFF inside", where=path)
    width, height = image.size
    if width * height > MAX_IMAGE_PX:
        image.close()
        raise UnreadableSlide(
            f"{width} x {height} px are more than the {MAX_IMAGE_PX / 1e6:g} million that are "
            "read as one picture",
            where=path,
            fix="Convert it to a tiled pyramidal TIFF; those are read piece by piece.",
        )
    return image


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one named error.

    On damaged files decoders raise nearly anything: SyntaxError, struct.error, EOFError ...
    """
    try:
        yield
    except UnreadableSlide:
        raise
    except Exception as error:
        raise UnreadableSlide(
            f"it cannot be decoded ({type(error).__name__}: {error})", where=path
        ) from error


def _image_mpp(image: ImageFile.ImageFile) -> tuple[float, float] | None:
    """Pixel size that a flat TIFF states; PNG and JPEG densities are print settings.

    A TIFF's resolution tag counts only where a microscope could have it: 72 or 300 dpi are
    settings for a printer, not measurements.
    """
    if not isinstance(image, TiffImageFile):
        return None
    tags = image.tag_v2
    ome = ome_mpp(tags.get(270))
    if ome is not None:
        return ome
    microns = _MICRONS_PER_UNIT.get(tags.get(296, 2))
    x, y = (float(tags.get(tag) or 0) for tag in (282, 283))
    if microns is None or x <= 0 or y <= 0:
        return None
    size = microns / x, microns / y
    return size if is_plausible(size[0]) and is_plausible(size[1]) else None
