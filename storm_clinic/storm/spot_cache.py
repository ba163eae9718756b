"""Embeddings of a section's spots, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.errors import SectionError
from storm_clinic.files import (
    Workspace,
    atomic_write,
    digest_bytes,
    digest_file,
    digest_value,
    remove_dead_parts,
    safe_name,
)
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.spot_images import embed_views
from storm_clinic.storm.tile_views import TileView

_NAME = "image"


def spots_folder(workspace: Workspace, encoder: LoadedEncoder) -> Path:
    """Where a workspace keeps an encoder's embeddings of spots; all verbs share them."""
    return workspace.root / "storm" / "spots" / encoder.card.name


def cached_embeddings(
    section: PairedSection, encoder: LoadedEncoder, *, tile_um: float, folder: Path
) -> NDArray[np.float32]:
    """As `embed_spots`, from disk where the very same was computed before; see `cached_views`."""
    views = [TileView()]
    [embedded] = cached_views(section, encoder, views, tile_um=tile_um, folder=folder)
    return np.asarray(embedded)


def cached_views(
    section: PairedSection,
    encoder: LoadedEncoder,
    views: Sequence[TileView],
    *,
    tile_um: float,
    folder: Path,
) -> NDArray[np.float32]:
    """As `embed_views`, from disk where the very same was computed before.

    A file is found by the encoder's weights, precision and runtime, the looks, ``tile_um``, the
    image's bytes, its scale and the spots' places; if any of these changes, so does its name.

    Parameters
    ----------
    section, encoder, views, tile_um
        See `embed_views`.
    folder : Path
        Holds one file a section.

    Raises
    ------
    SectionError, SlideError
        As `embed_views`, or if a kept file is damaged.
    """
    if section.image is None:
        raise SectionError("has no image", where=f"section {section.name}")
    if not section.image.is_file():
        raise SectionError("its image is missing", where=section.image)
    places = digest_bytes(np.ascontiguousarray(section.centres_px, dtype="<f8").tobytes())
    key = digest_value(
        [
            encoder.digest,
            encoder.precision,
            encoder.runtime,
            [asdict(view) for view in views],
            tile_um,
            digest_file(section.image),
            section.mpp,
            places,
        ]
    )
    name = safe_name(f"{section.name}-{key[:24]}", what="section")
    path = folder / f"{name}.safetensors"
    if path.exists():
        try:
            found: NDArray[np.float32] = load_file(path)[_NAME]
        except (SafetensorError, OSError, KeyError) as error:
            raise SectionError(
                f"kept embeddings cannot be read: {error}", where=path, fix="Remove the file."
            ) from error
        return found
    embedded = embed_views(section, encoder, views, tile_um=tile_um)
    remove_dead_parts(path)
    with atomic_write(path) as part:
        part.write_bytes(save({_NAME: embedded}))  # save_file would let nobody else read it
    return embedded
