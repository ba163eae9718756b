"""Where tissue lies on a slide: found on a thumbnail, or read from a mask file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import NoTissue, SlideError
from storm_clinic.slides.plain_image import read_labels
from storm_clinic.slides.reader import THUMBNAIL_MPP, Slide
from storm_clinic.slides.resample import Pixels

Mask = NDArray[np.bool_]

# A mask drawn on a rounded thumbnail may be off by a pixel; more means another slide or a crop.
_ASPECT_TOLERANCE = 0.02
_NEUTRAL = 0.12  # chroma (0 to 1) below which a colour is grey
_GLASS_SHARE = 0.05
_DARKEST_GLASS = 0.6


@dataclass(frozen=True)
class TissueParameters:
    """How tissue is found. Part of a feature store's contract, so that stores do not mix.

    Attributes
    ----------
    thumbnail_mpp : float
        Microns per pixel of the thumbnail, about.
    saturation_at_least, saturation_at_most : float
        Otsu's threshold on saturation (0 to 1) is held between these: on a slide that is all
        tissue it would cut through the tissue, on empty glass through the noise.
    texture_at_least : float
        Where brightness varies by this much (standard deviation, 0 to 1), the lower threshold is
        enough: pale stroma and fat have texture, a wash of eosin on the glass has none.
    texture_um : float
        Side of the square in which the variation is measured.
    smooth_um : float
        Median filter on saturation; closes gaps and drops specks of this size.
    min_area_um2 : float
        Smaller pieces of tissue are dropped.
    fill_holes_below_um2 : float
        Smaller holes (lumens, fat vacuoles, pale stroma) count as tissue.
    pen_margin : float
        By how much green must exceed red (0 to 1) for blue, green or cyan ink: haematoxylin and
        eosin both absorb green most, so in stained tissue green never does. Red ink is told from
        blood by its purity. Yellow is kept: saffron stains are yellow.
    dark_below : float
        Neutral pixels darker than this (0 to 1) are black ink, a border or a gap of the scan.
    reject_margin_um : float
        What surrounds ink and borders is rejected this far.
    min_tile_fraction : float
        A tile is kept if this share of it is tissue.
    """

    thumbnail_mpp: float = THUMBNAIL_MPP
    saturation_at_least: float = 0.05
    saturation_at_most: float = 0.15
    texture_at_least: float = 0.02
    texture_um: float = 56.0
    smooth_um: float = 40.0
    min_area_um2: float = 25_000.0
    fill_holes_below_um2: float = 10_000.0
    pen_margin: float = 0.08
    dark_below: float = 0.40
    reject_margin_um: float = 24.0
    min_tile_fraction: float = 0.5

    def as_dict(self) -> dict[str, float]:
        """Names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class TissueMask:
    """True where tissue lies, from the slide's top-left corner.

    Attributes
    ----------
    mask : bool array, shape (height, width)
    mpp : float
        Microns per mask pixel.
    """

    mask: Mask
    mpp: float

    @property
    def area_mm2(self) -> float:
        """Area of the tissue in square millimetres."""
        return float(np.count_nonzero(self.mask)) * self.mpp**2 / 1e6


def find_tissue(
    thumbnail: Pixels,
    mpp: float,
    parameters: TissueParameters | None = None,
    *,
    where: str | Path | None = None,
) -> TissueMask:
    """Find tissue by its saturation against the glass; ink, borders and specks are rejected.

    Parameters
    ----------
    thumbnail : uint8 array, shape (height, width, 3)
        RGB of the whole slide.
    mpp : float
        Exact microns per pixel of it, as `Slide.thumbnail` gives.
    parameters : TissueParameters, optional
        Defaults where absent.
    where : str or Path, optional
        The slide, for the message.

    Raises
    ------
    NoTissue
        If nothing is left.

    References
    ----------
    Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62-66.
    """
    parameters = parameters or TissueParameters()
    rejected = _rejected(thumbnail, mpp, parameters)
    saturation = _saturation(_white_balanced(thumbnail))
    # Dark neutral pixels have a random hue and saturation; they must not move the threshold.
    saturation[rejected] = 0
    kernel = _odd(parameters.smooth_um / mpp)
    saturation = np.asarray(cv2.medianBlur(saturation, kernel), dtype=np.uint8)
    stained = saturation > _threshold(saturation[~rejected], parameters)
    pale = saturation > parameters.saturation_at_least * 255
    pale &= _variation(thumbnail, parameters.texture_um / mpp) > parameters.texture_at_least * 255
    stained = (stained | pale) & ~rejected
    solid = _fill_holes(stained, parameters.fill_holes_below_um2 / mpp**2) & ~rejected
    mask = _drop_small(solid, parameters.min_area_um2 / mpp**2)
    if not mask.any():
        raise NoTissue(
            "nothing on it is tissue",
            where=where,
            fix="Look at it; if it has tissue, give a mask file or other tissue parameters.",
        )
    return TissueMask(mask, mpp)


