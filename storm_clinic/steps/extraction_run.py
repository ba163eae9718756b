"""Where slides are extracted: on this machine, or by a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm_clinic.features.extraction import default_readers, extract_slides, sweep_store
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.features.slide_result import SlideResult
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.tile_reading import TileReading
from storm_clinic.features.tiling import SlideJob
from storm_clinic.progress import Progress
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters

if TYPE_CHECKING:
    from storm_clinic.encoders.contract import EncoderCard
    from storm_clinic.encoders.encoding import LoadedEncoder
    from storm_clinic.encoders.runtimes import ChosenRuntime
    from storm_clinic.encoders.tuning import Tuning

    Tuned = tuple[LoadedEncoder, Tuning, ChosenRuntime]

# What became of the slides, and what ran, for the run's record.
Extracted = tuple[list[SlideResult], dict[str, Any]]


@dataclass(frozen=True)
class Way:
    """How slides are extracted, wherever that is done."""

    geometry: TileGeometry
    tissue: TissueParameters
    runtime: str
    precision: str | None
    readers: int | None
    batch_size: int | None
    limits: TimeLimits | None

    def tuned(self, loaded: LoadedEncoder) -> Tuned:
        """The encoder as it will be used, and what was chosen for it."""
        from storm_clinic.encoders.runtimes import use_runtime, watched
        from storm_clinic.encoders.tuning import Tuning, tune

        loaded, chosen = use_runtime(
            loaded, self.runtime, precision=self.precision, batch_size=self.batch_size
        )
        # Whoever names a batch size gets the network as it is, in batches of just that size.
        tuning = Tuning(self.batch_size) if self.batch_size else None
        if tuning is None:
            loaded, tuning = tune(loaded, self.geometry.tile_px)
        return watched(loaded), tuning, chosen


def extract_here(
    tuned: Tuned,
    jobs: Sequence[SlideJob],
    store: FeatureStore,
    way: Way,
    *,
    progress: Progress | None,
) -> Extracted:
    """Extract on this machine; see `extract_slides`."""
    loaded, tuning, chosen = tuned
    reading = TileReading(
        way.geometry,
        way.tissue,
        way.readers or default_readers(loaded.device.type),
        tuning.batch_size,
        way.limits,
    )
    results = extract_slides(jobs, loaded, store, reading, progress=progress)
    ran = {"readers": reading.n_readers, **asdict(tuning), **asdict(chosen), **_machine(loaded)}
    return results, ran


def extract_on_cluster(
    cluster: tuple[str, str],
    jobs: Sequence[SlideJob],
    store: FeatureStore,
    way: Way,
    card: EncoderCard,
    weights: Path | None,
    *,
    progress: Progress | None,
) -> Extracted:
    """Extract on a Ray cluster, given as its address and "auto", "cuda" or "cpu"."""
    import torch

    from storm_clinic.features.ray_actor import ActorShare, SharedWork
    from storm_clinic.features.ray_cluster import connected
    from storm_clinic.features.ray_execution import extract_on_ray

    address, device = cluster
    sweep_store(store)
    with connected(address) as ray:
        share = ActorShare.of(ray, threads=torch.get_num_threads(), device=device)
        work = SharedWork(
            load=partial(_load_in_actor, card, None if weights is None else weights.resolve(), way),
            folder=store.folder.resolve(),
            contract=store.contract,
            geometry=way.geometry,
            tissue=way.tissue,
            share=share,
            n_readers=way.readers,
            limits=way.limits,
        )
        results = extract_on_ray(ray, [_absolute(job) for job in jobs], work, progress=progress)
    return results, {
        "ray": address,
        "readers": way.readers,
        "batch_size": way.batch_size,
        "runtime": way.runtime,
        "precision": way.precision,
        "device": "cuda" if share.gpu else "cpu",
        "cores_per_actor": share.cores,
    }


def _load_in_actor(
    card: EncoderCard, weights: Path | None, way: Way, device: str
) -> tuple[LoadedEncoder, int]:
    from storm_clinic.encoders.hub import load_encoder

    loaded, tuning, _ = way.tuned(load_encoder(card, weights=weights, device=device))
    return loaded, tuning.batch_size


def _absolute(job: SlideJob) -> SlideJob:
    mask = None if job.mask is None else job.mask.resolve()
    return replace(job, path=job.path.resolve(), mask=mask)


def _machine(loaded: LoadedEncoder) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else None
    return {
        "device": str(loaded.device),
        "device_name": name,
        "precision": loaded.precision,
        "torch_threads": torch.get_num_threads(),
    }
