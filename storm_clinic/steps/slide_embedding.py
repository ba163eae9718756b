"""The verb `features embed`: stored tile features to one embedding a slide."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.run_record import failures_table, write_failures, write_run_record
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.slide_result import SlideResult, failed_slide
from storm_clinic.features.store import FeatureContract, FeatureStore
from storm_clinic.files import Workspace, digest_value
from storm_clinic.licence_terms import joined
from storm_clinic.progress import Progress

if TYPE_CHECKING:
    from storm_clinic.encoders.slide_contract import SlideEncoderCard
    from storm_clinic.encoders.slide_encoding import LoadedSlideEncoder


@dataclass(frozen=True, eq=False)
class SlideEmbeddingResult:
    """What embedding a cohort's slides did.

    Attributes
    ----------
    store : FeatureStore
        Where the embeddings are, one row a file.
    slides : tuple of SlideResult
        Every slide of the tile store, sorted by id.
    seconds : float
        Wall time without loading the encoder.
    record_path : Path or None
        The run's record, if anything was done.
    """

    store: FeatureStore
    slides: tuple[SlideResult, ...]
    seconds: float
    record_path: Path | None = None

    def count(self, status: str) -> int:
        """Slides that were "written", "unchanged" or "failed"."""
        return sum(slide.status == status for slide in self.slides)

    @property
    def failures(self) -> pd.DataFrame:
        """One row a slide that failed: ``slide_id, path, error, reason``."""
        return failures_table(self.slides)

    @property
    def exit_code(self) -> int:
        """0 if no slide failed, else 3."""
        return 3 if self.count("failed") else 0


def embed_slides(
    cohort: str,
    *,
    encoder: str,
    slide_encoder: str | SlideEncoderCard,
    workspace: Workspace | None = None,
    weights: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> SlideEmbeddingResult:
    """Apply a slide encoder to stored tile features, into ``features/<cohort>/<slide encoder>/``.

    Each file holds ``features`` of shape (1, width). A slide whose tile features are those that
    its file was made from is left alone. A slide that fails is listed and does not stop the others.

    Parameters
    ----------
    cohort : str
        Whose slides.
    encoder : str
        Tile encoder whose store is read, ``features/<cohort>/<encoder>/``.
    slide_encoder : str or SlideEncoderCard
        Name of a slide encoder, or its facts.
    workspace : Workspace, optional
        Default: the current folder.
    weights : Path, optional
        File or folder with the slide encoder's weights.
    device : str
        "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".
    progress : function, optional
        Called with "slides", how many are done and how many there are.

    Raises
    ------
    FeatureError
        If there is no such store, or it holds no slide.
    ContractMismatch
        If its tiles are not those that the slide encoder wants, or the slide encoder's own store
        was made in another way; names each field with both values.
    EncoderError
        If the slide encoder cannot be had.
    StorageError
        If the disk is full or may not be written.
    """
    from storm_clinic.encoders.catalogue import find_slide_card

    workspace = workspace or Workspace()
    card = find_slide_card(slide_encoder) if isinstance(slide_encoder, str) else slide_encoder
    tiles = FeatureStore.open(workspace.store(cohort, encoder))
    require_tiles_of(card, tiles.contract, where=tiles.folder)
    index = tiles.index()
    if index.empty:
        raise FeatureError("the store holds no slide", where=tiles.folder)

    from storm_clinic.encoders.slide_encoding import load_slide_encoder  # torch takes seconds

    loaded = load_slide_encoder(card, weights=weights, device=device)
    store = FeatureStore.create(
        workspace.store(cohort, card.name), _contract(loaded, tiles.contract)
    )
    started, clock = datetime.now(UTC), time.monotonic()
    slides = []
    for done, row in enumerate(index.to_dict("records"), start=1):
        slides.append(_embed_slide(row, tiles, loaded, store))
        if progress is not None:
            progress("slides", done, len(index))
    seconds = time.monotonic() - clock
    settings = {
        "cohort": cohort,
        "encoder": encoder,
        "slide_encoder": card.name,
        "device": str(loaded.device),
        "precision": loaded.precision,
        "contract": store.contract.to_json(),
    }
    record = None
    if any(slide.status != "unchanged" for slide in slides):
        record = write_run_record(
            store.folder, started=started, seconds=seconds, settings=settings, slides=slides
        )
    write_failures(store.folder, slides, None)
    store.index()  # brought up to date now, so that a run that does nothing writes nothing
    return SlideEmbeddingResult(store, tuple(slides), seconds, record)


def require_tiles_of(
    card: SlideEncoderCard, contract: FeatureContract, *, where: str | Path
) -> None:
    """Refuse tiles that a slide encoder was not made for.

    Raises
    ------
    ContractMismatch
        Naming every field that differs with both values: the store's, then the one wanted.
    """
    wanted: Mapping[str, Any] = {
        "encoder": card.tile_encoder,
        "width": card.tile_width,
        "mpp": card.mpp,
        "tile_px": card.tile_px,
        "overlap_px": 0,
    }
    found = [
        f"{name} is {getattr(contract, name)!r}, not {value!r}"
        for name, value in wanted.items()
        if getattr(contract, name) != value
    ]
    if found:
        raise ContractMismatch(
            f"these are not the tiles that {card.name} takes: {'; '.join(found)}",
            where=where,
            fix=f"Extract {card.tile_encoder} features of {card.tile_px} px at {card.mpp:g} µm/px "
            "without overlap first.",
        )


def _contract(loaded: LoadedSlideEncoder, tiles: FeatureContract) -> FeatureContract:
    card = loaded.card
    return FeatureContract(
        encoder=card.name,
        encoder_digest=loaded.digest,
        width=card.width,
        mpp=tiles.mpp,
        tile_px=tiles.tile_px,
        overlap_px=tiles.overlap_px,
        dtype="float32",
        provenance="embedded",
        pooling=card.pooling,
        tissue=tiles.tissue,
        source_digest=tiles.digest,
        licence=joined(card.licence, tiles.licence),
    )


def _embed_slide(
    row: Mapping[Any, Any], tiles: FeatureStore, loaded: LoadedSlideEncoder, store: FeatureStore
) -> SlideResult:
    slide_id, path = row["slide_id"], tiles.folder / f"{row['slide_id']}.h5"
    try:
        if row["problem"] is not None:
            raise FeatureError(row["problem"], where=path)
        source = tiles_digest(row)
        if _made_from(store, slide_id, source):
            return SlideResult(slide_id, path, "unchanged")
        store.write(_embedded(tiles.read(slide_id), tiles.contract, loaded, source))
    except FeatureError as error:
        return failed_slide(slide_id, path, error)
    return SlideResult(slide_id, path, "written", n_tiles=row["n_tiles"])


def tiles_digest(row: Mapping[Any, Any]) -> str:
    """Digest of a slide's tiles, from its row of a store's index: what is made from them names it.

    Coordinates are told in units that depend on the slide's microns per pixel.
    """
    return digest_value([row["features_digest"], row["coords_digest"], str(row["slide_mpp"])])


def _made_from(store: FeatureStore, slide_id: str, source: str) -> bool:
    """Whether the store holds that slide, made from just these tile features."""
    if not store.has(slide_id):
        return False
    try:
        return store.read(slide_id).source_digest == source
    except FeatureError:
        return False  # damaged: it is made again


def _embedded(
    slide: SlideFeatures, contract: FeatureContract, loaded: LoadedSlideEncoder, source: str
) -> SlideFeatures:
    pitch = None
    if slide.slide_mpp and contract.mpp and contract.tile_px:
        pitch = contract.tile_px * contract.mpp / slide.slide_mpp
    try:
        features = loaded.encode(slide.features, slide.coords, pitch)
    except FeatureError as error:
        raise FeatureError(error.problem, where=f"slide {slide.slide_id}", fix=error.fix) from error
    return SlideFeatures(
        slide_id=slide.slide_id,
        features=features,
        slide_digest=slide.slide_digest,
        slide_mpp=slide.slide_mpp,
        slide_mpp_source=slide.slide_mpp_source,
        vendor=slide.vendor,
        source_digest=source,
    )
