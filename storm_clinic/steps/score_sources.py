"""Which stores, or slides, a request names: tile features, STORM files, or both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from storm_clinic.bundle import StormInput
from storm_clinic.errors import InputError
from storm_clinic.features.contract import CONTRACT_NAME, FeatureContract
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.files import Workspace
from storm_clinic.progress import Progress
from storm_clinic.steps.score_slides import (
    Extraction,
    FoundSlides,
    extract_alike,
    failures,
    find_features,
)
from storm_clinic.steps.score_storm import StormFiles, holds_storm_files
from storm_clinic.steps.scorer import Scorer
from storm_clinic.steps.storm_origin import of_other_origin

if TYPE_CHECKING:
    from storm_clinic.steps.storm_plan import StormPlan

_STORE_OF_NOBODY = "scored"  # where slides are extracted to that belong to no declared cohort


def find_slides(
    scorer: Scorer,
    source: str | Path | None,
    *,
    cohort: str | None,
    extraction: Extraction,
    workspace: Workspace,
    progress: Progress | None,
) -> FoundSlides:
    """Open what a source names of what the model sees of slides, or make it of slides.

    Parameters
    ----------
    scorer : Scorer
        What it sees: tile features, what STORM made of them, both, or neither.
    source : path, optional
        A slide or a folder of slides; a store of tile features; a folder of STORM files; or the
        folder in which both lie, by the names of encoder and checkpoint. Of two stores one may be
        named: the other lies beside it. Without a source they are the cohort's.
    cohort : str, optional
        Whose stores are read or written.
    extraction : Extraction
        How slides are extracted, beyond what the model fixes.
    workspace : Workspace
        Where stores lie, and an extraction writes.
    progress : callable, optional
        Of an extraction.

    Raises
    ------
    ContractMismatch
        If something was, or would be, made in another way than the model learned from; names both
        values.
    InputError
        If there is no source, one that is not needed, or one that does not hold what is needed.
    FeatureError
        If a store cannot be read.
    """
    at = None if source is None else workspace.path(source)
    if not scorer.sees_images and not scorer.storm_inputs:
        if at is not None:
            raise InputError(
                "is not needed: the model sees no images", where=source, fix="Leave it out."
            )
        return FoundSlides(None, [], {})
    if at is None and cohort is None:
        raise InputError(
            "the model sees images: name a folder of slides, a feature store, or a cohort",
            where="slides",
        )
    if extraction.storm is not None and not scorer.storm_inputs:
        raise InputError(
            "is not needed: the model sees nothing that STORM made",
            where="--storm",
            fix="Leave it out.",
        )
    find = _Find(scorer, cohort, extraction, workspace, progress)
    if not scorer.storm_inputs:
        return find.features(at)
    folders = find.cohorts_stores if at is None else find.stores_at(at)
    if folders is not None:
        return find.opened(folders)
    assert at is not None  # a cohort always has its stores' names
    return find.made_of_slides(at)


@dataclass(frozen=True)
class _Folders:
    """Of tile features, where the model sees them, and of STORM files."""

    image: Path | None
    storm: Path


@dataclass(frozen=True)
class _Find:
    """What all ways to find slides share."""

    scorer: Scorer
    cohort: str | None
    extraction: Extraction
    workspace: Workspace
    progress: Progress | None

    @property
    def written_to(self) -> str:
        """The cohort under whose name an extraction's stores lie."""
        return self.cohort or _STORE_OF_NOBODY

    @property
    def cohorts_stores(self) -> _Folders:
        image = self.scorer.contract
        return _Folders(
            None if image is None else self._store(image.encoder), self._store(self._storm.encoder)
        )

    def features(self, at: Path | None) -> FoundSlides:
        """Tile features alone."""
        contract = self.scorer.contract
        assert contract is not None
        return find_features(
            at or self._store(contract.encoder),
            contract,
            cohort=self.written_to,
            extraction=self.extraction,
            workspace=self.workspace,
            progress=self.progress,
        )

    def stores_at(self, at: Path) -> _Folders | None:
        """The stores that a folder names; None where it holds none, but maybe slides."""
        if not at.exists():
            raise InputError("there is no such file or folder", where=at)
        image, checkpoint = self.scorer.contract, self._storm.encoder
        if holds_storm_files(at):
            return _Folders(None if image is None else at.parent / image.encoder, at)
        if (at / CONTRACT_NAME).is_file():
            if image is None:
                raise InputError(
                    f"holds tile features, and the model sees what {checkpoint} made of them",
                    where=at,
                    fix=f"Give the folder of STORM files, such as {at.parent / checkpoint}.",
                )
            return _Folders(at, at.parent / checkpoint)
        if (at / checkpoint).is_dir():
            return _Folders(None if image is None else at / image.encoder, at / checkpoint)
        return None

    def opened(self, folders: _Folders) -> FoundSlides:
        """Stores as they are, held to what the model learned from."""
        scorer = self.scorer
        found = FoundSlides(None, [], {})
        if folders.image is not None:
            found = self.features(folders.image)
        genes = scorer.virtual_genes or None
        storm = StormFiles.open(folders.storm, self._storm, scorer.storm_inputs, genes=genes)
        wrong: dict[str, str] = {}
        if found.store is not None:
            wrong = of_other_origin(found.store, storm.folder, storm.headers())
        return replace(found, storm=storm, storm_slide_ids=storm.slide_ids(), storm_failed=wrong)

    def made_of_slides(self, at: Path) -> FoundSlides:
        """Tile features and STORM files, made as those were that the model learned from."""
        image, tiles = self.scorer.contract, self._tiles_beneath(at)
        plan = self._plan(tiles)
        together = image is None or image.digest == tiles.digest
        found, extraction = FoundSlides(None, [], {}), self.extraction
        if not together:  # STORM's encoder is another than the image's, or its grid
            found, extraction = self.features(at), replace(extraction, weights=None)
        result = extract_alike(
            at,
            tiles,
            cohort=self.written_to,
            extraction=extraction,
            workspace=self.workspace,
            progress=self.progress,
            storm=plan,
        )
        assert result.storm is not None
        slide_ids, failed = [slide.slide_id for slide in result.slides], failures(result.slides)
        if image is not None and together:
            found = FoundSlides(result.store, slide_ids, failed)
        declared = self._declared
        return replace(
            found,
            storm=StormFiles(
                result.storm.folder, self._storm, self.scorer.storm_inputs, declared.evident
            ),
            storm_slide_ids=slide_ids,
            storm_failed={**failures(result.storm.slides), **failed},
        )

    @property
    def _storm(self) -> FeatureContract:
        contract = self.scorer.storm_contract
        assert contract is not None
        return contract

    @property
    def _declared(self) -> StormInput:
        return self.scorer.bundle.manifest.storm_input or StormInput(files=None, tiles=None)

    def _store(self, name: str) -> Path:
        return self.workspace.store(self.written_to, name)

    def _tiles_beneath(self, at: Path) -> FeatureContract:
        if self._declared.files is None or self._declared.tiles is None:
            raise InputError(
                f"holds neither a feature store nor STORM files of {self._storm.encoder}; and the "
                "model does not say how its STORM files were made, so that none can be made here",
                where=at,
                fix="Extract as for the model's development cohorts, and give that folder.",
            )
        return FeatureContract.from_json(self._declared.tiles, where=self.scorer.bundle.folder)

    def _plan(self, tiles: FeatureContract) -> StormPlan:
        """The model's checkpoint, refused if it is another, or would make other files."""
        from storm_clinic.slides.tiles import TileGeometry
        from storm_clinic.steps.storm_plan import StormChoice, plan_storm, storm_contract
        from storm_clinic.storm.shipped import shipped_checkpoints

        declared = self._declared
        files = StormContract.from_json(declared.files, where=self.scorer.bundle.folder)
        if self.extraction.storm is None and files.checkpoint not in shipped_checkpoints():
            raise InputError(
                f"the model sees what the checkpoint {files.checkpoint} made, which does not come "
                "with this package",
                where="--storm",
                fix=f"Give its folder; its digest is {files.checkpoint_digest}.",
            )
        choice = StormChoice(
            self.extraction.storm or files.checkpoint,
            genes=declared.genes or None,
            min_r=files.min_r,
            per_tile=files.per_tile,
        )
        plan = plan_storm(choice, same_as=files)
        assert tiles.tile_px is not None  # extracted tiles state both
        assert tiles.mpp is not None
        geometry = TileGeometry(tiles.tile_px, tiles.mpp, tiles.overlap_px)
        storm_contract(plan, geometry, tiles).require_same(
            files,
            where=f"checkpoint {plan.name}",
            fix="Use the version of storm-clinic with which the model's files were made.",
        )
        return plan
