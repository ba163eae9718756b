"""The verb `extract`: slides to feature files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from storm_clinic.errors import InputError
from storm_clinic.features.extraction import PICTURES
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.features.run_record import failures_table, write_failures, write_run_record
from storm_clinic.features.shard import Shard
from storm_clinic.features.slide_result import SlideResult
from storm_clinic.features.store import FeatureContract, FeatureStore
from storm_clinic.files import Workspace
from storm_clinic.progress import Progress
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.steps.contact_sheets import write_contact_sheets
from storm_clinic.steps.extraction_run import Way, extract_here, extract_on_cluster
from storm_clinic.steps.slide_listing import list_slides
from storm_clinic.steps.storm_extraction import StormResult, make_storm_files
from storm_clinic.steps.storm_plan import (
    StormChoice,
    StormPlan,
    plan_storm,
    require_encoder,
    settle_storm,
    storm_geometry,
)

if TYPE_CHECKING:
    from storm_clinic.encoders.contract import EncoderCard
    from storm_clinic.encoders.encoding import LoadedEncoder

# The one whose weights come with pip and whose licence lets anybody use them.
DEFAULT_ENCODER = "efficientnet-lite0"


@dataclass(frozen=True, eq=False)
class ExtractionResult:
    """What an extraction did.

    Attributes
    ----------
    store : FeatureStore
        Where the features are.
    slides : tuple of SlideResult
        Every slide of this run, sorted by id.
    seconds : float
        Wall time without loading the encoder.
    left_out : mapping of str to str
        Slides of the table that are not of the cohort, and why.
    ignored : mapping of str to int
        Files in the searched folders that are no slides: suffix and how many.
    storm : StormResult or None
        What became of the STORM files, where they were asked for.
    failures_path, record_path : Path or None
        The table of failures, if any slide failed; the run's record, if anything was done.
    """

    store: FeatureStore
    slides: tuple[SlideResult, ...]
    seconds: float
    left_out: Mapping[str, str]
    ignored: Mapping[str, int]
    storm: StormResult | None = None
    failures_path: Path | None = None
    record_path: Path | None = None

    def count(self, status: str) -> int:
        """Slides that were "written", "unchanged" or "failed"."""
        return sum(slide.status == status for slide in self.slides)

    @property
    def n_tiles(self) -> int:
        """Tiles written in this run."""
        return sum(slide.n_tiles for slide in self.slides)

    @property
    def failures(self) -> pd.DataFrame:
        """One row a slide that failed: ``slide_id, path, error, reason``.

        A slide of which tile features were made, but no STORM file, is named by the latter.
        """
        return failures_table(self.every_file)

    @property
    def every_file(self) -> tuple[SlideResult, ...]:
        """What became of tile features, then of STORM files."""
        return self.slides + (() if self.storm is None else self.storm.slides)

    @property
    def incomplete(self) -> tuple[SlideResult, ...]:
        """Slides that were written without some tiles, which could not be read."""
        return tuple(slide for slide in self.slides if slide.n_failed_tiles)

    @property
    def exit_code(self) -> int:
        """0 if no slide failed, else 3."""
        return 3 if any(file.status == "failed" for file in self.every_file) else 0


def extract(
    source: str | Path | Sequence[str | Path] | None = None,
    *,
    cohort: str,
    encoder: str | EncoderCard | None = None,
    storm: str | Path | StormChoice | StormPlan | None = None,
    workspace: Workspace | None = None,
    weights: Path | None = None,
    mpp: float | None = None,
    masks: Path | None = None,
    tile_px: int | None = None,
    tile_mpp: float | None = None,
    overlap_px: int | None = None,
    tissue: TissueParameters | None = None,
    device: str = "auto",
    runtime: str = "torch",
    precision: str | None = None,
    readers: int | None = None,
    batch_size: int | None = None,
    shard: Shard | None = None,
    ray: str | None = None,
    limits: TimeLimits | None = None,
    progress: Progress | None = None,
) -> ExtractionResult:
    """Turn slides into feature files, one a slide, in ``features/<cohort>/<encoder>/``.

    Slides that are there already, made in the same way from the same file, are left alone: a run
    that was interrupted is taken up again by repeating it. A slide that fails is listed and does
    not stop the others.

    Parameters
    ----------
    source : path or paths, optional
        Slides, and folders that are searched for slides. The file's name without its suffix is
        the slide's id. Without it, the slides are those of the cohort's slides table.
    cohort : str
        Name of the store's folder; if ``cohorts/<cohort>/cohort.yaml`` exists, the microns per
        pixel that its slides table states are used.
    encoder : str or EncoderCard, optional
        Name of an encoder, or its facts; default: the checkpoint's, else "efficientnet-lite0".
    storm : str, Path, StormChoice or StormPlan, optional
        Name or folder of a STORM checkpoint: tiles are laid on its grid, and its files are made of
        them in ``features/<cohort>/<checkpoint>/``. `StormChoice` picks genes, and whether every
        tile's expression is stored; a `StormPlan` is one that was read already.
    workspace : Workspace, optional
        Default: the current folder.
    weights : Path, optional
        File or folder with the encoder's weights; default: those that the STORM checkpoint brings,
        else from the encoder's package or the hub.
    mpp : float, optional
        Microns per pixel at level 0 of all these slides, whatever they or the table state.
    masks : Path, optional
        Folder of tissue masks, ``<slide id>.png`` or ``.tif``; slides without one get the tissue
        finder.
    tile_px, tile_mpp : int, float, optional
        Side of a tile and its microns per pixel as read; default: what the encoder wants.
    overlap_px : int, optional
        Overlap of neighbouring tiles, below 0 a gap; default: none, or the checkpoint's.
    tissue : TissueParameters, optional
        How tissue is found.
    device : str
        "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".
    runtime : str
        What computes the network: "torch", "onnxruntime", "openvino", or "auto", which is the
        fastest that is installed and gives torch's numbers to 1e-5. Only torch's bytes are those
        of stores made before.
    precision : str, optional
        "fp32" or "bf16"; default: the card's on a GPU, fp32 on a CPU. The run ends if bf16 moves
        embeddings of the first tiles too far.
    readers : int, optional
        Reader processes; default: what suits the machine.
    batch_size : int, optional
        Tiles a batch; default: what suits encoder and device. On a GPU the largest that fits is
        then searched, and the network is compiled if that is measured to be faster.
    shard : Shard, optional
        Take only this part of the slides.
    ray : str, optional
        Share the work out on a Ray cluster: its address, "auto", or "local" for one on this
        machine; see `storm_clinic.features.ray_cluster.connected`. Slides, weights and workspace
        must lie where all its machines see them under the same paths. ``readers`` is then of each
        actor, ``device`` "auto", "cpu" or "cuda".
    limits : TimeLimits, optional
        After which a slide's readers are taken to hang.
    progress : function, optional
        Called with "slides" or "tiles", how many are done and how many there are.

    Raises
    ------
    InputError
        If no slide is found, two files would have the same id, genes that are asked for are
        unknown or without evidence, or runtime or precision is unknown.
    CohortError
        If the cohort's tables are wrong or name no slide files.
    CheckpointError
        If the STORM checkpoint cannot be had.
    EncoderError
        If the encoder cannot be had or fails.
    ContractMismatch
        If the store holds features that were made in another way, or a STORM checkpoint wants
        another encoder or grid than is asked for; with both values.
    StorageError
        If the disk is full or may not be written.
    StormClinicError
        If the Ray cluster cannot be used.
    """
    workspace = workspace or Workspace()
    _require_cluster_wide(ray, device, runtime)
    _require_at_least_one(readers=readers, batch_size=batch_size, tile_px=tile_px)
    listing = list_slides(source, cohort, workspace, mpp=mpp, masks=masks)
    if shard is not None:
        listing = listing.part(shard)

    from storm_clinic.encoders.hub import load_encoder  # torch takes seconds; bad input comes first

    plan = None
    if storm is not None:
        plan = _planned(storm)
        encoder = encoder or plan.checkpoint.inputs.encoder
        require_encoder(plan, encoder if isinstance(encoder, str) else encoder.name)
        weights = weights or plan.encoder_weights
    loaded = load_encoder(
        encoder or DEFAULT_ENCODER, weights=weights, device="cpu" if ray else device
    )
    card = loaded.card
    if plan is None:
        geometry = TileGeometry(tile_px or card.tile_px, tile_mpp or card.mpp, overlap_px or 0)
    else:
        require_encoder(plan, card.name, loaded.digest)
        asked = {"tile_px": tile_px, "tile_mpp": tile_mpp, "overlap_px": overlap_px}
        geometry = storm_geometry(plan, card, **asked)
    tissue = tissue or TissueParameters()
    store = FeatureStore.create(
        workspace.store(cohort, card.name), _contract(loaded, geometry, tissue)
    )
    if plan is not None:  # said before hours of work, not after
        folder = workspace.store(cohort, plan.name)
        contract = settle_storm(plan, geometry, store, folder)
    settings = {
        "cohort": cohort,
        "shard": str(shard) if shard else None,
        "mpp_override": mpp,
        "masks": sum(job.mask is not None for job in listing.jobs),
    }
    way = Way(geometry, tissue, runtime, precision, readers, batch_size, limits)
    if ray is None:
        run = partial(extract_here, way.tuned(loaded), listing.jobs, store, way)
    else:
        run = partial(extract_on_cluster, (ray, device), listing.jobs, store, way, card, weights)
    started, clock = datetime.now(UTC), time.monotonic()
    results, ran = run(progress=progress)
    settings |= ran
    seconds = time.monotonic() - clock
    slides = tuple(sorted([*listing.refused, *results], key=lambda slide: slide.slide_id))
    made = None
    if plan is not None:
        usable = [slide.slide_id for slide in slides if slide.status != "failed"]
        made = make_storm_files(
            plan, store, folder, contract, usable, device=loaded.device, progress=progress
        )
    result = ExtractionResult(store, slides, seconds, listing.left_out, listing.ignored, made)
    return _recorded(result, started, settings, shard)


def _planned(storm: str | Path | StormChoice | StormPlan) -> StormPlan:
    if isinstance(storm, StormPlan):
        return storm
    return plan_storm(storm if isinstance(storm, StormChoice) else StormChoice(storm))


def _require_cluster_wide(ray: str | None, device: str, runtime: str) -> None:
    if ray is None:
        return
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"{device!r} names one of several; a cluster deals its devices out itself",
            where="device",
            fix="Use auto, cpu or cuda.",
        )
    if runtime == "auto":
        raise InputError(
            "'auto' may choose another on each machine, and bytes would differ",
            where="runtime",
            fix="Name one that all machines of the cluster have.",
        )


def _require_at_least_one(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"must be at least 1, is {count}", where=name)


def _contract(
    loaded: LoadedEncoder, geometry: TileGeometry, tissue: TissueParameters
) -> FeatureContract:
    card = loaded.card
    return FeatureContract(
        encoder=card.name,
        encoder_digest=loaded.digest,
        width=card.width,
        mpp=geometry.mpp,
        tile_px=geometry.tile_px,
        overlap_px=geometry.overlap_px,
        pooling=card.pooling,
        tissue=tissue.as_dict(),
        licence=card.licence,
    )


def _recorded(
    result: ExtractionResult, started: datetime, settings: dict[str, Any], shard: Shard | None
) -> ExtractionResult:
    """Leave table and record beside the store; a run that did nothing leaves nothing."""
    folder, slides = result.store.folder, result.slides
    record = None
    if any(file.status != "unchanged" for file in result.every_file):
        extra = {
            "contract": result.store.contract.to_json(),
            "left_out": dict(result.left_out),
            "files_ignored": dict(result.ignored),
        }
        record = write_run_record(
            folder,
            started=started,
            seconds=result.seconds,
            settings=settings | extra,
            slides=slides,
            storm=None if result.storm is None else result.storm.record(),
        )
        write_contact_sheets(folder / PICTURES, slides, shard)
    failures = write_failures(folder, result.every_file, shard)
    result.store.index()  # brought up to date now, so that a run that does nothing writes nothing
    return replace(result, failures_path=failures, record_path=record)
