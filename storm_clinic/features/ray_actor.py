"""What one actor of a Ray cluster does, and what it gets of its machine for that."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm_clinic.errors import StormClinicError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.extraction import default_readers, extract_known, sweep_store
from storm_clinic.features.file_writer import package_version
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.features.slide_result import SlideResult
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.tile_reading import TileReading
from storm_clinic.features.tiling import SlideJob, Stored
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters

if TYPE_CHECKING:
    from storm_clinic.encoders.encoding import LoadedEncoder


@dataclass(frozen=True)
class ActorShare:
    """What one actor gets of its machine.

    Attributes
    ----------
    cores : int
        CPU cores; without a GPU also the threads of its encoder.
    gpu : bool
        Whether it has one GPU.
    """

    cores: int
    gpu: bool

    @classmethod
    def of(cls, ray: Any, *, threads: int, device: str) -> ActorShare:
        """What suits a cluster: a GPU each where there are any, else ``threads`` cores each.

        Raises
        ------
        StormClinicError
            If GPUs are asked for and there is none.
        """
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [node for node in found if node.get("GPU", 0) >= 1]
        if device == "cpu" or (device == "auto" and not with_gpu):
            return cls(threads, gpu=False)
        if not with_gpu:
            raise StormClinicError("no machine of the cluster has a GPU", where="ray")
        cores = min(int(node.get("CPU", 0) // node["GPU"]) for node in with_gpu)
        return cls(max(1, cores), gpu=True)

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many actors a machine with these resources holds."""
        by_cores = int(resources.get("CPU", 0) // self.cores)
        return min(by_cores, int(resources.get("GPU", 0))) if self.gpu else by_cores


@dataclass(frozen=True)
class SharedWork:
    """What every actor does in the same way.

    Attributes
    ----------
    load : function
        Takes "cuda" or "cpu"; gives the encoder, and how many tiles a batch has.
    folder : Path
        The store's, absolute, on a disk that all machines share.
    contract : FeatureContract
    geometry, tissue
        How tiles are laid.
    share : ActorShare
    n_readers : int, optional
        Reader processes an actor; default: what suits its share.
    limits : TimeLimits, optional
    """

    load: Callable[[str], tuple[LoadedEncoder, int]]
    folder: Path
    contract: FeatureContract
    geometry: TileGeometry
    tissue: TissueParameters
    share: ActorShare
    n_readers: int | None = None
    limits: TimeLimits | None = None
    version: str = field(default_factory=package_version)


class Extractor:
    """The actor: an encoder, held between parcels of slides."""

    def prepare(self, work: SharedWork) -> None:
        """Load the encoder.

        Raises
        ------
        StormClinicError
            If this machine has another version of this program or of the weights, does not see
            the store, or belongs to a cluster without tokens.
        """
        import torch

        if os.environ.get("RAY_AUTH_MODE") != "token":
            raise StormClinicError(
                "the cluster does without tokens: whoever reaches it may run any program on it",
                where="ray",
                fix="Start Ray with RAY_AUTH_MODE=token on all its machines.",
            )
        if work.version != package_version():
            raise StormClinicError(
                f"storm-clinic is of version {package_version()} there, here {work.version}",
                where="ray",
            )
        self._store = FeatureStore.open(work.folder)
        self._store.contract.require_same(work.contract, where=work.folder)
        sweep_store(self._store)
        device = "cuda" if work.share.gpu else "cpu"
        if not work.share.gpu:
            torch.set_num_threads(work.share.cores)  # or sums come out in another order
        self._encoder, batch_size = work.load(device)
        if self._encoder.digest != work.contract.encoder_digest:
            raise StormClinicError("the encoder's weights are others there", where="ray")
        self._reading = TileReading(
            work.geometry,
            work.tissue,
            work.n_readers or default_readers(device, work.share.cores),
            batch_size,
            work.limits,
        )

    def extract(self, jobs: Sequence[SlideJob], stored: Mapping[str, Stored]) -> list[SlideResult]:
        """Extract some slides; see `extract_known`."""
        return extract_known(jobs, stored, self._encoder, self._store, self._reading)
