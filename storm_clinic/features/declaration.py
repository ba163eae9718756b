"""What an importer declares about foreign features, held against what the files state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from storm_clinic.encoders.catalogue import (
    encoder_names,
    find_card,
    find_slide_card,
    slide_encoder_names,
)
from storm_clinic.errors import FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.foreign_description import ForeignFile

# A nominal magnification M stands for 10/M µm/px give or take a scanner's freedom.
_MAGNIFICATION_FACTOR = 5 / 3
_MPP_TOLERANCE = 0.01


@dataclass(frozen=True)
class Declaration:
    """What the importer says of all files at once.

    Attributes
    ----------
    encoder : str
        Name of the encoder that made the features.
    mpp, tile_px : float or None, int or None
        Pixel size (µm) and side of a tile as the encoder saw it; None: as the files state.
    geometry_unknown : bool
        Nobody knows; only heads that need no coordinates may use the features.
    licence : str, optional
        Of the encoder's weights; None: as most of the files state it, else as the catalogue does of
        an encoder of that name.
    """

    encoder: str
    mpp: float | None = None
    tile_px: int | None = None
    geometry_unknown: bool = False
    licence: str | None = None

    def __post_init__(self) -> None:
        if self.geometry_unknown and (self.mpp is not None or self.tile_px is not None):
            given = [f"--mpp {self.mpp}"] if self.mpp is not None else []
            given += [f"--tile-px {self.tile_px}"] if self.tile_px is not None else []
            raise FeatureError(
                f"--geometry-unknown contradicts {' and '.join(given)}",
                where="features import",
                fix="Give one or the other.",
            )


def declared_contract(files: Sequence[ForeignFile], declaration: Declaration) -> FeatureContract:
    """The contract that a declaration makes and, where it is silent, most of the files.

    Raises
    ------
    FeatureError
        If neither states the geometry; the message names the flag to add.
    """
    width, dtype = most_common((file.width, file.dtype) for file in files)
    mpp: float | None = None
    tile_px: int | None = None
    overlap_px = 0
    if not declaration.geometry_unknown:
        mpp, tile_px = declaration.mpp, declaration.tile_px
        if mpp is None:
            mpp = most_common(f.mpp for f in files if f.mpp is not None)
        if tile_px is None:
            tile_px = most_common(f.tile_px for f in files if f.tile_px is not None)
        overlap_px = most_common(f.overlap_px for f in files if f.overlap_px is not None) or 0
        _require_geometry(mpp, tile_px, files[0])
    return FeatureContract(
        encoder=declaration.encoder,
        encoder_digest=None,
        width=width,
        mpp=mpp,
        tile_px=tile_px,
        overlap_px=overlap_px,
        dtype=dtype,
        provenance="declared",
        licence=declaration.licence
        or most_common(file.licence for file in files if file.licence)
        or _catalogued_licence(declaration.encoder),
    )


def _catalogued_licence(encoder: str) -> str | None:
    """Of the encoder of that name; None where the catalogue has none."""
    if encoder in encoder_names():
        return find_card(encoder).licence
    return find_slide_card(encoder).licence if encoder in slide_encoder_names() else None


def most_common(values: Iterable[Any]) -> Any:
    """The value that occurs most often, the earlier of two that tie; None of none."""
    found = Counter(values).most_common(1)
    return found[0][0] if found else None


def _require_geometry(mpp: float | None, tile_px: int | None, example: ForeignFile) -> None:
    missing = ["mpp"] if mpp is None else []
    missing += ["tile_px"] if tile_px is None else []
    if not missing:
        return
    said = example.stated() or "nothing"
    flags = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
    raise FeatureError(
        f"the files do not state {' and '.join(missing)} (stated: {said})",
        where=example.path,
        fix=f"Add {flags} as the encoder saw the tiles, or --geometry-unknown if "
        "nobody knows; a magnification is not a pixel size.",
    )


def contradiction(
    file: ForeignFile, agreed: FeatureContract, declaration: Declaration, encoder: str | None
) -> str | None:
    """What a file states against the contract, the declaration or the other files, if anything.

    ``encoder`` is the name that most files state, if any states one.
    """
    if (file.width, file.dtype) != (agreed.width, agreed.dtype):
        return (
            f"holds {file.width} values a tile as {file.dtype}, "
            f"the others {agreed.width} as {agreed.dtype}"
        )
    if file.encoder is not None and file.encoder != encoder:
        return f"states the encoder {file.encoder!r}, the others {encoder!r}"
    if agreed.mpp is None or agreed.tile_px is None:
        if file.mpp is not None and file.tile_px is not None:
            return (
                f"states mpp {file.mpp:g} and tile_px {file.tile_px}, "
                "but --geometry-unknown was given"
            )
        return None
    return _geometry_contradiction(file, agreed.mpp, agreed, declaration)


def _geometry_contradiction(
    file: ForeignFile, mpp: float, agreed: FeatureContract, declaration: Declaration
) -> str | None:
    asked_mpp = f"--mpp is {mpp:g}" if declaration.mpp else f"the others state {mpp:g}"
    asked_px = "--tile-px is" if declaration.tile_px else "the others state"
    if file.mpp is None and declaration.mpp is None:
        return f"states no mpp, but {asked_mpp}; add --mpp"
    if file.mpp is not None and not math.isclose(file.mpp, mpp, rel_tol=_MPP_TOLERANCE):
        return f"states mpp {file.mpp:g}, but {asked_mpp}"
    if file.tile_px is None and declaration.tile_px is None:
        return f"states no tile_px, but {asked_px} {agreed.tile_px}; add --tile-px"
    if file.tile_px is not None and file.tile_px != agreed.tile_px:
        return f"states tile_px {file.tile_px}, but {asked_px} {agreed.tile_px}"
    if (file.overlap_px or 0) != agreed.overlap_px:
        return f"states overlap_px {file.overlap_px or 0}, the others {agreed.overlap_px}"
    if file.magnification:
        nominal = 10 / file.magnification
        if not nominal / _MAGNIFICATION_FACTOR <= mpp <= nominal * _MAGNIFICATION_FACTOR:
            return (
                f"states target_magnification {file.magnification:g}, about {nominal:g} µm/px, "
                f"but {asked_mpp}"
            )
    return None
