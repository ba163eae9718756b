"""Where pixels come from: OpenSlide for whole slides, Pillow for plain images.

Both answer the same questions in the same way; nothing above this module asks which one it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from storm_clinic.errors import UnreadableSlide
from storm_clinic.files import digest_file
from storm_clinic.slides.mpp import is_plausible, ome_mpp

Pixels = NDArray[np.uint8]
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
_SCANNED_PAGES = 64  # a slide's TIFF has a dozen pages; do not walk through a z-stack of thousands


class PixelSource(Protocol):
    """An open slide, before anybody has settled its microns per pixel."""

    @property
    def vendor(self) -> str:
        """Name of the format."""

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Width and height of each level."""

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level."""

    @property
    def own_mpp(self) -> tuple[str | float, str | float] | None:
        """What the file states about x and y, unchecked."""

    @property
    def background(self) -> tuple[int, int, int]:
        """Colour of what was never scanned."""

    @property
    def codec(self) -> str:
        """How level 0 is compressed, or "unknown"."""

    @property
    def digest(self) -> str:
        """Identity of the content."""

    def read(self, level: int, corner: Size, size: Size) -> Pixels:
        """Pixels of one level, in its own coordinates, wholly inside it: uint8 (h, w, 3)."""

    def close(self) -> None:
        """Give file handles and memory back."""


class WholeSlide:
    """A slide that OpenSlide opens.

    Raises
    ------
    UnreadableSlide
        If OpenSlide knows no such format or finds the file damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise UnreadableSlide(f"OpenSlide cannot open it: {error}", where=path) from error
        properties = self._slide.properties
        self.vendor = str(properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"))
        self.level_sizes = tuple(self._slide.level_dimensions)
        self.level_downsamples = tuple(
            self._true_downsample(k) for k in range(len(self.level_sizes))
        )
        self.own_mpp = _openslide_mpp(dict(properties))
        colour = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR) or "FFFFFF"
        red, green, blue = bytes.fromhex(colour)
        self.background = (red, green, blue)

    def _true_downsample(self, level: int) -> float:
        """The factor that made a level; its rounded size would suggest a slightly other one."""
        stated = float(self._slide.level_downsamples[level])
        whole = round(stated)
        fits = all(
            size in (math.floor(full / whole), math.ceil(full / whole))
            for full, size in zip(self.level_sizes[0], self.level_sizes[level], strict=True)
        )
        return float(whole) if fits else stated

    @cached_property
    def codec(self) -> str:
        return _tiff_codec(self._path, self.level_sizes[0]) or _property_codec(
            dict(self._slide.properties)
        )

    @cached_property
    def digest(self) -> str:
        quickhash = self._slide.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
        return str(quickhash) if quickhash else f"sha256:{digest_file(self._path)}"

    def read(self, level: int, corner: Size, size: Size) -> Pixels:
        # OpenSlide wants level-0 coordinates and divides them by the downsample that it states.
        stated = self._slide.level_downsamples[level]
        location = (round(corner[0] * stated), round(corner[1] * stated))
        try:
            region = self._slide.read_region(location, level, size)
        except openslide.OpenSlideError as error:
            self._reopen()
            raise UnreadableSlide(
                f"the {size[0]} x {size[1]} px at {location} of level {level} cannot be decoded "
                f"({error})",
                where=self._path,
            ) from error
        return blend(_without_rim(np.asarray(region)), self.background)

    def _reopen(self) -> None:
        # After one failure an OpenSlide handle refuses everything, also what is undamaged. The
        # old one is dropped, not closed: another thread may be reading from it.
        self._slide = openslide.OpenSlide(self._path)

    def close(self) -> None:
        self._slide.close()


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

    def read(self, level: int, corner: Size, size: Size) -> Pixels:  # noqa: ARG002 - has one level
        if self._pixels is None:
            with _decoding(self._path), _open_image(self._path) as image:
                if image.mode in ("RGBA", "P"):
                    self._pixels = blend(np.asarray(image.convert("RGBA")), self.background)
                else:
                    self._pixels = np.asarray(image.convert("RGB"))
        x, y = corner
        return self._pixels[y : y + size[1], x : x + size[0]]

    def close(self) -> None:
        self._pixels = None


def open_source(path: Path) -> WholeSlide | PlainImage:
    """Open a file by what it holds, not by its name alone.

    Raises
    ------
    UnreadableSlide
        If it is missing, empty, or neither a slide nor an image.
    """
    try:
        is_empty = path.is_file() and path.stat().st_size == 0
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise UnreadableSlide("there is no such file", where=path) from None
    except OSError as error:
        raise UnreadableSlide(f"cannot be read: {error.strerror}", where=path) from error
    if is_empty:
        raise UnreadableSlide("the file is empty", where=path)
    if openslide.OpenSlide.detect_format(path) is not None:
        return WholeSlide(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return PlainImage(path)
    raise UnreadableSlide(
        "it is no slide that OpenSlide knows, or its beginning is damaged",
        where=path,
        fix="Compare its size and checksum with the scanner's copy.",
    )


def blend(rgba: Pixels, background: tuple[int, int, int]) -> Pixels:
    """Put straight-alpha RGBA (h, w, 4) on a background: transparent means never scanned."""
    alpha = rgba[..., 3]
    if alpha.min(initial=255) == 255:
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
    share = alpha[..., None].astype(np.float32) / 255
    blended = rgba[..., :3] * share + np.array(background, np.float32) * (1 - share)
    return np.rint(blended).astype(np.uint8)


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


def _without_rim(rgba: Pixels) -> Pixels:
    """Either scanned or not: between the two OpenSlide interpolates where a level is rounded."""
    if rgba[..., 3].min(initial=255) == 255:
        return rgba
    settled = rgba.copy()
    settled[..., 3] = np.where(rgba[..., 3] >= 128, 255, 0)
    return settled


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


def _openslide_mpp(properties: dict[str, str]) -> tuple[str | float, str | float] | None:
    x = properties.get(openslide.PROPERTY_NAME_MPP_X)
    y = properties.get(openslide.PROPERTY_NAME_MPP_Y)
    ome = ome_mpp(properties.get("tiff.ImageDescription"))
    if ome is not None:  # says microns in words; the TIFF tag beside it is often a print setting
        return ome
    return None if x is None or y is None else (x, y)


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


def _tiff_codec(path: Path, size: Size) -> str | None:
    """Compression of the TIFF page that is level 0; None if the file is no TIFF."""
    try:
        with tifffile.TiffFile(path) as tiff:
            for page in itertools.islice(tiff.pages, _SCANNED_PAGES):
                key: Any = page.keyframe
                if (key.imagewidth, key.imagelength) == size:
                    return str(getattr(key.compression, "name", key.compression))
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError):
        return None  # not a TIFF, or one that only OpenSlide can walk through
    return None


def _property_codec(properties: dict[str, str]) -> str:
    for name, value in properties.items():
        if name.endswith(".IMAGE_FORMAT") or name == "dicom.TransferSyntaxUID":
            return value
    return "unknown"