def read_mask(path: str | Path, level0_size: tuple[int, int], slide_mpp: float) -> TissueMask:
    """Read a two-valued image of the whole slide in which the brighter value is tissue.

    Parameters
    ----------
    path : str or Path
        PNG or TIFF of any size with the slide's proportions; one value alone means 0 = none and
        anything else = all tissue.
    level0_size : (width, height)
        Of the slide, level-0 pixels.
    slide_mpp : float
        Microns per level-0 pixel.

    Raises
    ------
    SlideError
        If it has more than two values, or other proportions than the slide.
    NoTissue
        If it marks nothing.
    UnreadableSlide
        If it is no image.
    """
    path = Path(path)
    grey = read_labels(path)
    height, width = grey.shape
    stretch = (level0_size[0] / width) / (level0_size[1] / height)
    off_by_rounding = (1 / width + 1 / height) if min(width, height) else 0.0
    if abs(stretch - 1) > max(_ASPECT_TOLERANCE, off_by_rounding):
        raise SlideError(
            f"the mask is {width} x {height} px, the slide {level0_size[0]} x {level0_size[1]}: "
            "other proportions",
            where=path,
            fix="A mask must cover the whole slide.",
        )
    values = np.unique(grey)
    if len(values) > 2:
        raise SlideError(
            f"the mask has {len(values)} values; two are needed, dark for background and bright "
            "for tissue",
            where=path,
            fix="Save it as PNG with the values 0 and 255, without smoothing.",
        )
    mask = grey > (values[0] if len(values) == 2 else 0)
    if not mask.any():
        raise NoTissue("the mask marks no tissue", where=path)
    return TissueMask(mask, slide_mpp * level0_size[0] / width)


def tissue_of(
    slide: Slide, parameters: TissueParameters | None = None, *, mask_path: Path | None = None
) -> TissueMask:
    """Tissue of an open slide: from its mask file if there is one, else from its thumbnail.

    Raises
    ------
    NoTissue
        If there is none.
    SlideError
        If the thumbnail or the mask cannot be read.
    """
    if mask_path is not None:
        return read_mask(mask_path, slide.size, slide.mpp)
    parameters = parameters or TissueParameters()
    thumbnail, mpp = slide.thumbnail(parameters.thumbnail_mpp)
    return find_tissue(thumbnail, mpp, parameters, where=slide.path)


def _saturation(rgb: Pixels) -> Pixels:
    """HSV saturation, 0 to 255."""
    return np.ascontiguousarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1])


def _white_balanced(rgb: Pixels) -> Pixels:
    """Colours as if the glass were white: some scanners tint it as strongly as pale stroma.

    Glass is what the palest pixels look like. If these are not nearly grey and bright, there is
    no glass on the picture, and nothing is changed.
    """
    palest = rgb.min(axis=2)
    glass = np.median(rgb[palest >= np.quantile(palest, 1 - _GLASS_SHARE)], axis=0)
    if glass.max() < _DARKEST_GLASS * 255 or np.ptp(glass) > _NEUTRAL * 255:
        return rgb
    balanced = np.minimum(np.rint(rgb * (255 / glass)), 255)
    return np.asarray(balanced, dtype=np.uint8)


def _threshold(saturation: Pixels, parameters: TissueParameters) -> float:
    lowest, highest = parameters.saturation_at_least * 255, parameters.saturation_at_most * 255
    if not saturation.size:
        return highest
    flags = cv2.THRESH_BINARY | cv2.THRESH_OTSU
    otsu, _ = cv2.threshold(saturation.reshape(1, -1), 0, 255, flags)
    return float(np.clip(otsu, lowest, highest))


def _variation(rgb: Pixels, side_px: float) -> NDArray[np.float32]:
    """Standard deviation of brightness (0 to 255) in a square around each pixel."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    square = (_odd(side_px), _odd(side_px))
    mean, mean_of_squares = cv2.blur(grey, square), cv2.blur(grey * grey, square)
    return np.sqrt(np.maximum(mean_of_squares - mean * mean, 0), dtype=np.float32)


def _rejected(rgb: Pixels, mpp: float, parameters: TissueParameters) -> Mask:
    """Ink of pens, black borders and gaps, with a margin around them."""
    red, green, blue = (rgb[..., k].astype(np.int16) for k in range(3))
    brightest = np.maximum(np.maximum(red, green), blue)
    darkest = np.minimum(np.minimum(red, green), blue)
    cold_ink = green - red > parameters.pen_margin * 255
    red_ink = (red > 150) & (green < 80) & (blue < 90)
    black = (brightest < parameters.dark_below * 255) & (brightest - darkest < _NEUTRAL * 255)
    candidates = (cold_ink | red_ink | black).astype(np.uint8)
    # Single pixels are pigment or noise, not a pen stroke, which is hundreds of microns wide.
    strokes = cv2.morphologyEx(candidates, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    reach = _odd(2 * parameters.reject_margin_um / mpp)
    grown = cv2.dilate(strokes, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    return np.asarray(grown, dtype=np.bool_)


def _fill_holes(mask: Mask, below_px: float) -> Mask:
    """Fill background pieces below a size that do not touch the slide's rim."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    inner = (left > 0) & (top > 0) & (right < width) & (bottom < height)
    hole = inner & (stats[:, cv2.CC_STAT_AREA] < below_px)
    hole[0] = False  # label 0 is the tissue
    return np.asarray(mask | hole[labels], dtype=np.bool_)


def _drop_small(mask: Mask, min_px: float) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= min_px
    large[0] = False
    return np.asarray(large[labels], dtype=np.bool_)


def _odd(length_px: float) -> int:
    """Nearest odd kernel size, at least 3."""
    return max(3, 2 * round((length_px - 1) / 2) + 1)
