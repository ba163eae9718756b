"""STORM's part of `extract`: one file a slide from its stored tile features."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm_clinic.errors import FeatureError, StorageError, StormClinicError
from storm_clinic.features.run_record import slide_entry
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.slide_result import SlideResult, Status, failed_slide
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.features.storm_header import read_header
from storm_clinic.features.storm_writer import SlideStorm, write_storm_file
from storm_clinic.files import remove_dead_parts
from storm_clinic.progress import Progress
from storm_clinic.steps.slide_embedding import tiles_digest
from storm_clinic.steps.storm_origin import is_of_slide
from storm_clinic.steps.storm_plan import StormPlan

if TYPE_CHECKING:
    import torch

    from storm_clinic.features.store import FeatureStore


@dataclass(frozen=True, eq=False)
class StormResult:
    """The STORM files of an extraction.

    Attributes
    ----------
    folder : Path
        Where they are.
    contract : StormContract
    slides : tuple of SlideResult
        Every slide of the run that has tile features, sorted by id.
    warnings : mapping of str to str
        Slides of the run that look unlike the checkpoint's training data, and what was seen.
    seconds : float
        Wall time.
    """

    folder: Path
    contract: StormContract
    slides: tuple[SlideResult, ...]
    seconds: float
    warnings: Mapping[str, str] = field(default_factory=dict)

    def count(self, status: str) -> int:
        """Slides that were "written", "unchanged" or "failed"."""
        return sum(slide.status == status for slide in self.slides)

    def record(self) -> dict[str, Any]:
        """For the run's record."""
        counts = Counter(slide.status for slide in self.slides)
        return {
            "contract": asdict(self.contract),
            "seconds": round(self.seconds, 3),
            "counts": {status: counts[status] for status in ("written", "unchanged", "failed")},
            "slides": [slide_entry(slide) for slide in self.slides],
            "out_of_domain": dict(self.warnings),
        }


def make_storm_files(
    plan: StormPlan,
    store: FeatureStore,
    folder: Path,
    contract: StormContract,
    slide_ids: Collection[str],
    *,
    device: torch.device,
    progress: Progress | None = None,
) -> StormResult:
    """Make the STORM file of every slide from its stored tile features.

    A file that was made from the same tiles of the same slide is left alone; a slide that fails is
    listed and does not stop the others.

    Parameters
    ----------
    plan : StormPlan
        What to make.
    store : FeatureStore
        Of the tiles.
    folder : Path
        Where the files go.
    contract : StormContract
        What the folder was held to by `settle_storm`.
    slide_ids : collection of str
        Slides of the store.
    device : torch.device
        Where the network runs.
    progress : function, optional
        Called with "STORM", how many slides are done and how many there are.

    Raises
    ------
    StorageError
        If the disk is full or may not be written.
    """
    plan.checkpoint.model.to(device)
    index = store.index().set_index("slide_id", drop=False)
    clock = time.monotonic()
    results, warnings = [], {}
    for done, slide_id in enumerate(sorted(slide_ids), start=1):
        path = folder / f"{slide_id}.h5"
        try:
            status, n_tiles = _make(plan, store, contract, index.loc[slide_id].to_dict(), path)
            warning = read_header(path).domain_warning
            if warning is not None:
                warnings[slide_id] = warning
            results.append(SlideResult(slide_id, path, status, n_tiles=n_tiles))
        except StorageError:
            raise  # the next slide would meet the same full disk
        except StormClinicError as error:
            results.append(failed_slide(slide_id, path, error))
        if progress is not None:
            progress("STORM", done, len(slide_ids))
    return StormResult(folder, contract, tuple(results), time.monotonic() - clock, warnings)


def _make(
    plan: StormPlan, store: FeatureStore, contract: StormContract, row: dict[Any, Any], path: Path
) -> tuple[Status, int]:
    if row["problem"] is not None:
        raise FeatureError(row["problem"], where=store.path(row["slide_id"]))
    source = tiles_digest(row)
    if _made_from(path, row, source, contract):
        return "unchanged", 0
    remove_dead_parts(path)
    made = _infer(plan, contract, store.read(row["slide_id"]), source)
    write_storm_file(path, made, contract, plan.genes)
    return "written", len(made.spots)


def _made_from(path: Path, row: dict[Any, Any], source: str, contract: StormContract) -> bool:
    try:
        header = read_header(path)
    except FeatureError:
        return False  # absent or damaged: it is made again
    made_with = header.contract.encoder_digest  # the encoder of STORM files is the checkpoint
    return (
        header.source_digest == source
        and made_with == contract.checkpoint_digest
        and is_of_slide(row, header)  # another file of a slide may have the very same tiles
    )


def _infer(
    plan: StormPlan, contract: StormContract, tiles: SlideFeatures, source: str
) -> SlideStorm:
    from storm_clinic.storm.inference import embed_tiles, slide_expression, tile_expression
    from storm_clinic.storm.model import pool_slide

    if tiles.coords is None or tiles.slide_mpp is None:
        raise FeatureError("says not where its tiles lie", where=f"slide {tiles.slide_id}")
    checkpoint, genes = plan.checkpoint, plan.genes
    centres_um = tiles.coords * tiles.slide_mpp + contract.mpp * contract.tile_px / 2
    spots = embed_tiles(
        checkpoint.model,
        tiles.features,
        centres_um,
        step_um=contract.mpp * (contract.tile_px - contract.overlap_px),
        side=checkpoint.inputs.side,
    )
    made = SlideStorm(
        slide_id=tiles.slide_id,
        spots=spots,
        slide=pool_slide(spots),
        coords=tiles.coords,
        source_digest=source,
        slide_mpp=tiles.slide_mpp,
        slide_digest=tiles.slide_digest,
        slide_mpp_source=tiles.slide_mpp_source,
        vendor=tiles.vendor,
    )
    if genes is not None:
        made = replace(made, expression=slide_expression(checkpoint.model, spots, genes.places))
        if plan.per_tile:
            made = replace(made, tiles=tile_expression(checkpoint.model, spots, genes.places))
    if checkpoint.domain is not None:
        report = checkpoint.domain.judge(tiles.features)
        made = replace(
            made,
            domain_distance=report.distance,
            share_outside=report.share_outside,
            domain_warning=report.warning,
        )
    return made
