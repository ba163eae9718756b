"""How the tiles of slides are laid and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storm_clinic.features.execution import ReaderPool
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.features.tiling import ReaderSettings
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters


@dataclass(frozen=True)
class TileReading:
    """What all slides of an extraction have in common on one machine, whatever encodes them.

    Attributes
    ----------
    geometry : TileGeometry
    tissue : TissueParameters
        Where tiles are laid.
    n_readers : int
        Reader processes.
    batch_size : int
        Tiles a batch.
    limits : TimeLimits or None
        After which a slide's readers are taken to hang; None: the defaults.
    """

    geometry: TileGeometry
    tissue: TissueParameters
    n_readers: int
    batch_size: int
    limits: TimeLimits | None = None

    def pool(self, pictures: Path) -> ReaderPool:
        """Start the readers; QC pictures go into a folder."""
        settings = ReaderSettings(
            geometry=self.geometry,
            tissue=self.tissue,
            n_slots=2 * self.n_readers + 2,
            batch_size=self.batch_size,
            pictures=pictures,
        )
        return ReaderPool(self.n_readers, settings, self.limits)
