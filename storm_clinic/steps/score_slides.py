"""Tile features of slides to be scored: a store as it is, or an extraction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from storm_clinic.errors import InputError
from storm_clinic.features.contract import CONTRACT_NAME, FeatureContract
from storm_clinic.features.slide_result import SlideResult
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace
from storm_clinic.progress import Progress
from storm_clinic.steps.score_storm import StormFiles

if TYPE_CHECKING:
    from storm_clinic.steps.extraction import ExtractionResult
    from storm_clinic.steps.storm_plan import StormPlan


@dataclass(frozen=True, eq=False)
class FoundSlides:
    """Slides with features, and those that have none.

    Attributes
    ----------
    store : FeatureStore, optional
        None where the model sees no images.
        Made as the model's features were.
    slide_ids : list of str
        All slides that were found, those that failed among them; sorted.
    failed : dict of str to str
        Slides that could not be extracted, and why.
    storm : StormFiles, optional
        None where the model sees nothing that STORM made. Made as those it learned from.
    storm_slide_ids, storm_failed
        As ``slide_ids`` and ``failed``, of STORM files.
    """

    store: FeatureStore | None
    slide_ids: list[str]
    failed: Mapping[str, str]
    storm: StormFiles | None = None
    storm_slide_ids: list[str] = field(default_factory=list)
    storm_failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def every_slide(self) -> list[str]:
        """Slides of either kind, sorted."""
        return sorted({*self.slide_ids, *self.storm_slide_ids})


@dataclass(frozen=True)
class Extraction:
    """How slides are to be extracted, beyond what the model fixes.

    Attributes
    ----------
    weights : Path, optional
        File or folder with the encoder's weights.
    mpp : float, optional
        Microns per pixel at level 0 of all these slides, whatever they state.
    device : str
        "auto", "cpu", "cuda", "cuda:1".
    storm : str or Path, optional
        Folder, or name of a shipped one, of the STORM checkpoint that the model learned from; by
        default the shipped one of the model's name.
    runtime : str
        What computes the encoder, see `extract`; embeddings then differ by rounding from torch's.
    """

    weights: Path | None = None
    mpp: float | None = None
    device: str = "auto"
    storm: str | Path | None = None
    runtime: str = "torch"


def find_features(
    source: Path,
    contract: FeatureContract,
    *,
    cohort: str,
    extraction: Extraction,
    workspace: Workspace,
    progress: Progress | None,
) -> FoundSlides:
    """Open a feature store, or extract slides as the model's were.

    Parameters
    ----------
    source : Path
        A store (it holds a ``contract.json``), a slide, or a folder of slides.
    contract : FeatureContract
        How the features that the model learned from were made.
    cohort : str
        Names the store that an extraction writes, ``features/<cohort>/<encoder>/``.
    extraction : Extraction
        Weights, microns per pixel, device.
    workspace : Workspace
        Where an extraction writes.
    progress : callable, optional
        Of the extraction.

    Raises
    ------
    ContractMismatch
        If the features were, or would be, made in another way; names both values.
    InputError
        If there are no slides, or the model's features were not made by this program.
    """
    if not source.exists():
        raise InputError("there is no such file or folder", where=source)
    if (source / CONTRACT_NAME).is_file():
        store = FeatureStore.open(source)
        store.contract.require_same(contract, where=source)
        return FoundSlides(store, store.slide_ids(), {})
    result = extract_alike(
        source,
        contract,
        cohort=cohort,
        extraction=extraction,
        workspace=workspace,
        progress=progress,
    )
    return FoundSlides(
        result.store, [slide.slide_id for slide in result.slides], failures(result.slides)
    )


def failures(slides: Iterable[SlideResult]) -> dict[str, str]:
    """Slides of an extraction that failed, and why."""
    return {s.slide_id: s.reason or "failed" for s in slides if s.status == "failed"}


def extract_alike(
    source: Path,
    contract: FeatureContract,
    *,
    cohort: str,
    extraction: Extraction,
    workspace: Workspace,
    progress: Progress | None,
    storm: StormPlan | None = None,
) -> ExtractionResult:
    """Extract slides as those were that a model learned from; with ``storm`` its files, too.

    Raises
    ------
    ContractMismatch
        If the features would be made in another way; names both values.
    InputError
        If there are no slides, or the model's features were not made by this program.
    """
    if contract.provenance != "extracted":
        raise InputError(
            f"holds no feature store, and features of the model's kind ({contract.encoder}, "
            f"{contract.provenance}) are not extracted from slides by this program",
            where=source,
            fix="Give the folder of a feature store, made as the model's was.",
        )
    # Made first, under the model's contract: an encoder or geometry that differs is then refused
    # before the first slide is read.
    FeatureStore.create(workspace.store(cohort, contract.encoder), contract)
    # OpenSlide and OpenCV come with it, which whoever has a store does not need.
    from storm_clinic.slides.tissue import TissueParameters
    from storm_clinic.steps.extraction import extract

    try:
        tissue = TissueParameters(**contract.tissue)
    except TypeError as error:
        raise InputError(
            f"the model's tissue finder is another than this version's: {error}",
            where=source,
            fix="Extract with the version of storm-clinic that trained the model.",
        ) from error
    return extract(
        source.resolve(),
        cohort=cohort,
        encoder=contract.encoder,
        workspace=workspace,
        weights=extraction.weights,
        mpp=extraction.mpp,
        tile_px=contract.tile_px,
        tile_mpp=contract.mpp,
        overlap_px=contract.overlap_px,
        tissue=tissue,
        storm=storm,
        device=extraction.device,
        runtime=extraction.runtime,
        progress=progress,
    )
