"""Where the tiles of a model's inputs lie: those of the image in one store, of STORM in another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_store import StormStore
from storm_clinic.steps.study_patients import StudyPatients
from storm_clinic.study import FROM_STORM


@dataclass(frozen=True, eq=False)
class TileLayout:
    """Where one slide's tiles lie, as far as it is known; their embeddings are not needed.

    Attributes
    ----------
    slide_id : str
    n_tiles : int
    coords : int64 array, shape (n_tiles, 2), optional
        Top-left corners, level-0 px.
    slide_mpp : float, optional
        µm per level-0 px.
    side_px : float, optional
        Side of a tile, level-0 px.
    """

    slide_id: str
    n_tiles: int
    coords: NDArray[np.int64] | None
    slide_mpp: float | None
    side_px: float | None

    def lies_as(self, other: TileLayout) -> bool:
        """Whether these are the same tiles of the same slide, as far as that is known."""
        if self is other:
            return True
        if self.slide_id != other.slide_id or self.coords is None or other.coords is None:
            return False
        sizes = (self.side_px, self.slide_mpp) == (other.side_px, other.slide_mpp)
        return sizes and np.array_equal(self.coords, other.coords)


@dataclass(frozen=True, eq=False)
class TileSource:
    """The files from which an input's bags were packed.

    Attributes
    ----------
    store : FeatureStore or StormStore
    slide_ids : tuple of tuple of str
        Slides of each patient, in the order in which their tiles lie in the bag.
    """

    store: FeatureStore | StormStore
    slide_ids: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, patients: StudyPatients, input_name: str) -> TileSource:
        """That of ``image``, or of what STORM made of tiles; the study must read it."""
        if input_name in FROM_STORM:
            assert patients.storm is not None
            return cls(patients.storm, patients.storm_slide_ids)
        assert patients.store is not None
        return cls(patients.store, patients.slide_ids)

    def layouts(self, at: int) -> tuple[TileLayout, ...]:
        """Of the slides of the patient at this position.

        Raises
        ------
        FeatureError
            If a file is absent or damaged.
        """
        tile_um, found = self.store.contract.tile_um, []
        for slide_id in self.slide_ids[at]:
            slide = self.store.read(slide_id)
            side_px = tile_um / slide.slide_mpp if tile_um and slide.slide_mpp else None
            found.append(
                TileLayout(slide_id, slide.n_tiles, slide.coords, slide.slide_mpp, side_px)
            )
        return tuple(found)
