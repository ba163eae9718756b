"""Where the features of slides to be scored come from: a store as it is, or an extraction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storm_clinic.errors import InputError
from storm_clinic.features.contract import CONTRACT_NAME, FeatureContract
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace
from storm_clinic.progress import Progress

if TYPE_CHECKING:
    from storm_clinic.steps.extraction import ExtractionResult


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
    """

    store: FeatureStore | None
    slide_ids: list[str]
    failed: Mapping[str, str]


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
    """

    weights: Path | None = None
    mpp: float | None = None
    device: str = "auto"


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
    result = _extract(source, contract, cohort, extraction, workspace, progress)
    failed = {
        slide.slide_id: slide.reason or "failed"
        for slide in result.slides
        if slide.status == "failed"
    }
    return FoundSlides(result.store, [slide.slide_id for slide in result.slides], failed)


def _extract(
    source: Path,
    contract: FeatureContract,
    cohort: str,
    extraction: Extraction,
    workspace: Workspace,
    progress: Progress | None,
) -> ExtractionResult:
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
        device=extraction.device,
        progress=progress,
    )
