"""What a STORM file says about itself; the format is specified in docs/formats.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storm_clinic.errors import FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.guarded_file import (
    attributes_of,
    check_links,
    dataset_of,
    number_of,
    opened,
    text_of,
)

FORMAT = "storm_clinic/slide-storm"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class StormHeader:
    """What a STORM file says about itself."""

    slide_id: str
    n_tiles: int
    contract: FeatureContract
    spots_digest: str
    coords_digest: str | None
    slide_digest: str | None
    slide_mpp: float | None
    source_digest: str | None
    domain_distance: float | None
    share_outside: float | None
    domain_warning: str | None


def read_header(path: Path) -> StormHeader:
    """What one file says about itself; its values are not read.

    Raises
    ------
    FeatureError
        If it is absent, damaged, of another version, or holds another slide.
    """
    with opened(path) as file:
        known = attributes_of(file, path)
        if text_of(known, path, "format", optional=True) != FORMAT:
            raise FeatureError("not a STORM file", where=path)
        if number_of(known, path, "format_version") != FORMAT_VERSION:
            raise FeatureError(
                f"its format_version is not {FORMAT_VERSION}, the one this version reads",
                where=path,
                fix="Update storm-clinic.",
            )
        check_links(file, path)
        spots = dataset_of(file, path, "spots", ("<f2", 2))
        coords = dataset_of(file, path, "coords", ("<i8", 2)) if "coords" in file else None
        if coords is not None and len(coords) != len(spots):
            raise FeatureError(
                f"{len(coords)} rows, but spots has {len(spots)}", where=f"{path}: coords"
            )
        slide_id = text_of(known, path, "slide_id")
        if slide_id != path.stem:
            raise FeatureError(f"holds slide {slide_id!r}, not {path.stem!r}", where=path)
        tile_px = number_of(known, path, "tile_px", optional=True)
        contract = FeatureContract(
            encoder=path.parent.name,
            encoder_digest=text_of(known, path, "checkpoint_digest"),
            width=spots.shape[1],
            mpp=number_of(known, path, "mpp", optional=True),
            tile_px=None if tile_px is None else int(tile_px),
            overlap_px=int(number_of(known, path, "overlap_px", optional=True) or 0),
            provenance=str(text_of(known, path, "provenance")),
            licence=text_of(known, path, "licence", optional=True),
        )
        digest = text_of(attributes_of(spots, path), path, "sha256")
        return StormHeader(
            slide_id=path.stem,
            n_tiles=len(spots),
            contract=contract,
            spots_digest=str(digest),
            coords_digest=None
            if coords is None
            else text_of(attributes_of(coords, path), path, "sha256"),
            slide_digest=text_of(known, path, "slide_digest", optional=True),
            slide_mpp=number_of(known, path, "slide_mpp", optional=True),
            source_digest=text_of(known, path, "source_digest", optional=True),
            domain_distance=number_of(known, path, "domain_distance", optional=True),
            share_outside=number_of(known, path, "share_outside", optional=True),
            domain_warning=text_of(known, path, "domain_warning", optional=True),
        )
